"""Decisions from normal images alone: what is anomalous, and how often that is wrong.

Calibration scores are those of normal images, each scored by a detector that was not
fitted on it. A new image is called anomalous if its score lies above the k-th largest
of them, which is to say if its conformal p-value is at most k / (n + 1). k comes from
the false-alarm rate that is asked for, as one of two promises:

* on average over calibration sets, k is the largest with k / (n + 1) <= rate;
* with confidence 1 - delta in the calibration set at hand, k is the largest with
  P(B > rate) <= delta, where B ~ Beta(k, n + 1 - k) is the rate of false alarms that
  the k-th largest of n scores has; with ties it has no more.

The first takes calibration and new images that could change places (exchangeable), the
second ones that are drawn independently from one source.

"score" may be an image's score or the maximum of its anomaly map. The latter makes a
threshold of pixels: a false alarm is then a normal image with any pixel above it.

All is float64. Scores of a detector are float32, and so is a threshold that is one of
them: comparing in either precision is the same.

References:
  Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Vovk,
  Conditional validity of inductive conformal predictors, Machine Learning 2013
  (arXiv:1209.2673); Bates et al., Testing for outliers with conformal p-values, Annals
  of Statistics 2023 (arXiv:2104.08279); Barber et al., Predictive inference with the
  jackknife+, Annals of Statistics 2021 (arXiv:1905.02928).
"""

import dataclasses
import math

import numpy as np
import scipy  # `scipy.stats` is slow to import, which its first use does
from numpy.typing import ArrayLike

from jaxad.errors import InputError

_NEAR = 1e-12  # relative; products of decimals miss the number they stand for by less

# How the calibration images were scored, and what is to be said of it.
METHODS = {
    "split": (
        "that the detector was not fitted on. This is exact for any detector and any "
        "number of images, as long as new normal images come from the same source as "
        "these (split conformal prediction)."
    ),
    "left_out": (
        "that the detector was fitted on, each scored without what it had added. This "
        "is an approximation without a guarantee: new images meet a detector that has "
        "learnt from all of these (the jackknife). The jackknife+ of Barber et al. "
        "(2021) has a guarantee, but scores with a detector for every image left out."
    ),
    "folds": (
        "that the detector was fitted on, each scored by a detector that was fitted on "
        "the other folds. This is an approximation without a guarantee: new images "
        "meet a detector that has learnt from all of these. CV+ of Barber et al. "
        "(2021) has a guarantee, but scores with the detectors of all folds."
    ),
}


def p_values(scores: ArrayLike, calibration: ArrayLike) -> np.ndarray:
    """Conformal p-values: (1 + #{calibration >= score}) / (n + 1).

    How likely a normal image scores at least as high. Ties count against the image
    being anomalous, so where scores are equal the values are too large, never too
    small.

    Args:
      scores: of new images, any shape.
      calibration: scores of n normal images, [n].

    Returns:
      float64 in [1 / (n + 1), 1], of the shape of `scores`.

    Raises:
      InputError: there are no calibration scores, or a score is not finite.
    """
    return _p_values(_finite("scores", scores), _calibration(calibration))


def _p_values(scores: np.ndarray, rising: np.ndarray) -> np.ndarray:
    n = rising.size
    return (1 + n - np.searchsorted(rising, scores, "left")) / (n + 1)


# ---- How many images a promise takes


def rank(images: int, rate: float, confidence: float | None = None) -> int:
    """k: which calibration score is the threshold, 1 for the largest.

    Args:
      images: calibration images n, 1 or more.
      rate: of false alarms, above 0 and below 1.
      confidence: 1 - delta, above 0 and below 1; None promises the rate on average.

    Returns:
      The largest k from 1 to n that keeps the promise; 0 if none does.

    Raises:
      InputError: an argument is out of range.
    """
    _check(images, rate, confidence)
    return int(_keeps(np.arange(1, images + 1), images, rate, confidence).sum())


def _keeps(k, n: int, rate: float, confidence: float | None):
    """Whether the k-th largest of n scores keeps the promise; false from some k on."""
    if confidence is None:
        # As p-values are computed, so that a verdict is p <= rate to the last bit.
        return k / (n + 1) <= rate
    return scipy.special.betaincc(k, n + 1 - k, rate) <= 1 - confidence


def promise(k: int, images: int, confidence: float | None = None) -> float:
    """The lowest rate that the k-th largest score keeps; arguments as for `rank`."""
    if confidence is None:
        return k / (images + 1)
    return float(scipy.special.betainccinv(k, images + 1 - k, 1 - confidence))


def best_promise(images: int, confidence: float | None = None) -> float:
    """The lowest false-alarm rate that so many calibration images can promise.

    The threshold is then the largest score. One image promises 50 % on average.
    """
    return promise(1, images, confidence)


