"""What the page of a study shows: a line for every row of a sweep."""

import pathlib
from typing import Any

from jaxad.reporting import (
    gallery,
    reading,
    settings,
    study_charts,
    study_images,
    study_results,
    study_tables,
)
from jaxad.reporting.study_results import Study
from jaxad.statistics import LEVEL

# Of charts.
KINDS = ("lines", "dots", "heat", "critical")


def context(
    study: Study, tests: list[study_images.Test], page: pathlib.Path
) -> dict[str, Any]:
    """What the template `study.html` is given.

    Args:
      study: with a finished run.
      tests: on the same images.
      page: where it is going to lie.
    """
    table = []
    for row in study.rows:
        runs = study.runs[row]
        cells = {
            metric: study_results.cell(study, row, metric) for metric in study.metrics
        }
        table.append(
            {
                "name": row,
                "cells": {
                    metric: study_tables.shown(study, one) if one else "–"
                    for metric, one in cells.items()
                },
                "within": {
                    metric: study_tables.number(study, one.within)
                    for metric, one in cells.items()
                    if one and one.within is not None
                },
                "links": [
                    (repeat.folder, gallery.address(run / reading.REPORT, page))
                    for repeat, run in runs.items()
                    if (run / reading.REPORT).exists()
                ],
                "runs": len(runs),
            }
        )
    firsts = [reading.run(next(iter(study.runs[row].values()))) for row in study.rows]
    return {
        "title": f"study {study.name}",
        "folder": study.folder,
        "columns": study.metrics,
        "table": table,
        "has_within": {m for row in table for m in row["within"]},
        "inner": study.inner,
        "inner_words": study_tables.INNER[study.inner],
        "failed": [
            (row, repeat, why.splitlines()[0] if why else "")
            for row, runs in study.failed.items()
            for repeat, why in runs.items()
        ],
        "charts": charts(study),
        "baseline": study_tables.baseline(study),
        "against": _against(study),
        "tests": [test for test in tests if test.adjusted < 1 - LEVEL],
        "count": len(tests),
        "rows": study.rows,
        "differing": [
            (name, values)
            for name, values in settings.differing(firsts)
            if name != "seed"
        ],
        "version": firsts[0].results["versions"]["jaxad"],
    }


def charts(study: Study) -> list[tuple[str, str, dict[str, Any]]]:
    """(kind, metric, what is drawn) of every chart that there is."""
    field, found = study_charts.swept(study), []
    for metric in study.metrics:
        drawn = (
            field and study_charts.lines(study, metric, field),
            study_charts.dots(study, metric),
            study_charts.heat(study, metric),
            study_charts.critical(study, metric),
        )
        pairs = zip(KINDS, drawn, strict=True)
        found += [(kind, metric, one) for kind, one in pairs if one]
    return found


def _against(study: Study) -> list[dict[str, Any]]:
    """Each row against its baseline, a difference a metric."""
    several = len(set(study.compared.values())) > 1
    return [
        {
            "name": f"{row} against {other}" if several else row,
            "found": {
                metric: study_results.against(study, metric, other, row)
                for metric in study.metrics
            },
        }
        for row, other in study.compared.items()
    ]
