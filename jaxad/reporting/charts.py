"""The geometry of charts: numbers to places in an SVG, which the templates draw.

A chart is drawn here and not by a library in the page, so that it is there without
JavaScript, follows the page's colours in the dark and on paper, and weighs kilobytes.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxad.inference.pictures import ticks

# Points of a line, at most; more are finer than a pixel.
_POINTS = 400


@dataclasses.dataclass(frozen=True)
class Axes:
    """Where values lie in an SVG.

    Attributes:
      width, height: of the whole, in its own units.
      left, right, top, bottom: margins around the plot.
      x_range, y_range: values at its edges.
      x_label, y_label: what they are.
    """

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_label: str = ""
    y_label: str = ""
    width: int = 420
    height: int = 280
    left: int = 52
    right: int = 14
    top: int = 26
    bottom: int = 44

    def x(self, value: float) -> float:
        """From the left edge of the whole."""
        span = self.width - self.left - self.right
        return round(self.left + span * _share(value, *self.x_range), 2)

    def y(self, value: float) -> float:
        """From the top of the whole."""
        span = self.height - self.top - self.bottom
        return round(self.top + span * (1 - _share(value, *self.y_range)), 2)

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """(place, text)"""
        length = self.width - self.left - self.right
        return [(self.x(v), text) for v, text in ticks(*self.x_range, length)]

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """(place, text)"""
        length = self.height - self.top - self.bottom
        return [(self.y(v), text) for v, text in ticks(*self.y_range, length)]

    def line(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """A path through points."""
        keep = _thinned(len(xs))
        points = [f"{self.x(xs[i])} {self.y(ys[i])}" for i in keep]
        return "M" + "L".join(points) if points else ""

    def band(self, xs, low, high) -> str:
        """The area between two lines."""
        there = self.line(xs, high)
        back = self.line(xs[::-1], low[::-1])
        return f"{there}L{back[1:]}Z" if there else ""


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _thinned(count: int) -> list[int]:
    if count <= _POINTS:
        return list(range(count))
    return np.linspace(0, count - 1, _POINTS).round().astype(int).tolist()


def spread(*groups: Sequence[float]) -> tuple[float, float]:
    """The range of all values, with a little room, and never empty."""
    values = np.concatenate([np.asarray(group, np.float64) for group in groups])
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = 0.02 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


@dataclasses.dataclass(frozen=True)
class Histogram:
    """A group of scores: the share of them in every bin, as an area."""

    name: str
    label: str
    count: int
    area: str
    baseline: float
    top: float


@dataclasses.dataclass(frozen=True)
class Histograms:
    """Groups below each other, over one axis of scores."""

    axes: Axes
    groups: list[Histogram]


def histograms(
    groups: Sequence[tuple[str, str, Sequence[float]]],
    low: float,
    high: float,
    *,
    bins: int = 60,
) -> Histograms:
    """One row for each (name, label, scores) that has any scores.

    Args:
      groups: of scores between `low` and `high`.
      bins: of equal width.
    """
    groups = [group for group in groups if len(group[2])]
    row, head = 74, 20
    axes = Axes(
        (low, high),
        (0, 1),
        width=720,
        height=len(groups) * row + 34 + 8,
        left=10,
        right=10,
        top=8,
        bottom=34,
    )
    edges, drawn = np.linspace(low, high, bins + 1), []
    shares = [np.histogram(values, edges)[0] / len(values) for *_, values in groups]
    highest = max((share.max() for share in shares), default=1.0)
    for i, ((name, label, values), share) in enumerate(
        zip(groups, shares, strict=True)
    ):
        base = axes.top + (i + 1) * row
        path = [f"M{axes.x(low)} {base}"]
        for left, right, part in zip(edges[:-1], edges[1:], share, strict=True):
            y = round(base - (row - head) * part / highest, 2)
            path.append(f"L{axes.x(left)} {y}L{axes.x(right)} {y}")
        path.append(f"L{axes.x(high)} {base}Z")
        drawn.append(
            Histogram(name, label, len(values), "".join(path), base, base - row)
        )
    return Histograms(axes, drawn)


def unit(x_label: str, y_label: str, *, least: float = 0.0) -> Axes:
    """Axes of two shares."""
    return Axes((0, 1), (least, 1), x_label, y_label, height=300)


def over_steps(steps: np.ndarray, values: np.ndarray, name: str) -> Axes:
    """Axes of a curve of training."""
    first, last = (float(steps.min()), float(steps.max())) if len(steps) else (0, 1)
    if first == last:
        first, last = first - 1, last + 1
    low, high = spread(values)
    return Axes((first, last), (low, high), "step", name, height=220, left=64)


def least_share(*curves: np.ndarray) -> float:
    """Where an axis of shares may begin: below all values, at a tenth."""
    lowest = min((float(np.min(curve)) for curve in curves if len(curve)), default=0.0)
    return max(0.0, math.floor(lowest * 10 - 1e-9) / 10)
