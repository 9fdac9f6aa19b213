"""Memory banks of a category beside its detector's, each of another start.

One greedy coreset is one of many, and metrics differ from bank to bank. The first bank
is the detector that is kept; the others are on disk until they have scored the test
images.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np

from jaxad import arrays, scores
from jaxad.detectors import base
from jaxad.detectors.base import Detector
from jaxad.devices import processes
from jaxad.run.pipeline import Pipeline


def save(folder: pathlib.Path, pipeline: Pipeline, banks: Sequence[Detector]) -> None:
    """Writes the further banks of a member.

    Args:
      folder: of the category.
    """
    for start, bank in enumerate(banks, start=1):
        tree = {"state": base.on_host(bank.state)}  # of all processes
        if bank.spread is not None:
            tree["spread"] = dataclasses.asdict(bank.spread)
        if processes.first():
            arrays.save(_place(folder, pipeline, start), tree)
    processes.wait()


def restored(
    folder: pathlib.Path, pipelines: Sequence[Pipeline], members: Sequence[Detector]
) -> list[tuple[Detector, ...]]:
    """The members with each of their further banks, as `save` wrote them."""
    found = []
    for start in range(1, pipelines[0].config.bank_starts):
        bank = []
        for pipeline, member in zip(pipelines, members, strict=True):
            tree = arrays.restore(_place(folder, pipeline, start))
            state = pipeline.scorer.place(tree["state"], pipeline.mesh)
            spread = scores.Spread(**tree["spread"]) if "spread" in tree else None
            bank.append(member.replace(state=state, spread=spread))
        found.append(tuple(bank))
    return found


def remove(folder: pathlib.Path) -> None:
    """Removes them from a category that is finished."""
    if processes.first():
        shutil.rmtree(folder / "banks", ignore_errors=True)


def _place(folder: pathlib.Path, pipeline: Pipeline, start: int) -> pathlib.Path:
    return folder / "banks" / pipeline.backbone.name / str(start)


def row(metrics: Sequence[dict[str, float | None]]) -> dict[str, dict]:
    """What a category's results say of its banks: by metric, over all of them.

    Args:
      metrics: of each bank, the detector's first.

    Returns:
      `metrics`, those of each bank; `mean`; `deviation`, with count - 1. None where a
      bank has no such number.
    """
    by_name = {name: [one[name] for one in metrics] for name in metrics[0]}
    return {"metrics": by_name, **_summary(by_name)}


def mean(rows: dict[str, dict], names: Sequence[str]) -> dict[str, dict]:
    """The same of a run: of the means over categories, bank by bank.

    Args:
      rows: of the results, each with its banks.
      names: of the metrics.
    """
    every = [one["banks"]["metrics"] for one in rows.values()]
    return _summary(
        {
            name: [
                None if None in column else float(np.mean(column))
                for column in zip(*(one[name] for one in every), strict=True)
            ]
            for name in names
        }
    )


def _summary(by_name: dict[str, list]) -> dict[str, dict]:
    known = {
        name: None if None in values else np.array(values, np.float64)
        for name, values in by_name.items()
    }
    return {
        "mean": {n: None if x is None else float(x.mean()) for n, x in known.items()},
        "deviation": {
            name: None if x is None else float(x.std(ddof=1))
            for name, x in known.items()
        },
    }
