"""Metrics of many resampled test sets at once, for the bootstrap.

A test set that has an image twice has all that the image counts twice. So a metric is a
function of how often each image is drawn, and of a thousand sets it costs one matrix
product. Functions take weights [r, n]: of r sets, how often each has the n images.
"""

import pathlib
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from jaxad import arrays, histogram, metrics

_BITS = 13  # of a float32's 23 behind its point that are left out: steps of 0.1 %
_ROWS = 256  # sets at a time

Metrics = dict[str, np.ndarray]


def of_images(scores: ArrayLike, labels: ArrayLike) -> Callable[[np.ndarray], Metrics]:
    """Metrics of image scores, exact.

    Args:
      scores: [n].
      labels: 1 = anomalous, 0 = normal, [n].

    Returns:
      weights -> {"image_auroc", "image_ap", "image_aupr", "image_f1_max"}, each [r].
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    order = np.argsort(-scores, kind="stable")
    falling, anomalous = scores[order], labels[order] == 1
    starts = np.append(0, np.flatnonzero(np.diff(falling)) + 1)

    def of(weights: np.ndarray) -> Metrics:
        drawn = weights[:, order]
        hits, alarms = (
            np.add.reduceat(drawn * which, starts, axis=1)
            for which in (anomalous, ~anomalous)
        )
        return {f"image_{name}": x for name, x in _curve_metrics(hits, alarms).items()}

    return of


class PixelCounts:
    """What each image adds to pixel metrics, gathered batch by batch.

    Of an image it is kept how many normal and anomalous pixels, and which share of its
    regions, score within each of steps of 0.1 %: some kilobytes. Metrics of resampled
    sets are those of scores rounded to these steps, which is finer than what resampling
    tells; for the value itself there is `metrics.PixelMetrics`.
    """

    def __init__(self):
        self._found: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, index: int, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
        """Adds an image.

        Args:
          index: in the split.
          anomaly_map: float32 [H, W].
          mask: [H, W], not zero where there is a defect.
        """
        mask = np.asarray(mask) != 0
        steps = histogram.sortable(np.asarray(anomaly_map, np.float32)) >> _BITS
        found, place = np.unique(steps, return_inverse=True)
        place, marked = place.reshape(mask.shape), mask.ravel()
        anomalous = np.bincount(place[mask], minlength=len(found))
        shares = np.zeros(len(found))
        if marked.any():
            weights = 1 / metrics.region_sizes(mask)
            shares = np.bincount(place[mask], weights, minlength=len(found))
        normal = np.bincount(place[~mask], minlength=len(found))
        self._found[int(index)] = np.stack([found, normal, anomalous, shares])

    def merge(self, other: "PixelCounts") -> None:
        """Adds all that another state has."""
        self._found |= other._found

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays, which `of_arrays` takes."""
        index = sorted(self._found)
        all_of = [self._found[i] for i in index]
        steps, normal, anomalous, shares = np.concatenate(
            [np.zeros((4, 0)), *all_of], axis=1
        )
        return {
            "index": np.array(index, np.int64),
            "lengths": np.array([x.shape[1] for x in all_of], np.int64),
            "steps": steps.astype(np.uint32),
            "normal": normal.astype(np.uint32),
            "anomalous": anomalous.astype(np.uint32),
            "shares": shares[anomalous > 0],
        }

    @classmethod
    def of_arrays(cls, found: dict[str, np.ndarray]) -> "PixelCounts":
        """The state that `arrays` gave."""
        state, anomalous = cls(), found["anomalous"]
        shares = np.zeros(len(anomalous))
        shares[anomalous > 0] = found["shares"]
        rows = np.stack([found["steps"], found["normal"], anomalous, shares])
        parts = np.split(rows, np.cumsum(found["lengths"])[:-1], axis=1)
        state._found = dict(zip(found["index"].tolist(), parts, strict=False))
        return state

    def save(self, path: pathlib.Path) -> None:
        """Writes a file, whole or not at all."""
        arrays.save_packed(path, self.arrays())

    @classmethod
    def load(cls, path: pathlib.Path) -> "PixelCounts | None":
        """What `save` wrote; None where there is no such file.

        Raises:
          InputError: it is damaged.
        """
        found = arrays.restore_packed(path, "tests of pixel metrics")
        return None if found is None else cls.of_arrays(found)

    def metrics(self, *, limit: float = 0.3) -> Callable[[np.ndarray], Metrics]:
        """Metrics of the pixels of all images, in the order of their index.

        Args:
          limit: the false-positive rate up to which AUPRO is wanted.

        Returns:
          weights -> {"pixel_auroc", "pixel_ap", "pixel_aupr", "pixel_f1_max",
          "aupro_<limit>"}, each [r]; NaN where a set has no anomalous, or no normal,
          pixel.
        """
        images = [self._found[i] for i in sorted(self._found)]
        steps = np.unique(np.concatenate([x[0] for x in images]))[::-1]
        counts = np.zeros((3, len(images), len(steps)))
        for i, (found, *columns) in enumerate(images):
            counts[:, i, len(steps) - 1 - np.searchsorted(steps[::-1], found)] = columns

        def of(weights: np.ndarray) -> Metrics:
            parts = []
            for at in range(0, len(weights), _ROWS):
                alarms, hits, shares = weights[at : at + _ROWS] @ counts
                found = _curve_metrics(hits, alarms)
                found = {f"pixel_{name}": x for name, x in found.items()}
                found[f"aupro_{limit:g}"] = _aupro(alarms, shares, limit)
                parts.append(found)
            return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

        return of


def _curve_metrics(hits: np.ndarray, alarms: np.ndarray) -> Metrics:
    """AUROC, AP, AU-PR, highest F1 of items counted at falling scores, [r, k]."""
    total_hits, total_alarms = hits.sum(1), alarms.sum(1)
    found, raised = hits.cumsum(1), alarms.cumsum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        below = total_alarms[:, None] - raised + alarms / 2
        called = found + raised
        precision = np.divide(
            found, called, out=np.zeros_like(called), where=called > 0
        )
        # Just above a score; 1 with nothing above, as `metrics.aupr_trapezoid`.
        above, hits_above = called - hits - alarms, found - hits
        before = np.divide(hits_above, above, out=np.ones_like(above), where=above > 0)
        weight = hits / np.where(total_hits, total_hits, np.nan)[:, None]
        f1 = 2 * found / (called + total_hits[:, None])
        return {
            "auroc": (hits * below).sum(1) / (total_hits * total_alarms),
            "ap": (weight * precision).sum(1),
            "aupr": (weight * (before + precision) / 2).sum(1),
            "f1_max": np.where(total_hits > 0, f1.max(1), np.nan),
        }


def _aupro(alarms: np.ndarray, shares: np.ndarray, limit: float) -> np.ndarray:
    """The mean overlap with regions over false-positive rates up to a limit, [r]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = alarms.cumsum(1) / alarms.sum(1, keepdims=True)
        overlap = shares.cumsum(1) / shares.sum(1, keepdims=True)
    rate, overlap = (np.pad(x, ((0, 0), (1, 0))) for x in (rate, overlap))
    left, right = rate[:, :-1].clip(max=limit), rate[:, 1:].clip(max=limit)
    width = rate[:, 1:] - rate[:, :-1]
    # Of the step that passes the limit the part up to it, along its line.
    part = np.divide(right - left, width, out=np.zeros_like(width), where=width > 0)
    end = overlap[:, :-1] + part * np.diff(overlap)
    return ((right - left) * (overlap[:, :-1] + end) / 2).sum(1) / limit
