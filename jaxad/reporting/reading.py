"""A finished run, read back from its folder."""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Set

import numpy as np

from jaxad.detectors.threshold import Threshold
from jaxad.errors import InputError
from jaxad.inference.decisions import OUTCOMES
from jaxad.inference.thumbnails import Thumbnails
from jaxad.resampled import PixelCounts
from jaxad.run import identity, results

RESULTS, CONFIG, REPORT = "results.json", "config.json", "report.html"


@dataclasses.dataclass(frozen=True)
class Curves:
    """Scalars of a training stage.

    Attributes:
      stage: where they lie in the category's folder.
      values: name -> (steps [k], values [k]).
    """

    stage: str
    values: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Category:
    """What a run has found of a category.

    Attributes:
      name: of the category.
      folder: its own.
      row: of the results.
      files, labels, scores, kinds: of the test images, [n]; kinds of defects are None
        where an earlier version has not written them.
      threshold: of image scores, None where none was asked for.
      pixel_threshold: of anomaly maps, None likewise.
      pixel_counts: of each test image; None where there are no masks.
      thumbnails: of the test images, as far as there are any.
      suspects: (file, score) of training images, the most unlike the others first.
      suspect_thumbnails: of the first of them, by rank from 0.
      curves: of training.
    """

    name: str
    folder: pathlib.Path
    row: dict
    files: list[str]
    labels: np.ndarray
    scores: np.ndarray
    kinds: list[str] | None
    threshold: Threshold | None
    pixel_threshold: float | None
    pixel_counts: PixelCounts | None
    thumbnails: Thumbnails
    suspects: list[tuple[str, float]]
    suspect_thumbnails: Thumbnails
    curves: list[Curves]

    def outcomes(self) -> list[str] | None:
        """The name in `OUTCOMES` of each test image; None without a threshold."""
        if self.threshold is None:
            return None
        names = {key: name for name, key in OUTCOMES.items()}
        verdicts = self.threshold.verdicts(self.scores).tolist()
        pairs = zip(self.labels.tolist(), verdicts, strict=True)
        return [names[pair] for pair in pairs]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      folder: its own.
      results: what `results.json` holds.
      config: what `config.json` holds.
      config_file: what `identity.note_config_file` has written; None where nobody has.
      categories: in the order of the results.
    """

    folder: pathlib.Path
    results: dict
    config: dict
    config_file: dict | None
    categories: list[Category]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def category(self, name: str) -> Category | None:
        """The one of this name, if there is one."""
        return next((one for one in self.categories if one.name == name), None)


def run(folder: pathlib.Path) -> Run:
    """Reads a run.

    Raises:
      InputError: the folder holds no run, or one that is not finished, or a file of it
        is damaged.
    """
    config = results.read_json(folder / CONFIG)
    if config is None:
        raise InputError(
            f"{folder / CONFIG} does not exist; name the --workdir of a run or a study"
        )
    outcome = results.read_json(folder / RESULTS)
    if outcome is None:
        raise InputError(
            f"{folder} is not finished: it has no {RESULTS}; give the command that "
            "began it again"
        )
    if "backbone" in outcome:
        raise InputError(
            f"{folder} is a run that leaves a backbone; its results.md has the probes, "
            "and a report is of a detector"
        )
    categories = [
        _category(folder / name, name, row)
        for name, row in outcome["categories"].items()
    ]
    file = results.read_json(folder / identity.CONFIG_FILE)
    return Run(folder, outcome, config, file, categories)


def _category(folder: pathlib.Path, name: str, row: dict) -> Category:
    rows = rows_of(folder / "scores.csv")
    if rows is None:
        raise InputError(f"{folder / 'scores.csv'} does not exist; run it again")
    decided = row.get("threshold")
    kinds = rows_of(folder / "defect_types.csv", {"file", "defect_type"})
    suspects = rows_of(folder / "suspects.csv") or []
    return Category(
        name=name,
        folder=folder,
        row=row,
        files=[one["file"] for one in rows],
        labels=np.array([int(one["label"]) for one in rows], np.int32),
        scores=np.array([float(one["score"]) for one in rows], np.float64),
        kinds=kinds and [one["defect_type"] for one in kinds],
        threshold=decided and Threshold.from_dict(decided),
        pixel_threshold=decided and decided["pixel_value"],
        pixel_counts=PixelCounts.load(folder / "pixel_counts.npz"),
        thumbnails=Thumbnails.load(folder / "thumbnails.npz"),
        suspects=[(one["file"], float(one["score"])) for one in suspects],
        suspect_thumbnails=Thumbnails.load(folder / "suspects.npz"),
        curves=_curves(folder),
    )


def rows_of(
    path: pathlib.Path, columns: Set[str] = frozenset({"file", "score"})
) -> list[dict[str, str]] | None:
    """The rows of a table that has these columns; None where there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return None
    if rows and not columns <= rows[0].keys():
        wanted = " and ".join(sorted(columns))
        raise InputError(f"{path} has no columns {wanted}; run it again")
    return rows


def _curves(folder: pathlib.Path) -> list[Curves]:
    """Those of all stages, in the order in which they were trained."""
    paths = sorted(folder.rglob("metrics.jsonl"), key=lambda p: p.stat().st_mtime)
    found = []
    for path in paths:
        values: dict[str, tuple[list, list]] = {}
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            try:
                scalars = json.loads(line)
                step = scalars.pop("step")
            except (ValueError, KeyError, AttributeError):
                raise InputError(
                    f"{path}: line {number} is no line of curves; remove it"
                ) from None
            for name, value in scalars.items():
                if value is not None:
                    steps, all_of = values.setdefault(name, ([], []))
                    steps.append(step)
                    all_of.append(value)
        stage = path.parent.relative_to(folder).as_posix()
        arrays = {name: tuple(map(np.array, both)) for name, both in values.items()}
        found.append(Curves(stage, arrays))
    return found
