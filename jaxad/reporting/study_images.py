"""Rows of a study against their baseline on the same test images.

Runs of one seed that scored the same images of a category differ by what detector they
are, and by chance in which images there are. AUROC has DeLong's test, every other
metric the stratified paired bootstrap over images, pixel metrics likewise, an image
with all its pixels. Of several banks it is the first, which has scored the images.
"""

import contextlib
import csv
import dataclasses
import io
import pathlib

import numpy as np

from jaxad import resampled, statistics
from jaxad.errors import InputError
from jaxad.reporting import reading
from jaxad.reporting.study_results import Study
from jaxad.run import results
from jaxad.run.study import Repeat
from jaxad.statistics import Difference

DELONG, BOOTSTRAP = "DeLong", "paired bootstrap"


@dataclasses.dataclass(frozen=True)
class Test:
    """A row against its baseline, on one category with one seed.

    Attributes:
      row, baseline, repeat, category, metric: of what; the seed, and the draw.
      kind: of the test.
      difference: the row less the baseline.
      adjusted: its p-value with Holm's adjustment over the rows of this category, seed
        and metric.
    """

    row: str
    baseline: str
    repeat: Repeat
    category: str
    metric: str
    kind: str
    difference: Difference
    adjusted: float = 1.0


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a run has found on the test images of a category.

    Attributes:
      files: names of the images.
      labels: 1 = anomalous, 0 = normal, [n].
      scores: [n].
      resampled: all metrics but AUROC on resampled test sets; empty where a class has
        fewer than two images.
    """

    files: list[str]
    labels: np.ndarray
    scores: np.ndarray
    resampled: dict[str, np.ndarray]


def tests(study: Study) -> list[Test]:
    """Every test that runs with the baselines' seeds allow."""
    found, rows = [], {*study.compared, *study.compared.values()}
    for repeat in dict.fromkeys(x for runs in study.runs.values() for x in runs):
        for category in study.categories():
            scored = {
                row: _scored(runs[repeat] / category)
                for row, runs in study.runs.items()
                if row in rows and repeat in runs
            }
            family = [
                Test(row, baseline, repeat, category, metric, kind, difference)
                for row, baseline in study.compared.items()
                for metric, kind, difference in _tests(
                    scored.get(baseline), scored.get(row)
                )
                if metric in {*results.COLUMNS, *study.metrics}
            ]
            found += _adjusted(family)
    return found


def _scored(folder: pathlib.Path) -> Scored | None:
    rows = reading.rows_of(folder / "scores.csv")
    if not rows:
        return None
    labels = np.array([int(row["label"]) for row in rows])
    scores = np.array([float(row["score"]) for row in rows])
    found = {}
    with contextlib.suppress(InputError):  # too few images to resample
        weights = statistics.resampled_weights(labels)
        found = resampled.of_images(scores, labels)(weights)
        del found["image_auroc"]
        pixels = resampled.PixelCounts.load(folder / "pixel_counts.npz")
        if pixels:
            found |= pixels.metrics()(weights)
    return Scored([row["file"] for row in rows], labels, scores, found)


def _tests(one: Scored | None, other: Scored | None):
    """(metric, kind, difference) of two runs, if their images are the same."""
    if one is None or other is None or one.files != other.files:
        return
    if not np.array_equal(one.labels, other.labels):
        return
    try:
        auroc = statistics.auroc_difference(one.scores, other.scores, one.labels)
    except InputError:  # a class is missing, or is one image
        return
    yield "image_auroc", DELONG, auroc
    found = statistics.differences(one.resampled, other.resampled)
    for metric, difference in sorted(found.items()):
        if difference is not None:
            yield metric, BOOTSTRAP, difference


def _adjusted(family: list[Test]) -> list[Test]:
    """Rows of one category and seed, each metric a family of its own."""
    found = []
    for metric in dict.fromkeys(test.metric for test in family):
        mine = [test for test in family if test.metric == metric]
        p_values = statistics.holm([test.difference.p_value for test in mine])
        found += [
            dataclasses.replace(test, adjusted=p)
            for test, p in zip(mine, p_values, strict=True)
        ]
    return found


def write(folder: pathlib.Path, found: list[Test]) -> None:
    """`study_tests.csv`: every test, one a line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ("row", "baseline", "seed", "draw", "category", "metric", "test", "difference")
        + ("low", "high", "p_value", "p_value_holm")
    )
    for test in found:
        by = test.difference
        numbers = (by.value, by.low, by.high, by.p_value, test.adjusted)
        writer.writerow(
            (test.row, test.baseline, *test.repeat, test.category, test.metric)
            + (test.kind,)
            + tuple(f"{x:.9g}" for x in numbers)
        )
    results.write_text(folder / "study_tests.csv", out.getvalue())
