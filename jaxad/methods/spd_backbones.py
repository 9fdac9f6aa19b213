"""Backbones that runs of pre-training have left: the rows of studies that use them.

In the argument of a config such as configs/ablations/spd_few_shot.py they are
`pretrained=DIR`, the folder of a study, of a row of one, or of a run.
"""

import dataclasses
import json
import pathlib

from jaxad import config as config_lib
from jaxad.errors import InputError

FILE = "backbone.safetensors"
_GIVEN = "pretrained"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """What the runs of a row have left.

    Attributes:
      row: its name, "" where there is one alone.
      baseline: the row that it was compared with, None of one that was not.
      network: the name of the backbone.
      weights: its file, with `{seed}` where every seed has its own.
    """

    row: str = ""
    baseline: str | None = None
    network: str = ""
    weights: str = ""

    @property
    def argument(self) -> str:
        """For a config that takes `backbone` and `weights`."""
        return (
            f",backbone={self.network},weights={self.weights}" if self.weights else ""
        )

    def rows(self, name: str) -> tuple[str, str | None]:
        """A row of a study that uses it, and the one that it is compared with."""
        row = f"{self.row}, {name}" if self.row else name
        return row, None if self.baseline is None else f"{self.baseline}, {name}"


def others(arg: str | None) -> str:
    """The argument of a config without what says which backbones there are."""
    return config_lib.taken(arg, _GIVEN)[1]


def of(arg: str | None) -> list[Backbone]:
    """The backbones that the argument of a config names; one without weights if none.

    Raises:
      InputError: there are none in the folder, or it is said elsewhere which.
    """
    folder, rest = config_lib.taken(arg, _GIVEN)
    if folder is None:
        return [Backbone()]
    for name in ("backbone", "weights"):
        if config_lib.taken(rest, name)[0] is not None:
            raise InputError(
                f"config argument {name}=... has no effect beside {_GIVEN}={folder}, "
                "which names both; leave one of them out"
            )
    return _left(pathlib.Path(folder).expanduser())


def _left(folder: pathlib.Path) -> list[Backbone]:
    found = sorted(folder.rglob(FILE))
    if not found:
        raise InputError(
            f"config argument {_GIVEN}={folder} has no {FILE} in it; name the folder "
            "of a study or a run that has left some"
        )
    plan = folder / "study.json"
    study = json.loads(plan.read_text("utf-8")) if plan.exists() else {}
    names = {place: row for row, place in study.get("rows", {}).items()}
    left = {}
    for path in found:
        place, weights = path.parent.relative_to(folder), path
        if place.name.isdecimal():  # a seed of the row above
            place, weights = place.parent, path.parents[1] / "{seed}" / FILE
        name = place.as_posix().removeprefix(".")
        row = names.get(name, name)
        baseline = study.get("baselines", {}).get(row)
        network = json.loads(path.with_suffix(".json").read_text("utf-8"))["name"]
        left.setdefault(row, Backbone(row, baseline, network, str(weights)))
    order = [row for row in names.values() if row in left] or [*left]
    return [
        one if one.baseline in left else dataclasses.replace(one, baseline=None)
        for one in map(left.get, order)
    ]
