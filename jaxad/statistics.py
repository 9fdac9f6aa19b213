"""How sure a number from a test set is, and whether two detectors differ on one.

The images of a test set are the sample: another set of as many normal and as many
anomalous images would give other numbers. Resampling keeps the number of either class,
as DeLong's variance does. Detectors that scored the same images are compared pair by
pair, which takes out what the images have in common.

References:
  DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or more correlated
  receiver operating characteristic curves, Biometrics 1988; in the form of Sun and Xu,
  IEEE Signal Processing Letters 2014. Efron and Tibshirani, An Introduction to the
  Bootstrap, 1993. McNemar, Psychometrika 1947, exact.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from jaxad.errors import InputError

REPLICATES = 1000
LEVEL = 0.95
_CHUNK = 1 << 22  # resampled images at a time


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two detectors on the same images, the second less the first.

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
    _check(scores, labels)
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
        return Difference(value, value, value, 1.0 if value == 0 else 0.0)
    half = float(scipy.stats.norm.isf((1 - level) / 2)) * error
    p_value = float(2 * scipy.stats.norm.sf(abs(value) / error))
    return Difference(value, value - half, value + half, p_value)


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
    _check(np.stack([first, second]), labels)
    found = np.array(
        [
            metric(second[rows], labels[rows]) - metric(first[rows], labels[rows])
            for rows in resamples(labels, replicates, seed)
        ]
    )
    tail = (1 - level) / 2
    low, high = np.quantile(found, (tail, 1 - tail))
    rarer = min((found <= 0).sum(), (found >= 0).sum())
    return Difference(
        float(metric(second, labels) - metric(first, labels)),
        float(low),
        float(high),
        min(1.0, 2 * (int(rarer) + 1) / (replicates + 1)),
    )


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
    return float(scipy.stats.binomtest(alone[0], sum(alone)).pvalue)


# ---- Curves with bands


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve with a band that holds each of its points by itself.

    Attributes:
      x, y: its points, rising in x, [g].
      low, high: the band at each, [g].
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


def roc(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    points: int = 201,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> Curve:
    """The share of anomalous images found, at most so many false alarms allowed.

    x is the false-alarm rate, y the highest hit rate of a threshold with no more.

    Args:
      scores, labels: as for `delong`, of one detector.
      points: of x, evenly from 0 to 1.
    """
    grid = np.linspace(0, 1, points)

    def read(hits, alarms, normal, anomalous):
        place = np.searchsorted(alarms, grid * normal * (1 + 1e-12), "right") - 1
        return hits[place] / anomalous

    return _curve(read, grid, scores, labels, replicates, level, seed)


def precision_recall(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    points: int = 201,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> Curve:
    """The share of alarms that are right, where at least so many hits are asked for.

    x is the hit rate (recall), from the first hit on, y the precision at the highest
    threshold that reaches it. Arguments are those of `roc`.
    """
    grid = np.linspace(0, 1, points)[1:]

    def read(hits, alarms, normal, anomalous):
        place = np.searchsorted(hits, grid * anomalous * (1 - 1e-12), "left")
        return hits[place] / (hits[place] + alarms[place])

    return _curve(read, grid, scores, labels, replicates, level, seed)


def _curve(read, grid, scores, labels, replicates, level, seed) -> Curve:
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    _check(scores[None], labels)
    order = np.argsort(-scores, kind="stable")
    falling, anomalous = scores[order], labels[order] == 1
    # A threshold lets all equal scores through, or none.
    last = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    total = int(anomalous.sum())

    def curve(counts: np.ndarray) -> np.ndarray:
        """Of a test set that has each image, in order, so many times."""
        hits = np.append(0, np.cumsum(counts * anomalous)[last])
        alarms = np.append(0, np.cumsum(counts * ~anomalous)[last])
        return read(hits, alarms, len(labels) - total, total)

    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    found = np.empty((replicates, len(grid)))
    step = max(1, _CHUNK // len(labels))
    random = np.random.SeedSequence(seed).spawn(-(-replicates // step))
    for part, start in zip(random, range(0, replicates, step), strict=True):
        count = min(step, replicates - start)
        for i, rows in enumerate(resamples(labels, count, part)):
            counts = np.bincount(place[rows], minlength=len(order))
            found[start + i] = curve(counts)
    tail = (1 - level) / 2
    low, high = np.quantile(found, (tail, 1 - tail), axis=0)
    return Curve(grid, curve(np.ones(len(order), np.int64)), low, high)


def _check(scores: np.ndarray, labels: np.ndarray) -> None:
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
