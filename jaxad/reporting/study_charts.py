"""The geometry of a study's charts, which the templates draw."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxad.reporting import charts, reading, settings, study_results
from jaxad.reporting.study_results import Study
from jaxad.run import results

_STEP = 26  # between two rows
_LEFT = 190  # for their names


def scale(study: Study) -> float:
    """By which numbers are multiplied before they are shown."""
    return 1 if study.plain else 100


# ---- Dots: every row, a dot a run


def dots(study: Study, metric: str) -> dict[str, Any] | None:
    """A line a row: a dot for every seed, of one seed every draw or bank, and their
    mean.

    None where a row has no such number.
    """
    rows = []
    for row in study.rows:
        values = study.values(row, metric)
        if not values:
            return None
        unit = study_results.unit_of(values)
        over = unit if unit in ("draw", "bank") else "seed"
        found = study_results.averaged(values, over).values()
        rows.append((row, [scale(study) * value for value in found]))
    axes = charts.Axes(
        charts.spread([value for _, values in rows for value in values]),
        (0, 1),
        "" if study.plain else "per cent",
        width=720,
        height=len(rows) * _STEP + 56,
        left=_LEFT,
        bottom=44,
    )
    lines = [
        {
            "name": name,
            "y": axes.top + _STEP * (i + 0.5),
            "dots": [axes.x(value) for value in values],
            "mean": axes.x(float(np.mean(values))),
        }
        for i, (name, values) in enumerate(rows)
    ]
    return {"axes": axes, "lines": lines}


# ---- A metric against the field that is swept


@dataclasses.dataclass(frozen=True)
class Swept:
    """A field with numbers that rows differ in.

    Attributes:
      field: its name.
      values: those it has, rising.
      series: what else rows differ in -> {value: row}.
    """

    field: str
    values: list[float]
    series: dict[str, dict[float, str]]


def swept(study: Study) -> Swept | None:
    """The field with the most numbers, of three or more; None where there is none."""
    configs = [
        results.read_json(next(iter(study.runs[row].values())) / reading.CONFIG)
        for row in study.rows
    ]
    differing = [
        (name, values)
        for name, values in settings.values_that_differ(configs)
        if name != "seed"
    ]
    numbers = [
        (name, values)
        for name, values in differing
        if all(_is_number(x) for x in values) and len(set(values)) > 2
    ]
    if not numbers:
        return None
    field, values = max(numbers, key=lambda one: len(set(one[1])))
    others = {
        name: [f"{name.rpartition('.')[2]}={value}" for value in found]
        for name, found in differing
        if name != field
    }
    # Those with most values first: they go by the others, and not the others by them.
    for name in sorted(others, key=lambda name: -len(set(others[name]))):
        if _follows(others, name, values):
            del others[name]
    series: dict[str, dict[float, str]] = {}
    for i, row in enumerate(study.rows):
        key = ", ".join(found[i] for found in others.values())
        series.setdefault(key, {})[values[i]] = row
    return Swept(field, sorted(set(values)), series)


def _follows(others: dict[str, list[str]], name: str, values: list[float]) -> bool:
    """Whether among rows alike in the rest a field is the same, or goes one to one with
    the swept one: then it makes no series of its own."""
    rest = [found for other, found in others.items() if other != name]
    groups: dict[tuple[str, ...], list[tuple[str, float]]] = {}
    for i, pair in enumerate(zip(others[name], values, strict=True)):
        groups.setdefault(tuple(found[i] for found in rest), []).append(pair)
    counts = [
        (len(g), *(len(set(x)) for x in zip(*g, strict=True))) for g in groups.values()
    ]
    return all(own == 1 or own == swept == rows for rows, own, swept in counts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def lines(study: Study, metric: str, field: Swept) -> dict[str, Any] | None:
    """A line for each of the series with its means, and a band of their intervals.

    Values stand at even distances, since most are powers of something.
    """
    drawn, ranges = [], []
    for name, rows in field.series.items():
        points = []
        for i, value in enumerate(field.values):
            cell = value in rows and study_results.cell(study, rows[value], metric)
            if cell:
                mean = cell.mean
                low = mean.value if mean.low is None else mean.low
                high = mean.value if mean.high is None else mean.high
                points.append((i, *(scale(study) * x for x in (mean.value, low, high))))
        if points:
            drawn.append((name, np.array(points).T))
            ranges += [*drawn[-1][1][1:]]
    if not drawn:
        return None
    axes = charts.Axes(
        (-0.3, len(field.values) - 0.7), charts.spread(*ranges), field.field
    )
    return {
        "axes": axes,
        "ticks": [(axes.x(i), f"{x:g}") for i, x in enumerate(field.values)],
        "series": [
            {
                "name": name,
                "line": axes.line(x, y),
                "band": axes.band(x, low, high),
                "dots": [(axes.x(a), axes.y(b)) for a, b in zip(x, y, strict=True)],
            }
            for name, (x, y, low, high) in drawn
        ],
    }


# ---- A table with a colour for every number


def heat(study: Study, metric: str) -> dict[str, Any] | None:
    """Rows by categories; a number is the stronger, the better it is in its column.

    None of one category.
    """
    columns, step, width = study.columns(), 24, 74
    if len(study.categories()) < 2:
        return None
    cells = []
    for j, (_, categories) in enumerate(columns):
        column = [
            study_results.cell(study, row, metric, categories) for row in study.rows
        ]
        known = [one.mean.value for one in column if one]
        for i, one in enumerate(column):
            if one:
                span = max(known) - min(known)
                share = (one.mean.value - min(known)) / span if span else 0.5
                cells.append(
                    {
                        "x": _LEFT + width * j,
                        "y": 30 + step * i,
                        "share": round(share, 3),
                        "text": f"{scale(study) * one.mean.value:.{_digits(study)}f}",
                    }
                )
    return {
        "width": _LEFT + width * len(columns) + 8,
        "height": 38 + step * len(study.rows),
        "left": _LEFT,
        "step": (width, step),
        "cells": cells,
        "rows": [(name, 30 + step * (i + 0.5)) for i, name in enumerate(study.rows)],
        "columns": [
            (name, _LEFT + width * (j + 0.5)) for j, (name, _) in enumerate(columns)
        ],
    }


def _digits(study: Study) -> int:
    return 4 if study.plain else 2


# ---- The critical-difference diagram


def critical(study: Study, metric: str) -> dict[str, Any] | None:
    """Mean ranks on a line, the best on the left; a bar joins what is not told apart.

    None where ranks cannot be had, or are too few. After Demsar, figure 1.
    """
    found = study_results.ranking(study, metric)
    if isinstance(found, str) or found[2].too_few():
        return None
    rows, _, ranks = found
    k, groups = len(rows), ranks.alike()
    axes = charts.Axes((1, k), (0, 1), width=720, left=_LEFT, right=_LEFT, top=40)
    half, first = (k + 1) // 2, 58 + 9 * len(groups)
    order = np.argsort(ranks.ranks, kind="stable").tolist()
    names = []
    for place, i in enumerate(order):
        left = place < half
        line = place if left else k - 1 - place
        names.append(
            {
                "name": rows[i],
                "rank": f"{ranks.ranks[i]:.2f}",
                "x": axes.x(ranks.ranks[i]),
                "y": first + 20 * line,
                "end": _LEFT - 12 if left else axes.width - _LEFT + 12,
                "anchor": "end" if left else "start",
            }
        )
    return {
        "width": axes.width,
        "height": first + 20 * half,
        "top": axes.top,
        "ends": (axes.x(1), axes.x(k)),
        "ticks": [(axes.x(rank), str(rank)) for rank in range(1, k + 1)],
        "bar": (axes.x(1), axes.x(1 + ranks.critical_difference)),
        "difference": f"{ranks.critical_difference:.2f}",
        "names": names,
        "groups": [
            {
                "y": axes.top + 9 * (i + 1),
                "ends": _ends(axes, [float(ranks.ranks[j]) for j in group]),
            }
            for i, group in enumerate(groups)
        ],
    }


def _ends(axes: charts.Axes, ranks: Sequence[float]) -> tuple[float, float]:
    return axes.x(min(ranks)) - 3, axes.x(max(ranks)) + 3
