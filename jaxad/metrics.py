"""Detection and localisation metrics: exact, in float64, on raw scores.

A score is any finite real number, higher = more anomalous. No sigmoid, clamp, bin or
per-image normalisation comes between a score and its rank, so every value here is
unchanged by an increasing transform of the scores. Equal scores are one threshold. A
value that is not defined, such as any of these on a test set of one class, is NaN and
the reason is logged.

All of them are read from one small table, `_Curve`. A metric only changes when a
threshold passes an anomalous score: between two of those, recall and region overlap
stand still. So the anomalous scores, few as they are, are all the thresholds there
are, and of the normal scores it is enough to count how many lie above and at each.
"""

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike

from jaxad.errors import InputError
from jaxad.histogram import Histogram, score_of, scores_of, sortable

_LOG = logging.getLogger(__name__)

_EIGHT_CONNECTED = np.ones((3, 3))


class _Curve(NamedTuple):
    """What a falling threshold lets through, at each distinct anomalous score.

    Attributes:
      thresholds: the distinct anomalous scores, falling, [t].
      hits: anomalous items scored at or above each, [t] float64.
      alarms: normal items scored at or above each, [t] float64.
      alarms_above: normal items scored strictly above each, [t] float64.
      normal: number of normal items.
    """

    thresholds: np.ndarray
    hits: np.ndarray
    alarms: np.ndarray
    alarms_above: np.ndarray
    normal: int

    @classmethod
    def from_rising(cls, thresholds, counts, *, below, up_to, normal) -> "_Curve":
        """From rising thresholds.

        counts: anomalous items at each; below, up_to: normal items scored below it, and
        below or at it; normal: all of them.
        """
        return cls(
            thresholds[::-1],
            hits=np.cumsum(counts[::-1]).astype(np.float64),
            alarms=(normal - below[::-1]).astype(np.float64),
            alarms_above=(normal - up_to[::-1]).astype(np.float64),
            normal=normal,
        )


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: P(s+ > s-) + P(s+ = s-) / 2 (Hanley and McNeil, 1982).

    Args:
      scores: real numbers of any shape.
      labels: 1 = anomalous, 0 = normal, bool or number, of the same shape.

    Returns:
      A float in [0, 1]; NaN if there is but one class.

    Raises:
      InputError: shapes differ, a score is not finite, a label is neither 0 nor 1.
    """
    curve = _curve("auroc", scores, labels)
    return math.nan if curve is None else _auroc(curve)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision: sum over thresholds of (R_i - R_{i-1}) P_i.

    The step-wise area under the precision-recall curve, as in scikit-learn. Arguments,
    result and errors are those of `auroc`.
    """
    curve = _curve("average_precision", scores, labels)
    return math.nan if curve is None else _average_precision(curve)


