"""Two runs on the same images: what differs, and whether that may be chance."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxad import metrics, statistics
from jaxad.data.images import Geometry
from jaxad.errors import InputError
from jaxad.reporting.reading import Category, Run
from jaxad.statistics import Difference


@dataclasses.dataclass(frozen=True)
class Sides:
    """An image that one run calls anomalous and the other does not.

    Attributes:
      image: its index.
      anomalous: whether it is.
      gained: whether the second run is right.
    """

    image: int
    anomalous: bool
    gained: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The second run against the first, on one category.

    Attributes:
      auroc: DeLong's test; None where a class is too small.
      average_precision: the paired bootstrap, None likewise.
      pixels: the same of pixel metrics, by name, images resampled; empty where a run
        has no masks, and None where one is undefined on a resampled set.
      sides: images that changed sides, losses first; None where a run has no threshold.
      normal_p_value, anomalous_p_value: McNemar's test of the verdicts on the images of
        a class; None likewise.
    """

    auroc: Difference | None
    average_precision: Difference | None
    pixels: dict[str, Difference | None]
    sides: list[Sides] | None
    normal_p_value: float | None
    anomalous_p_value: float | None


def why_apart(one: Run, other: Run, name: str, called: Sequence[str]) -> str | None:
    """Why two runs cannot be compared image by image; None where they can.

    They can where the test images of the category are the same files with the same
    content, whatever size they were scored at.

    Args:
      one, other: the runs.
      name: of the category.
      called: what the page calls either.
    """
    first, second = (run.category(name) for run in (one, other))
    for category, letter in zip((first, second), called, strict=True):
        if category is None:
            return f"{letter} has no category {name}"
    here, there = len(first.files), len(second.files)
    if here != there:
        return f"{called[0]} has {here} test images, {called[1]} {there} others"
    same_files = first.files == second.files
    if not same_files or _version(one, first) != _version(other, second):
        return f"{called[0]} and {called[1]} have other test images"
    if not np.array_equal(first.labels, second.labels):
        return f"{called[0]} and {called[1]} have other labels of the same images"
    return None


def _version(run: Run, category: Category) -> str:
    """Of the test images, without the size at which they were scored."""
    data = run.config["dataset"]
    size = Geometry(tuple(data["image_size"]), data["resize"], data["resize_to"])
    return category.row["images"]["test"].replace(f"/{size}", "")


def compare(first: Category, second: Category) -> Comparison:
    """What differs between two runs that have scored the same images."""
    labels, scores = first.labels, (first.scores, second.scores)
    try:
        auroc = statistics.auroc_difference(*scores, labels)
        precision = statistics.paired_bootstrap(
            metrics.average_precision, *scores, labels
        )
        pixels = _pixels(first, second)
    except InputError:  # a class is missing, or is one image
        auroc, precision, pixels = None, None, {}
    if first.threshold is None or second.threshold is None:
        return Comparison(auroc, precision, pixels, None, None, None)
    right = [
        one.threshold.verdicts(one.scores) == (labels == 1) for one in (first, second)
    ]
    changed = np.flatnonzero(right[0] != right[1])
    moved = {i: abs(_margin(second, i) - _margin(first, i)) for i in changed}
    sides = [
        Sides(int(i), bool(labels[i] == 1), bool(right[1][i]))
        for i in sorted(changed, key=lambda i: (bool(right[1][i]), -moved[i]))
    ]
    p_values = [
        statistics.verdicts_p_value(right[0][labels == x], right[1][labels == x])
        for x in (0, 1)
    ]
    return Comparison(auroc, precision, pixels, sides, *p_values)


def _pixels(first: Category, second: Category) -> dict[str, Difference | None]:
    """Raises InputError as `statistics.bootstrap_differences`."""
    counts = first.pixel_counts, second.pixel_counts
    if not all(counts):
        return {}
    both = [one.metrics() for one in counts]
    return statistics.bootstrap_differences(*both, first.labels)


def _margin(category: Category, i: int) -> float:
    """How far above its threshold an image scores, in thresholds."""
    value = category.threshold.value
    return float(category.scores[i] - value) / max(abs(value), 1e-12)
