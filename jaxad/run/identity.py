"""Which run a folder holds: its config, and whether a command is of the same one."""

import contextlib
import json
import pathlib
from collections.abc import Iterator

import ml_collections

from jaxad import fields, methods
from jaxad.devices import locks, processes
from jaxad.errors import InputError
from jaxad.run import results

# Beside `config.json`: what the config file of a run has otherwise.
CONFIG_FILE = "config_file.json"
# Folders that runs share.
SHARED = ("dataset.cache", "feature_cache", "train.stage_cache")
# What may change between two calls of a run, because its numbers do not.
PLACES = (
    *SHARED,
    "dataset.download",
    "dataset.data_dir",
    "dataset.manual_dir",
    "dataset.check",
    "dataset.max_pixels",
    "compilation_cache",
    "save_seconds",
)
# Where things lie on this machine, which no other one has to have.
PATHS = (
    *SHARED,
    "dataset.data_dir",
    "dataset.manual_dir",
    "dataset.path",
    "dataset.anomalous_path",
    "dataset.textures",
    "compilation_cache",
)


def require_alike(config: ml_collections.ConfigDict, folder: pathlib.Path) -> None:
    """Raises InputError where processes differ in what they run, or in where."""
    same = {
        f"config.{name}": value
        for name, value in fields.flat(config.to_dict())
        if name not in PLACES
    }
    processes.require_same(same | results.versions())
    processes.require_shared(folder, "--workdir")
    for name in SHARED:
        if place := fields.get(config, name):
            place = pathlib.Path(place).expanduser()
            processes.require_shared(place, f"config.{name}")


def stored(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """The config of a run.

    Raises:
      InputError: the folder holds no run.
    """
    config = results.read_json(workdir / "config.json")
    if config is None:
        raise InputError(
            f"{workdir / 'config.json'} does not exist; name a run's --workdir, or the "
            "folder of a category inside it"
        )
    return methods.completed(config)


def note_config_file(
    workdir: pathlib.Path,
    file: str,
    defaults: ml_collections.ConfigDict,
    config: ml_collections.ConfigDict,
) -> None:
    """Writes what of a run's config is not as its config file has it, for its report.

    Once: a finished run stays as it is.

    Args:
      workdir: of the run.
      file: what the config file is called, with its argument.
      defaults: as the file has it.
      config: of the run, likewise before it was completed.
    """
    path = workdir / CONFIG_FILE
    if not processes.first() or path.exists():
        return
    as_file, mine = defaults.to_dict(), config.to_dict()
    other, defaults = fields.differing(as_file, mine), dict(fields.flat(as_file))
    changed = {n: defaults.get(n) for n, _ in fields.flat(mine) if n in other}
    results.write_json(path, {"file": file, "defaults": changed})


def require_same_run(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises InputError if the folder holds another run, or anything else."""
    path = folder / "config.json"
    if not path.exists():
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--workdir={folder} is a file; name a folder")
        # A killed write leaves a hidden temporary file, which is nobody's.
        if folder.exists() and any(p.name[0] != "." for p in folder.iterdir()):
            raise InputError(
                f"{folder} is not empty and holds no run; choose another --workdir"
            )
        return
    if others := changed(folder, config):
        raise InputError(
            f"{path} is of another run (it differs in {', '.join(sorted(others))}); "
            "choose another --workdir, or remove that folder"
        )


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Holds the folder of a run; one that is finished is free to all.

    It is made if need be, and removed again where nothing has come to lie in it.

    Raises:
      InputError: another command works in it; it cannot be written.
    """
    if (folder / "results.json").exists() or folder.is_file():
        yield
        return
    new = not folder.exists()
    try:
        with locks.tried(folder / "run", "--workdir") as mine:
            if not mine:
                raise InputError(
                    f"another command works in {folder}; wait until it has ended, or "
                    "choose another --workdir"
                )
            yield
    finally:
        if new and processes.first():
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


def changed(folder: pathlib.Path, config: ml_collections.ConfigDict) -> dict:
    """Fields in which the run in a folder is another, with the value it has there.

    Args:
      folder: of a run, or of none, which nothing is changed from.
      config: completed.
    """
    theirs = results.read_json(folder / "config.json")
    if theirs is None:
        return {}
    mine = json.loads(json.dumps(config.to_dict()))
    theirs = json.loads(json.dumps(methods.completed(theirs).to_dict()))
    values = dict(fields.flat(theirs))
    others = fields.differing(mine, theirs) - set(PLACES)
    return {name: values.get(name) for name in others}
