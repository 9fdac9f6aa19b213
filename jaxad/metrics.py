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

import math
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from absl import logging
from numpy.typing import ArrayLike

from jaxad.errors import InputError

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
    if not 0 < limit <= 1:
        raise InputError(f"limit must be a false-positive rate in (0, 1], not {limit}.")
    maps, masks = _checked("maps", maps, "masks", masks)
    if maps.ndim != 3:
        raise InputError(f"maps must be [n, H, W], but their shape is {maps.shape}.")
    curve = _curve_of("aupro", maps[~masks], maps[masks])
    if curve is None:
        return math.nan
    sizes = np.concatenate([_region_sizes(mask) for mask in masks])
    overlap = _overlap(maps[masks], sizes, curve)
    return _aupro(curve, overlap, limit)


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
        wrong = (labels != 0) & (labels != 1)
        if wrong.any():
            raise InputError(
                f"{labels_name} must be 0 (normal) or 1 (anomalous), but one is "
                f"{labels[wrong][0]}."
            )
        labels = labels.astype(bool)
    return scores, labels


def _curve(metric: str, scores: ArrayLike, labels: ArrayLike) -> _Curve | None:
    scores, labels = _checked("scores", scores, "labels", labels)
    return _curve_of(metric, scores[~labels], scores[labels])


def _curve_of(metric: str, normal: np.ndarray, anomalous: np.ndarray) -> _Curve | None:
    if not normal.size or not anomalous.size:
        missing = "anomalous" if normal.size else "normal"
        logging.warning(
            "%s is undefined (NaN): nothing is labelled %s.", metric, missing
        )
        return None
    thresholds, counts = np.unique(anomalous, return_counts=True)
    thresholds, counts = thresholds[::-1], counts[::-1]
    normal = np.sort(normal)
    return _Curve(
        thresholds,
        hits=np.cumsum(counts).astype(np.float64),
        alarms=normal.size - np.searchsorted(normal, thresholds, "left") + 0.0,
        alarms_above=normal.size - np.searchsorted(normal, thresholds, "right") + 0.0,
        normal=normal.size,
    )


def _auroc(curve: _Curve) -> float:
    new_hits = np.diff(curve.hits, prepend=0)
    # Of the normal items those below count whole, those level count half.
    outranked = curve.normal - (curve.alarms + curve.alarms_above) / 2
    return float(new_hits @ outranked / (curve.hits[-1] * curve.normal))


def _average_precision(curve: _Curve) -> float:
    precision = curve.hits / (curve.hits + curve.alarms)
    return float(np.diff(curve.hits, prepend=0) @ precision / curve.hits[-1])


def _aupr_trapezoid(curve: _Curve) -> float:
    precision = curve.hits / (curve.hits + curve.alarms)
    # The lowest threshold still above this one: the hits before it, and every alarm
    # above it. With nothing above, precision is 1 by convention.
    hits_above = np.concatenate([[0], curve.hits[:-1]])
    called = hits_above + curve.alarms_above
    before = np.divide(hits_above, called, out=np.ones_like(called), where=called > 0)
    area = np.diff(curve.hits, prepend=0) @ (before + precision) / 2
    return float(area / curve.hits[-1])


def _f1_max(curve: _Curve) -> tuple[float, float]:
    f1 = 2 * curve.hits / (curve.hits + curve.alarms + curve.hits[-1])
    best = np.argmax(f1)
    return float(f1[best]), float(curve.thresholds[best])


def _region_sizes(mask: np.ndarray) -> np.ndarray:
    """For each anomalous pixel of a mask [H, W], its region's number of pixels."""
    if not mask.any():
        return np.zeros(0, np.int64)
    region = scipy.ndimage.label(mask, _EIGHT_CONNECTED)[0][mask]
    return np.bincount(region)[region]


def _overlap(scores: np.ndarray, sizes: np.ndarray, curve: _Curve) -> np.ndarray:
    """PRO at each threshold of the curve, [t].

    Args:
      scores, sizes: of each anomalous pixel, [p], its score and its region's size.
    """
    # Each pixel is worth 1 / size, so that a region is worth 1. By size within equal
    # scores, the sum does not depend on the order of the images.
    order = np.lexsort((sizes, -scores))
    covered = np.cumsum(1 / sizes[order])
    return covered[curve.hits.astype(np.int64) - 1] / covered[-1]


def _aupro(curve: _Curve, overlap: np.ndarray, limit: float) -> float:
    # Two points a threshold: just above it, where alarms have grown and overlap has
    # not, and at it. From the last one on the overlap is 1.
    fpr = np.stack([curve.alarms_above, curve.alarms], 1).ravel() / curve.normal
    pro = np.stack([np.concatenate([[0], overlap[:-1]]), overlap], 1).ravel()
    fpr = np.concatenate([[0], fpr, [1]])
    pro = np.concatenate([[0], pro, [1]])
    inside = np.searchsorted(fpr, limit, "right")
    at_limit = np.interp(limit, fpr, pro)
    fpr = np.append(fpr[:inside], limit)
    pro = np.append(pro[:inside], at_limit)
    return float(np.trapezoid(pro, fpr) / limit)
