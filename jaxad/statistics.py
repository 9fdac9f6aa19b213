"""How sure a number is, and whether two detectors, or several, differ in one.

Two things vary. The images of a test set are a sample: another set of as many normal
and as many anomalous images would give other numbers. Resampling keeps the number of
either class, as DeLong's variance does. And a run, made again with another seed or
another start of its coreset, gives another number. Detectors that scored the same
images, and runs that share a seed, are compared pair by pair, which takes out what they
have in common.

No p-value is 0: where a formula would say so, it is the smallest that a permutation
test of as many items could give, or that a float can hold.

References:
  DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or more correlated
  receiver operating characteristic curves, Biometrics 1988; in the form of Sun and Xu,
  IEEE Signal Processing Letters 2014. Efron and Tibshirani, An Introduction to the
  Bootstrap, 1993. McNemar, Psychometrika 1947, exact. Wilcoxon, Biometrics Bulletin
  1945. Holm, Scandinavian Journal of Statistics 1979. Iman and Davenport,
  Communications in Statistics 1980. Demsar, Statistical Comparisons of Classifiers over
  Multiple Data Sets, JMLR 2006.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence

import numpy as np
import scipy  # `scipy.stats` is slow to import, which its first use does
from numpy.typing import ArrayLike

from jaxad.errors import InputError

REPLICATES = 1000
LEVEL = 0.95

Weighted = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two detectors, the second less the first.

    Attributes:
      value: the difference.
      low, high: its confidence interval.
      p_value: two-sided, that there is none.
    """

    value: float
    low: float
    high: float
    p_value: float


# ---- AUROC: DeLong