def images_needed(rate: float, confidence: float | None = None) -> int:
    """The fewest calibration images that can promise a rate; arguments as for `rank`.

    Raises:
      InputError: an argument is out of range.
    """
    _check(1, rate, confidence)
    if confidence is None:
        about = 1 / rate - 1
    else:
        about = math.log(1 - confidence) / math.log1p(-rate)
    n = max(1, math.floor(about) - 1)
    while not _keeps(1, n, rate, confidence):
        n += 1
    return n


def shortage(images: int, rate: float, confidence: float | None = None) -> str | None:
    """What there is to say where images are too few for a rate; None if they are not.

    Such as "5 % with 95 % confidence needs 59 good images; you have 47, so the best
    promise is 6.2 %". Arguments and errors are those of `rank`.
    """
    needed = images_needed(rate, confidence)
    if images >= needed:
        return None
    best = _up(best_promise(images, confidence))
    return (
        f"{_percent(rate)} {_kind(confidence)} needs {needed} good images; you have "
        f"{images}, so the best promise is {best}"
    )


# ---- The threshold


@dataclasses.dataclass(frozen=True, eq=False)
class Threshold:
    """A decision and what it promises; `calibrate` makes one.

    Attributes:
      scores: of the n calibration images, rising, float64 [n].
      method: how they were scored, of `METHODS`.
      asked: the false-alarm rate that was asked for.
      confidence: of the promise; None if it is one on average.
      promised: the rate that `value` keeps: at most `asked` where there are images
        enough, else the best that there is.
      rank: `value` is the so-many-th largest score.
      value: an image is anomalous if its score lies above it.
    """

    scores: np.ndarray
    method: str
    asked: float
    confidence: float | None
    promised: float
    rank: int
    value: float

    def p_values(self, scores: ArrayLike) -> np.ndarray:
        """Conformal p-values of new images, as the function of this name."""
        return _p_values(_finite("scores", scores), self.scores)

    @property
    def level(self) -> float:
        """The largest p-value of an anomalous image, rank / (n + 1)."""
        return self.rank / (self.scores.size + 1)

    def verdicts(self, scores: ArrayLike) -> np.ndarray:
        """Whether images are anomalous: score > value, bool of the scores' shape.

        That is p <= level, always: #{calibration >= score} is below `rank` exactly if
        the score lies above the rank-th largest, whatever ties there are. On average
        it is p <= asked, too. Of equal calibration scores none is anomalous, and
        whatever lies above them is.

        Raises:
          InputError: a score is not finite.
        """
        return _finite("scores", scores) > self.value

    def guarantee(self) -> str:
        """In words, what is promised and on what grounds."""
        exact, rate = self.method == "split", _up(self.promised)
        alarms = f"{'at most' if exact else 'about'} {rate} of new normal images"
        if self.confidence is None:
            promised = f"On average {alarms} are called anomalous"
        else:
            confidence = _percent(self.confidence)
            promised = f"With {confidence} confidence {alarms} are called anomalous"
        n = self.scores.size
        images = "1 normal image" if n == 1 else f"{n} normal images"
        text = (
            f"{promised}: those that score above {self.value:.6g}, number {self.rank} "
            f"from the top of {images} {METHODS[self.method]}"
        )
        missing = shortage(n, self.asked, self.confidence)
        return f"{text} {missing[0].upper()}{missing[1:]}." if missing else text

    def to_dict(self) -> dict:
        """For JSON, with all digits."""
        return dataclasses.asdict(self) | {"scores": self.scores.tolist()}

    @classmethod
    def from_dict(cls, content: dict) -> "Threshold":
        """What `to_dict` gave.

        Raises:
          InputError: a field is missing.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in content]
        if missing:
            raise InputError(
                f"a saved threshold lacks {', '.join(missing)}; calibrate it again"
            )
        fields = {name: content[name] for name in names}
        return cls(**fields | {"scores": _calibration(content["scores"])})


def calibrate(
    scores: ArrayLike, *, method: str, rate: float, confidence: float | None = None
) -> Threshold:
    """The threshold for a false-alarm rate.

    Where images are too few for the rate, the threshold is the largest score, which
    gives the best promise there is, and `Threshold.guarantee` says so.

    Args:
      scores: of normal images as new ones will be scored, each by a detector that was
        not fitted on that image, [n].
      method: how, one of `METHODS`.
      rate, confidence: as for `rank`.

    Raises:
      InputError: there are no scores, one is not finite, or an argument is out of
        range.
    """
    if method not in METHODS:
        raise InputError(
            f"method={method!r} is no way of calibration; choose one of "
            f"{', '.join(METHODS)}"
        )
    rising = _calibration(scores)
    n = rising.size
    k = max(1, rank(n, rate, confidence))
    return Threshold(
        scores=rising,
        method=method,
        asked=float(rate),
        confidence=None if confidence is None else float(confidence),
        promised=promise(k, n, confidence),
        rank=k,
        value=float(rising[n - k]),
    )


# ---- A batch of images


def discoveries(p_values: ArrayLike, rate: float) -> np.ndarray:
    """The images of a batch to report at a false discovery rate.

    On average at most that share of what is reported is normal, for p-values of split
    calibration: they share their calibration set, which makes them positively dependent
    (Bates et al. 2023). The step-up procedure of Benjamini and Hochberg (1995).

    Args:
      p_values: of all images of the batch, [m].
      rate: above 0 and below 1.

    Returns:
      bool [m].

    Raises:
      InputError: a p-value lies outside of [0, 1], or the rate outside of (0, 1).
    """
    values = np.asarray(p_values, np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise InputError(
            f"p_values of shape {values.shape} must be numbers from 0 to 1 in one row"
        )
    _check(1, rate, None)
    if not values.size:
        return np.zeros(0, bool)
    adjusted = scipy.stats.false_discovery_control(values, method="bh")
    # p-values are fractions, and often exactly at the limit.
    return adjusted <= rate * (1 + _NEAR)


def batch_shortage(images: int, batch: int, anomalous: int, rate: float) -> str | None:
    """What there is to say where too few calibration images leave nothing to report.

    No p-value is below 1 / (n + 1), and j of m images are reported together only if the
    largest of theirs is at most rate j / m. So j is never below m / (rate (n + 1)).

    Args:
      images: calibration images n.
      batch: images m of a batch.
      anomalous: how many of them are expected to be, 1 or more.
      rate: of false discoveries.

    Returns:
      A sentence; None if that many can be reported.

    Raises:
      InputError: an argument is out of range.
    """
    _check(images, rate, None)
    if not 1 <= anomalous <= batch:
        raise InputError(
            f"anomalous={anomalous} must be at least 1 and at most batch={batch}"
        )
    together = math.ceil(batch / (rate * (images + 1)) * (1 - _NEAR))
    if together <= anomalous:
        return None
    needed = math.ceil(batch / (rate * anomalous) * (1 - _NEAR)) - 1
    unless = f" unless {together} or more are reported together"
    return (
        f"{anomalous} anomalous among {batch} images at a false discovery rate of "
        f"{_percent(rate)} need {needed} good images; you have {images}, so nothing "
        f"can be reported{unless if together <= batch else ''}"
    )


def proportion_interval(
    count: int, total: int, level: float = 0.95
) -> tuple[float, float]:
    """Exact confidence interval of a proportion, such as a rate of false alarms.

    Args:
      count: of `total`.
      level: confidence that the proportion lies in it; (0, 1) of a total of 0.

    References:
      Clopper and Pearson, Biometrika 1934.
    """
    if total == 0:
        return 0.0, 1.0
    tail, others = (1 - level) / 2, total - count
    low = scipy.special.betaincinv(count, others + 1, tail) if count else 0.0
    high = scipy.special.betainccinv(count + 1, others, tail) if others else 1.0
    return float(low), float(high)


# ---- Arguments and words


def _finite(name: str, scores: ArrayLike) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    finite = np.isfinite(scores)
    if not finite.all():
        place = int(np.argmin(finite))
        raise InputError(
            f"{name}: number {place} of {scores.size} is {scores.ravel()[place]}, "
            "which cannot be compared; look for the image that it comes from"
        )
    return scores


def _calibration(scores: ArrayLike) -> np.ndarray:
    """Rising, float64 [n], and not to be written to."""
    scores = _finite("calibration scores", scores)
    if scores.ndim != 1 or not scores.size:
        raise InputError(
            f"calibration scores of shape {scores.shape} must be one number for each "
            "of one or more normal images"
        )
    rising = np.sort(scores)
    rising.flags.writeable = False
    return rising


def _check(images: int, rate: float, confidence: float | None) -> None:
    if images < 1:
        raise InputError(f"images={images} must be 1 or more")
    for name, value in (("rate", rate), ("confidence", confidence)):
        if value is not None and not 0 < value < 1:
            raise InputError(
                f"{name}={value} must lie above 0 and below 1; 0.05 is 5 %"
            )


def _kind(confidence: float | None) -> str:
    if confidence is None:
        return "on average"
    return f"with {_percent(confidence)} confidence"


def _percent(share: float) -> str:
    return f"{100 * share:.6g} %"


def _up(rate: float) -> str:
    """A rate in percent, two digits; rounded up, since no less is promised."""
    unit = 10.0 ** (math.floor(math.log10(100 * rate)) - 1)
    return f"{math.ceil(100 * rate / unit * (1 - _NEAR)) * unit:.6g} %"
