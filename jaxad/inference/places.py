"""Where detectors lie: in the categories of a run, or in folders of their own.

Nothing here imports JAX, so that a mistaken path is told at once.
"""

import os
import pathlib
from collections.abc import Iterable

from jaxad.errors import InputError, did_you_mean

CARD = "detector.json"
# What a run has beside its categories.
OF_RUN = (
    "backbone", "config.json", "config_file.json", "features", "report.html",
    "results.json", "results.md",
)  # fmt: skip


def find(path: str | os.PathLike) -> pathlib.Path:
    """The folder of a detector that a path stands for.

    Raises:
      InputError: there is none, it is unfinished, or there are several.
    """
    path = pathlib.Path(path).expanduser()
    for folder in (path, path / "detector"):
        if (folder / CARD).is_file():
            return folder.absolute()
    around = path.absolute().parent
    if path.is_file():
        raise InputError(f"{path} is a file; name a run, or a category inside it")
    if not path.is_dir():
        known = categories(around)
        hint = did_you_mean(path.name, known)
        there = f"; {around} has {', '.join(known)}{hint}" if known else ""
        raise InputError(
            f"{path} does not exist{there or '; name a run or a detector'}"
        )
    found = categories(path)
    if len(found) == 1:
        return path.absolute() / found[0] / "detector"
    if found:
        raise InputError(
            f"{path} has the detectors of {', '.join(found)}; name one, as "
            f"{path / found[0]}"
        )
    if (path / "backbone.safetensors").exists():
        raise InputError(
            f"{path} holds a backbone, and no detector; a run that makes one takes it "
            f"with --config.backbone.weights={path / 'backbone.safetensors'}"
        )
    in_run = (around / "config.json").exists() and path.name not in OF_RUN
    if in_run or (path / "config.json").exists() or (path / "detector").exists():
        raise InputError(
            f"{path} has no finished detector; run the command that made it again, to "
            "its end"
        )
    raise InputError(f"{path} holds no detector; name a run, or a category inside it")


def find_all(path: str | os.PathLike) -> list[pathlib.Path]:
    """As `find`, but of a run with several categories the detectors of all."""
    folder = pathlib.Path(path).expanduser().absolute()
    alone = any((place / CARD).is_file() for place in (folder, folder / "detector"))
    found = [] if alone else categories(folder)
    return [folder / name / "detector" for name in found] or [find(path)]


def categories(workdir: pathlib.Path) -> list[str]:
    """Those of a run that have a finished detector, sorted."""
    return sorted(path.parts[-3] for path in workdir.glob(f"*/detector/{CARD}"))


def require_names(names: Iterable[str]) -> None:
    """Raises InputError for a category that cannot have a folder in a run."""
    for name in names:
        if name in ("", ".", "..") or set(name) & {"/", os.sep, "\0"}:
            raise InputError(
                f"the category {name!r} cannot be the name of a folder; rename it"
            )
        # Not every file system tells cases apart.
        if name.casefold() in OF_RUN:
            raise InputError(
                f"the category {name} has the name of something that every run has "
                "beside its categories; rename it"
            )