def delong(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs and how they vary together from test set to test set.

    Args:
      scores: of k detectors on the same n images, [k, n].
      labels: 1 = anomalous, 0 = normal, [n]; two of either at least.

    Returns:
      (AUROCs [k], their covariance [k, k]), float64.

    Raises:
      InputError: shapes do not fit, a score is not finite, or a class has fewer than
        two images.
    """
    scores, labels = np.atleast_2d(np.asarray(scores, np.float64)), np.asarray(labels)
    check(scores, labels)
    anomalous, normal = scores[:, labels == 1], scores[:, labels == 0]
    m, n = anomalous.shape[1], normal.shape[1]
    ranks = scipy.stats.rankdata(np.hstack([anomalous, normal]), axis=1)
    # What share of the other class each image is on the right side of, ties half.
    over = (ranks[:, :m] - scipy.stats.rankdata(anomalous, axis=1)) / n
    under = 1 - (ranks[:, m:] - scipy.stats.rankdata(normal, axis=1)) / m
    covariance = np.atleast_2d(np.cov(over)) / m + np.atleast_2d(np.cov(under)) / n
    return over.mean(axis=1), covariance


def auroc_interval(
    scores: ArrayLike, labels: ArrayLike, level: float = LEVEL
) -> tuple[float, float] | None:
    """Confidence interval of an AUROC, by DeLong's variance of its logit.

    Arguments and errors are those of `delong`, for one detector.

    Returns:
      (low, high) inside (0, 1); None for an AUROC of 0 or 1, of which no sample says
      how it varies.
    """
    values, covariance = delong(scores, labels)
    area, variance = float(values[0]), float(covariance[0, 0])
    if not 0 < area < 1:
        return None
    half = scipy.stats.norm.isf((1 - level) / 2) * math.sqrt(variance)
    half /= area * (1 - area)
    middle = math.log(area / (1 - area))
    low, high = (1 / (1 + math.exp(-(middle + s * half))) for s in (-1, 1))
    return low, high


def auroc_difference(
    first: ArrayLike, second: ArrayLike, labels: ArrayLike, level: float = LEVEL
) -> Difference:
    """DeLong's test of two AUROCs on the same images.

    Args:
      first, second: scores of the detectors, [n].
      labels: as for `delong`.
    """
    (one, other), covariance = delong(np.stack([first, second]), labels)
    value = float(other - one)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    error = math.sqrt(max(float(variance), 0.0))
    if error == 0:
        labels = np.asarray(labels)
        # So few of the ways to give out the labels tell two detectors as far apart.
        least = 2 / math.comb(labels.size, int((labels == 1).sum()))
        p_value = 1.0 if value == 0 else _above_0(min(least, 1.0))
        return Difference(value, value, value, p_value)
    half = float(scipy.stats.norm.isf((1 - level) / 2)) * error
    p_value = float(2 * scipy.stats.norm.sf(abs(value) / error))
    return Difference(value, value - half, value + half, _above_0(p_value))


# ---- Anything else: the bootstrap


def resamples(labels: ArrayLike, count: int, seed: int = 0) -> np.ndarray:
    """Indices of resampled test sets, int [count, n].

    Each draws as many images of either class as there are, with replacement.

    Args:
      labels: 1 = anomalous, 0 = normal, [n].
      count: of test sets.
      seed: of the draws.
    """
    labels, random = np.asarray(labels), np.random.default_rng(seed)
    drawn = []
    for label in (0, 1):
        index = np.flatnonzero(labels == label)
        if len(index):
            drawn.append(index[random.integers(0, len(index), (count, len(index)))])
    return np.concatenate(drawn, axis=1)


def paired_bootstrap(
    metric: Callable[[np.ndarray, np.ndarray], float],
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    *,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> Difference:
    """The difference of a metric, by resampling images that both detectors scored.

    Args:
      metric: `(scores [n], labels [n]) -> float`.
      first, second: scores, float32 [n].
      labels: 1 = anomalous, 0 = normal, [n].

    Returns:
      The interval lies between percentiles of the resampled differences; the p-value
      is twice the share of them on the rarer side of 0, which counts itself in.
    """
    first, second, labels = map(np.asarray, (first, second, labels))
    check(np.stack([first, second]), labels)
    found = np.array(
        [
            metric(second[rows], labels[rows]) - metric(first[rows], labels[rows])
            for rows in resamples(labels, replicates, seed)
        ]
    )
    return _resampled(metric(second, labels) - metric(first, labels), found, level)


def bootstrap_differences(
    first: Weighted,
    second: Weighted,
    labels: ArrayLike,
    *,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Difference | None]:
    """As `paired_bootstrap`, of several metrics that take many test sets at once.

    Args:
      first, second: `(weights float64 [r, n]) -> {metric: [r]}`, of a detector on r
        test sets that have each image so many times, as `jaxad.resampled` makes them.
      labels: 1 = anomalous, 0 = normal, [n].

    Returns:
      Of each metric; None where it is undefined on a resampled set, as pixel metrics
      are where too few images have a mask.

    Raises:
      InputError: a class has fewer than two images.
    """
    weights = resampled_weights(labels, replicates, seed)
    return differences(first(weights), second(weights), level)


def resampled_weights(
    labels: ArrayLike, replicates: int = REPLICATES, seed: int = 0
) -> np.ndarray:
    """How often test sets have each image, float64 [1 + replicates, n].

    The first is the set itself, the others are `resamples` of it.

    Raises:
      InputError: a class has fewer than two images.
    """
    labels = np.asarray(labels)
    check(np.zeros((1, labels.size)), labels)
    weights = np.ones((1 + replicates, labels.size))
    for i, rows in enumerate(resamples(labels, replicates, seed), start=1):
        weights[i] = np.bincount(rows, minlength=labels.size)
    return weights


def differences(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray], level: float = LEVEL
) -> dict[str, Difference | None]:
    """What `bootstrap_differences` gives, of metrics on the sets of
    `resampled_weights`, [1 + replicates] each."""
    found = {}
    for name in first.keys() & second.keys():
        value, *drawn = second[name] - first[name]
        known = np.isfinite([value, *drawn]).all()
        found[name] = _resampled(value, np.array(drawn), level) if known else None
    return found


def _resampled(value: float, found: np.ndarray, level: float) -> Difference:
    tail = (1 - level) / 2
    low, high = np.quantile(found, (tail, 1 - tail))
    rarer = int(min((found <= 0).sum(), (found >= 0).sum()))
    p_value = min(1.0, 2 * (rarer + 1) / (len(found) + 1))
    return Difference(float(value), float(low), float(high), p_value)


def verdicts_p_value(first: ArrayLike, second: ArrayLike) -> float:
    """McNemar's exact test: whether one of two detectors is right more often.

    Args:
      first, second: whether each was right on an image, bool [n].

    Returns:
      The two-sided p-value; 1 where they are right on the same images.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    alone = int((first & ~second).sum()), int((second & ~first).sum())
    if not sum(alone):
        return 1.0
    return _above_0(float(scipy.stats.binomtest(alone[0], sum(alone)).pvalue))


# ---- Runs: means and paired differences


@dataclasses.dataclass(frozen=True)
class Mean:
    """Of what several runs give.

    Attributes:
      value: the mean.
      deviation: the standard deviation of a run, with count - 1; None of one run.
      low, high: the mean's confidence interval, Student's; None likewise.
      count: of the runs.
    """

    value: float
    deviation: float | None
    low: float | None
    high: float | None
    count: int


def mean(values: ArrayLike, level: float = LEVEL) -> Mean:
    """The mean of what independent runs give, [n]."""
    values = np.asarray(values, np.float64)
    value, count = float(values.mean()), len(values)
    if count < 2:
        return Mean(value, None, None, None, count)
    deviation = float(values.std(ddof=1))
    half = float(scipy.stats.t.isf((1 - level) / 2, count - 1))
    half *= deviation / math.sqrt(count)
    return Mean(value, deviation, value - half, value + half, count)


def paired_difference(
    first: ArrayLike, second: ArrayLike, level: float = LEVEL
) -> Difference:
    """The mean difference of runs in pairs, Student's interval and test.

    Args:
      first, second: of runs that belong together, such as those of one seed, [n].
        Pairs are independent of each other: what varies within a seed is averaged
        before.

    Raises:
      InputError: fewer than two pairs.
    """
    first, second = _pairs(first, second)
    apart = mean(second - first, level)
    if apart.low is None:
        raise InputError(
            "1 pair is too few to say how a difference varies; there must be two or "
            "more: give more seeds, or more bank_starts"
        )
    if np.ptp(second - first) == 0:  # up to rounding, or not at all
        p_value = 1.0 if apart.value == 0 else 2.0 ** (1 - apart.count)
        return Difference(apart.value, apart.value, apart.value, _above_0(p_value))
    t = apart.value / (apart.deviation / math.sqrt(apart.count))
    p_value = float(2 * scipy.stats.t.sf(abs(t), apart.count - 1))
    return Difference(apart.value, apart.low, apart.high, _above_0(p_value))


@dataclasses.dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test.

    Attributes:
      p_value: two-sided.
      least: the smallest p-value that so many pairs can give, 2^(1 - count).
      count: of the pairs that differ.
    """

    p_value: float
    least: float
    count: int

    def too_few(self, level: float = LEVEL) -> bool:
        """Whether no outcome could have been significant, as of five pairs at 0.05."""
        return self.least > 1 - level


def signed_rank(first: ArrayLike, second: ArrayLike) -> SignedRank:
    """Wilcoxon's test of pairs, as SciPy has it: exact for up to 50 without ties.

    Args:
      first, second: of runs that belong together, [n]; equal ones are left out.
    """
    first, second = _pairs(first, second)
    apart = second - first
    apart = apart[apart != 0]
    if not len(apart):
        return SignedRank(1.0, 1.0, 0)
    p_value = float(scipy.stats.wilcoxon(apart).pvalue)
    return SignedRank(_above_0(p_value), _above_0(2.0 ** (1 - len(apart))), len(apart))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of the p-values of several tests, in their order."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for passed, i in enumerate(order):
        largest = max(largest, (len(p_values) - passed) * p_values[i])
        adjusted[i] = min(1.0, largest)
    return adjusted


# ---- Several detectors over several data sets


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Detectors ranked on every data set.

    Attributes:
      ranks: mean rank of each, 1 is the best, [k].
      chi_square, chi_square_p_value: Friedman's test that all are alike.
      f, f_p_value: Iman and Davenport's, which is less conservative.
      critical_difference: mean ranks that lie farther apart differ (Nemenyi).
      p_values: of each pair by Nemenyi's test, [k, k].
      count: of the data sets.
    """

    ranks: np.ndarray
    chi_square: float
    chi_square_p_value: float
    f: float
    f_p_value: float
    critical_difference: float
    p_values: np.ndarray
    count: int

    def too_few(self) -> bool:
        """Whether no ranks could lie a critical difference apart."""
        return self.critical_difference > len(self.ranks) - 1

    def alike(self) -> list[tuple[int, ...]]:
        """The largest groups in which no two lie a critical difference apart, from
        the best on; of two or more."""
        order, groups = np.argsort(self.ranks, kind="stable").tolist(), []
        for i, first in enumerate(order):
            limit = self.ranks[first] + self.critical_difference
            group = tuple(j for j in order[i:] if self.ranks[j] < limit)
            if len(group) > 1 and not (groups and set(group) <= set(groups[-1])):
                groups.append(group)
        return groups


def rank(values: ArrayLike, level: float = LEVEL) -> Ranking:
    """Ranks k detectors on n data sets, and tests whether they differ.

    Args:
      values: more is better, [n, k]; equal ones share a rank.

    Raises:
      InputError: fewer than two data sets, or than three detectors.
    """
    values = np.asarray(values, np.float64)
    n, k = values.shape
    if n < 2 or k < 3:
        raise InputError(
            f"{k} rows on {n} data sets are too few to rank; there must be three rows "
            "or more, and two data sets"
        )
    places = scipy.stats.rankdata(-values, axis=1)
    if (np.ptp(places, axis=1) == 0).all():
        chi_square, p_value = 0.0, 1.0  # nobody differs anywhere
    else:
        chi_square, p_value = map(float, scipy.stats.friedmanchisquare(*values.T))
    rest = n * (k - 1) - chi_square
    if rest > 1e-9:
        f = (n - 1) * chi_square / rest
        f_p_value = float(scipy.stats.f.sf(f, k - 1, (k - 1) * (n - 1)))
    else:  # all agree in every rank
        f, f_p_value = math.inf, math.exp((1 - n) * math.lgamma(k + 1))
    error = math.sqrt(k * (k + 1) / (6 * n))
    ranks = places.mean(axis=0)
    apart = np.abs(ranks[:, None] - ranks) / error * math.sqrt(2)
    return Ranking(
        ranks,
        chi_square,
        _above_0(p_value),
        f,
        _above_0(f_p_value),
        nemenyi(k, level) * error,
        np.clip(scipy.stats.studentized_range.sf(apart, k, np.inf), _LEAST, 1.0),
        n,
    )


def nemenyi(k: int, level: float = LEVEL) -> float:
    """The critical value of k detectors, the studentised range's over sqrt 2."""
    value = scipy.stats.studentized_range.ppf(level, k, np.inf)
    return float(value) / math.sqrt(2)


def _pairs(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.asarray(x, np.float64) for x in (first, second))
    if first.ndim != 1 or first.shape != second.shape:
        raise InputError(
            f"values of shape {first.shape} and {second.shape} are no pairs; give as "
            "many of either"
        )
    return first, second


_LEAST = sys.float_info.min


def _above_0(p_value: float) -> float:
    return max(p_value, _LEAST)


def check(scores: np.ndarray, labels: np.ndarray) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[1:]:
        raise InputError(
            f"scores of {scores.shape[1:]} images and labels of shape {labels.shape} "
            "must be of the same images"
        )
    if not np.isfinite(scores).all():
        raise InputError("a score is not finite; look for the image that it comes from")
    counts = {
        name: int((labels == x).sum()) for x, name in ((0, "normal"), (1, "anomalous"))
    }
    if sum(counts.values()) != labels.size:
        raise InputError("labels must be 0 (normal) or 1 (anomalous)")
    for name, count in counts.items():
        if count < 2:
            raise InputError(
                f"{count} {name} images are too few to say how a number varies; there "
                "must be two or more"
            )