def aupr_trapezoid(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the precision-recall curve by the trapezoidal rule.

    The "AU-PR" of SPot-the-Difference (Zou et al., ECCV 2022) and of other work of its
    time; the curve starts at recall 0, precision 1. It interpolates precision linearly,
    which flatters; `average_precision` does not. Arguments, result and errors are those
    of `auroc`.
    """
    curve = _curve("aupr_trapezoid", scores, labels)
    return math.nan if curve is None else _aupr_trapezoid(curve)


def f1_max(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """The highest F1 = 2PR / (P + R) over all thresholds.

    Arguments and errors are those of `auroc`.

    Returns:
      (F1, threshold): an item is called anomalous if its score >= threshold. Of several
      thresholds with the same F1 it is the highest. (NaN, NaN) if there is but one
      class.
    """
    curve = _curve("f1_max", scores, labels)
    return (math.nan, math.nan) if curve is None else _f1_max(curve)


def aupro(maps: ArrayLike, masks: ArrayLike, *, limit: float = 0.3) -> float:
    """Area under the per-region overlap curve up to a false-positive rate.

    PRO(t) is the covered fraction of a region at threshold t, averaged over all regions
    of all images; a region is an 8-connected component of a mask. The false-positive
    rate is that of all normal pixels of all images, normal images included. The area
    takes the curve as linear between thresholds, is cut at `limit` and divided by it
    (Bergmann et al., IJCV 2021, section 5).

    Args:
      maps: anomaly scores [n, H, W].
      masks: ground truth [n, H, W], 1 = anomalous, 0 = normal, bool or number.
      limit: false-positive rate in (0, 1]; 0.3 for MVTec AD, VisA and BTAD, 0.05 for
        MVTec AD 2.

    Returns:
      A float in [0, 1]; NaN if there is no anomalous or no normal pixel.

    Raises:
      InputError: shapes differ or are not [n, H, W], a score is not finite, a mask is
        neither 0 nor 1, `limit` is outside (0, 1].
    """
    _check_limit(limit)
    maps, masks = _checked_maps(maps, masks)
    curve = _curve_of("aupro", maps[~masks], maps[masks])
    if curve is None:
        return math.nan
    sizes = np.concatenate([region_sizes(mask) for mask in masks])
    falling = np.lexsort((sizes, maps[masks]))[::-1]
    return _aupro(curve, sizes[falling], limit)


class PixelMetrics:
    """Pixel metrics of a data set, gathered batch by batch: exact, in bounded memory.

    Every pixel of every image counts, those of normal images included. `merge` of two
    states is the state of both their images together, so that shares of a test set can
    be gathered apart; the result is the same to the last bit for any order, any
    batches, any shares.

    What is kept of an anomalous pixel is its score and the size of its region, 8 bytes.
    Of the normal pixels only the number at each distinct float32 score is kept: 2 bytes
    a pixel at most, and at most 32 MiB for every octave [x, 2x) that the scores span,
    however many images there are. On top come 16 MiB of pixels not yet sorted in, and
    while `compute` runs some 120 bytes an anomalous pixel. A state can be pickled.

    Example:
      state = PixelMetrics()
      for maps, masks in batches:
        state.update(maps, masks)
      state.compute()  # {"pixel_auroc": 0.98, ..., "aupro_0.3": 0.93}
    """

    def __init__(self):
        self._normal = Histogram()
        # Score key in the upper half, region size in the lower: sorts as one number.
        self._anomalous: list[np.ndarray] = []

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._normal.nbytes + sum(array.nbytes for array in self._anomalous)

    def update(self, maps: ArrayLike, masks: ArrayLike):
        """Adds a batch; batches may differ in size.

        Args:
          maps: anomaly scores [b, H, W] that float32 can hold.
          masks: ground truth [b, H, W], 1 = anomalous, 0 = normal, bool or number.

        Raises:
          InputError: shapes differ or are not [b, H, W], a score is not finite or not
            a float32 number, a mask is neither 0 nor 1. Nothing is added then.
        """
        maps, masks = _checked_maps(maps, masks)
        with np.errstate(over="ignore"):
            rounded = maps.astype(np.float32, copy=False)
        if maps.dtype != np.float32 and not np.array_equal(rounded, maps):
            raise InputError(
                "maps hold more than float32 can, and rounding them could make ties; "
                "pass maps.astype('float32') to accept that."
            )
        for scores, mask in zip(rounded, masks, strict=True):
            keys = sortable(scores)
            self._normal.add(keys[~mask])
            if mask.any():
                high = keys[mask].astype(np.uint64) << np.uint64(32)
                self._anomalous.append(high | region_sizes(mask).astype(np.uint64))

    def merge(self, other: "PixelMetrics"):
        """Adds all that another state has seen; the other is left as it is.

        Merged with itself a state has seen everything twice.
        """
        self._normal.merge(other._normal)
        self._anomalous += other._anomalous

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays, which `of_arrays` takes."""
        anomalous = np.concatenate([np.zeros(0, np.uint64), *self._anomalous])
        return {"anomalous": anomalous, **self._normal.arrays()}

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> "PixelMetrics":
        """The state that `arrays` gave."""
        state = cls()
        state._normal = Histogram.of_arrays(arrays)
        state._anomalous = [arrays["anomalous"]]
        return state

    def compute(self, *, limits: Sequence[float] = (0.3,)) -> dict[str, float]:
        """The metrics of all pixels so far.

        Args:
          limits: false-positive rates in (0, 1] up to which AUPRO is wanted.

        Returns:
          {"pixel_auroc", "pixel_ap", "pixel_aupr", "pixel_f1_max",
          "pixel_f1_threshold", "aupro_<limit>"...}: each what the function for it
          returns on all pixels at once ("pixel_aupr" is `aupr_trapezoid`, the threshold
          that of `f1_max`); NaN if there is no anomalous or no normal pixel.

        Raises:
          InputError: a limit is outside (0, 1].
        """
        for limit in limits:
            _check_limit(limit)
        names = ["pixel_auroc", "pixel_ap", "pixel_aupr"]
        names += ["pixel_f1_max", "pixel_f1_threshold"]
        names += [f"aupro_{limit:g}" for limit in limits]
        count = sum(array.size for array in self._anomalous)
        if _undefined("pixel metrics", self._normal.size, count):
            return dict.fromkeys(names, math.nan)
        curve = self._curve()
        sizes = self._anomalous[0][::-1] & np.uint64(0xFFFFFFFF)
        values = _auroc(curve), _average_precision(curve), _aupr_trapezoid(curve)
        areas = [_aupro(curve, sizes, limit) for limit in limits]
        best, key = _f1_max(curve)
        values = [*values, best, score_of(int(key)), *areas]
        return dict(zip(names, values, strict=True))

    @property
    def count(self) -> int:
        """Pixels so far."""
        return self._normal.size + sum(array.size for array in self._anomalous)

    def anomalous_scores(self) -> np.ndarray:
        """Those of the anomalous pixels, rising, float64 [k]."""
        return scores_of(self._anomalous_keys()).astype(np.float64)

    def extremes(self) -> tuple[float, float]:
        """The lowest and the highest score of all pixels, of which there are some."""
        keys = self._anomalous_keys()
        ends = [*self._normal.ends(), *keys[:1].tolist(), *keys[-1:].tolist()]
        return score_of(min(ends)), score_of(max(ends))

    def above(self, thresholds: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """How many (anomalous, normal) pixels score above each of falling thresholds.

        Args:
          thresholds: in any precision, [t].

        Returns:
          Two of int64 [t].
        """
        # A float32 score lies above a number if it does above the float32 below that.
        exact = np.asarray(thresholds, np.float64)[::-1]
        rounded = exact.astype(np.float32)
        lower = np.nextafter(rounded, np.float32(-np.inf))
        edges = sortable(np.where(rounded > exact, lower, rounded)).astype(np.int64) + 1
        anomalous, normal = self._anomalous_keys(), self._normal
        hits = anomalous.size - np.searchsorted(anomalous, edges)
        return hits[::-1], (normal.size - normal.below(edges))[::-1]

    def _anomalous_keys(self) -> np.ndarray:
        """Of their scores, rising, int64 [k]."""
        self._sort_anomalous()
        return (self._anomalous[0] >> np.uint64(32)).astype(np.int64)

    def _sort_anomalous(self):
        everything = np.concatenate([np.zeros(0, np.uint64), *self._anomalous])
        self._anomalous = [np.sort(everything)]

    def _curve(self) -> _Curve:
        keys = self._anomalous_keys()
        thresholds, counts = np.unique(keys, return_counts=True)
        # The key after a score's own is that of the next float32 number.
        edges = np.stack([thresholds, thresholds + 1], 1).ravel()
        below, up_to = self._normal.below(edges).reshape(-1, 2).T
        return _Curve.from_rising(
            thresholds, counts, below=below, up_to=up_to, normal=self._normal.size
        )


def _checked(
    scores_name: str, scores: ArrayLike, labels_name: str, labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Finite scores, float32 as they are and all else in float64, and bool labels."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.shape != labels.shape:
        raise InputError(
            f"{scores_name} and {labels_name} must have one shape, but they have "
            f"{scores.shape} and {labels.shape}."
        )
    if scores.dtype != np.float32:
        scores = scores.astype(np.float64)
    # Minimum and maximum pass NaN on and need no array of their own.
    if scores.size and not np.isfinite([scores.min(), scores.max()]).all():
        where = np.unravel_index(np.argmin(np.isfinite(scores)), scores.shape)
        raise InputError(
            f"{scores_name}[{', '.join(map(str, where))}] is {scores[where]}; every "
            "score must be a finite number."
        )
    if labels.dtype != bool:
        anomalous = labels == 1
        wrong = labels != anomalous
        if wrong.any():
            raise InputError(
                f"{labels_name} must be 0 (normal) or 1 (anomalous), but one is "
                f"{labels[wrong][0]}."
            )
        labels = anomalous
    return scores, labels


def _checked_maps(maps: ArrayLike, masks: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    maps, masks = _checked("maps", maps, "masks", masks)
    if maps.ndim != 3:
        raise InputError(f"maps must be [n, H, W], but their shape is {maps.shape}.")
    return maps, masks


def _check_limit(limit: float):
    if not 0 < limit <= 1:
        raise InputError(f"limit must be a false-positive rate in (0, 1], not {limit}.")


def _curve(metric: str, scores: ArrayLike, labels: ArrayLike) -> _Curve | None:
    scores, labels = _checked("scores", scores, "labels", labels)
    return _curve_of(metric, scores[~labels], scores[labels])


def _curve_of(metric: str, normal: np.ndarray, anomalous: np.ndarray) -> _Curve | None:
    if _undefined(metric, normal.size, anomalous.size):
        return None
    thresholds, counts = np.unique(anomalous, return_counts=True)
    normal = np.sort(normal)
    return _Curve.from_rising(
        thresholds,
        counts,
        below=np.searchsorted(normal, thresholds, "left"),
        up_to=np.searchsorted(normal, thresholds, "right"),
        normal=normal.size,
    )


def _undefined(metric: str, normal: int, anomalous: int) -> bool:
    """Whether a class is missing, and then says so."""
    if normal and anomalous:
        return False
    missing = "anomalous" if normal else "normal"
    _LOG.warning("%s: undefined (NaN), as nothing is labelled %s.", metric, missing)
    return True


def _mean_over_hits(values: np.ndarray, curve: _Curve) -> float:
    """The mean over all anomalous items of a value given at each threshold."""
    # A sum, not a dot product, whose order depends on the number of BLAS threads.
    return float(np.sum(values * np.diff(curve.hits, prepend=0)) / curve.hits[-1])


def _auroc(curve: _Curve) -> float:
    # Of the normal items those below count whole, those level count half.
    outranked = curve.normal - (curve.alarms + curve.alarms_above) / 2
    return _mean_over_hits(outranked, curve) / curve.normal


def _average_precision(curve: _Curve) -> float:
    precision = curve.hits / (curve.hits + curve.alarms)
    return _mean_over_hits(precision, curve)


def _aupr_trapezoid(curve: _Curve) -> float:
    precision = curve.hits / (curve.hits + curve.alarms)
    # Just above a threshold there are the hits before it, and every alarm above it.
    # With nothing above, precision is 1 by convention.
    hits_above = np.concatenate([[0], curve.hits[:-1]])
    called = hits_above + curve.alarms_above
    before = np.divide(hits_above, called, out=np.ones_like(called), where=called > 0)
    return _mean_over_hits((before + precision) / 2, curve)


def _f1_max(curve: _Curve) -> tuple[float, float]:
    f1 = 2 * curve.hits / (curve.hits + curve.alarms + curve.hits[-1])
    best = np.argmax(f1)
    return float(f1[best]), float(curve.thresholds[best])


def region_sizes(mask: np.ndarray) -> np.ndarray:
    """For each anomalous pixel of a mask [H, W], its region's number of pixels."""
    if not mask.any():
        return np.zeros(0, np.int64)
    region = scipy.ndimage.label(mask, _EIGHT_CONNECTED)[0][mask]
    return np.bincount(region)[region]


def _aupro(curve: _Curve, sizes: np.ndarray, limit: float) -> float:
    """AUPRO from the curve and, score by score falling, each pixel's region size.

    Within equal scores, `sizes` must be in order: the sum is then the same, to the last
    bit, whatever the order of the images.
    """
    # A pixel is worth 1 / size, so that a region is worth 1.
    covered = np.cumsum(1 / sizes)
    overlap = covered[curve.hits.astype(np.int64) - 1] / covered[-1]
    # Two points a threshold: just above it, where alarms have grown and overlap has
    # not, and at it. From the last one on the overlap is 1.
    fpr = np.zeros(2 * overlap.size + 2)
    fpr[1:-1:2], fpr[2:-1:2], fpr[-1] = curve.alarms_above, curve.alarms, curve.normal
    fpr /= curve.normal
    pro = np.zeros_like(fpr)
    pro[3:-1:2], pro[2:-1:2], pro[-1] = overlap[:-1], overlap, 1
    # The first point past the limit slides back to it, along the line it ends.
    last = min(np.searchsorted(fpr, limit, "right"), fpr.size - 1)
    pro[last] = np.interp(limit, fpr[last - 1 : last + 1], pro[last - 1 : last + 1])
    fpr[last] = limit
    return float(np.trapezoid(pro[: last + 1], fpr[: last + 1]) / limit)
