"""What the page of a study shows: a line for every row of a sweep."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxad.reporting import charts, gallery, reading, run_page, settings
from jaxad.run import results


def runs_of(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Row -> folders of its runs, by seed; nothing where there is no study.

    Runs that leave a backbone, and no detector, are none of them.
    """
    if not (folder / "sweep.md").exists():
        return {}
    found: dict[str, list[pathlib.Path]] = {}
    for path in folder.glob(f"*/*/{reading.RESULTS}"):
        if "categories" in results.read_json(path):
            found.setdefault(path.parent.parent.name, []).append(path.parent)
    ordered = sorted(found, key=lambda row: min(p.stat().st_mtime for p in found[row]))
    return {
        row: sorted(found[row], key=lambda p: (len(p.name), p.name)) for row in ordered
    }


def context(
    folder: pathlib.Path, study: dict[str, list[pathlib.Path]], page: pathlib.Path
) -> dict[str, Any]:
    """What the template `study.html` is given; `study` is of `runs_of`."""
    rows = {
        name: [reading.run(path) for path in paths] for name, paths in study.items()
    }
    runs = [run for seeds in rows.values() for run in seeds]
    columns = run_page.columns(runs)
    table = []
    for name, seeds in rows.items():
        values = {
            column: [run.results["mean"].get(column) for run in seeds]
            for column in columns
        }
        links = [
            (run.name, gallery.address(run.folder / reading.REPORT, page))
            for run in seeds
            if (run.folder / reading.REPORT).exists()
        ]
        table.append(
            {
                "name": name,
                "values": values,
                "cells": {column: _spread(found) for column, found in values.items()},
                "links": links,
                "seeds": len(seeds),
            }
        )
    one_each = [seeds[0] for seeds in rows.values()]
    dots = [
        (column, _dots([(row["name"], row["values"][column]) for row in table]))
        for column in columns
        if all(None not in row["values"][column] for row in table)
    ]
    differing = [
        (name, values)
        for name, values in settings.differing(one_each)
        if name != "seed"
    ]
    return {
        "title": f"study {folder.resolve().name}",
        "folder": folder,
        "columns": columns,
        "table": table,
        "dots": dots,
        "rows": list(rows),
        "differing": differing,
        "version": runs[0].results["versions"]["jaxad"],
    }


def _spread(values: list[float | None]) -> str:
    """Mean and standard deviation over seeds, in per cent."""
    if any(value is None for value in values):
        return "–"
    mean = f"{100 * np.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * np.std(values, ddof=1):.2f}"


def _dots(rows: Sequence[tuple[str, list[float]]]) -> dict[str, Any]:
    """A line a row: a dot a seed, and a bar at their mean."""
    step, left = 26, 190
    values = [100 * value for _, seeds in rows for value in seeds]
    axes = charts.Axes(
        charts.spread(values),
        (0, 1),
        "per cent",
        width=720,
        height=len(rows) * step + 56,
        left=left,
        bottom=44,
    )
    lines = [
        {
            "name": name,
            "y": axes.top + step * (i + 0.5),
            "seeds": [axes.x(100 * value) for value in seeds],
            "mean": axes.x(100 * float(np.mean(seeds))),
        }
        for i, (name, seeds) in enumerate(rows)
    ]
    return {"axes": axes, "lines": lines}
