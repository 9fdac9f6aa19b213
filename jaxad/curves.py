"""Curves of a detector on a test set, with bands that resampled images give.

Each point of a band holds by itself: in so many of a hundred test sets like this one
the curve passes through the band there.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from jaxad import statistics
from jaxad.statistics import LEVEL, REPLICATES

_CHUNK = 1 << 22  # resampled images at a time


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
    statistics.check(scores[None], labels)
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
        for i, rows in enumerate(statistics.resamples(labels, count, part)):
            counts = np.bincount(place[rows], minlength=len(order))
            found[start + i] = curve(counts)
    tail = (1 - level) / 2
    low, high = np.quantile(found, (tail, 1 - tail), axis=0)
    return Curve(grid, curve(np.ones(len(order), np.int64)), low, high)
