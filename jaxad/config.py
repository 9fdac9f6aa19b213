"""Configs: the fields every run has, typed arguments, and checks that name the field.

A config file defines `get_config(arg=None)` and starts from `base()`:

  from jaxad import config as config_lib

  def get_config(arg=None):
      args = config_lib.parse_arg(arg, runlocal=False, category="mono")
      config = config_lib.base()
      config.dataset.name = "elpv"
      config.dataset.category = args.category
      return config_lib.runlocal(config) if args.runlocal else config

An ablation study also defines `sweep(add)`, see `jaxad.sweep`.

`FIELDS` is the table of the shared fields, `base()` its defaults and `validate` its
checks (`jaxad.config_fields`); a method has its own (`jaxad.methods.base`).
docs/fields.md lists them all.

`--config FILE:category=poly,runlocal` sets the arguments, `--config.a.b=v` any field.
"""

import importlib.util
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from jaxad import fields
from jaxad.config_fields import FIELDS as FIELDS
from jaxad.config_fields import base as base
from jaxad.config_fields import validate as validate
from jaxad.errors import InputError, did_you_mean
from jaxad.fields import choose as choose
from jaxad.fields import require as require

_STUDIED = ("mvtec", "visa", "btad", "elpv")

# Ours, as installed with the package or beside it in a clone.
_PACKAGED = pathlib.Path(__file__).parent / "configs"
_FOLDER = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parents[1] / "configs"


def names() -> tuple[str, ...]:
    """The configs that can be named from anywhere: "tocoad_mvtec" and so on."""
    paths = sorted(_FOLDER.rglob("*.py"), key=lambda path: (path.parent, path.name))
    return tuple(path.relative_to(_FOLDER).with_suffix("").as_posix() for path in paths)


def find(given: str) -> str:
    """The path of a config file that is given by its path, or by the name of ours.

    Raises:
      InputError: there is no such file, or it is no Python file.
    """
    path = pathlib.Path(given).expanduser()
    if path.is_dir():
        raise InputError(f"the config file {given} is a folder; name a file in it")
    if path.exists():
        if path.suffix != ".py":
            raise InputError(
                f"the config file {given} is not a Python file, NAME.py, which defines "
                "get_config()"
            )
        return str(path)
    name, known = given.removeprefix("configs/").removesuffix(".py"), names()
    if name not in known:
        ours = ", ".join(one for one in known if "/" not in one)
        hint = did_you_mean(name, known) or f"; ours are {ours} and ablations/..."
        raise InputError(f"the config file {given} does not exist{hint}")
    return str(_FOLDER / f"{name}.py")


def is_ours(path: str) -> bool:
    """Whether a config file is one that can be named."""
    return pathlib.Path(path).resolve().is_relative_to(_FOLDER.resolve())


def study(
    method: str, arg: str | None, configs: Mapping[str, str] | None = None
) -> ml_collections.ConfigDict:
    """What an ablation study of ours starts from.

    It is the config of `data=<name>` in the argument, the first one by default; the
    other arguments are that config's own.

    Args:
      method: whose configs are `<method>_<data>` for mvtec, visa, btad and elpv.
      arg: of the study.
      configs: data -> config, where they are others.
    """
    configs = configs or {name: f"{method}_{name}" for name in _STUDIED}
    data, rest = taken(arg, "data")
    name = next(iter(configs)) if data is None else data
    require_argument("data", name, configs)
    path = _FOLDER / f"{configs[name]}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(rest)


def require_argument(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raises InputError unless a config file's argument is one of `allowed`."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise InputError(
            f"config argument {name}={value} must be one of {', '.join(allowed)}"
            f"{did_you_mean(value, allowed)}"
        )


def taken(arg: str | None, name: str) -> tuple[str | None, str]:
    """What a config file's argument gives by a name, the last time, and all else of it.

    None where it is not given, "" of a bare name.
    """
    items = [item.partition("=") for item in (arg or "").split(",") if item]
    values = [value for key, _, value in items if key == name]
    rest = ["".join(item) for item in items if item[0] != name]
    return values[-1] if values else None, ",".join(rest)


def changes(
    start: ml_collections.ConfigDict, end: ml_collections.ConfigDict
) -> dict[str, Any]:
    """Fields, named with dots, in which a config is another: what a sweep adds."""
    start, end = start.to_dict(), end.to_dict()
    other = fields.differing(start, end)
    return {name: value for name, value in fields.flat(end) if name in other}


# What was done before there was a field for it, where its default is another thing.
_BEFORE = {"precision": "default"}


def completed(stored: dict) -> ml_collections.ConfigDict:
    """A config as a run has stored it, with what came later as it was before."""
    config = base()
    with config.unlocked():
        config.method = {}
        config.update(_BEFORE)
        config.update(ml_collections.ConfigDict(stored))
    return config


def runlocal(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks a run to a few images, and the same code paths: seconds on a laptop, with
    large backbones minutes.

    What can be given as an argument is left to `parse_arg`, or it would be overruled.
    """
    config.dataset.limit = 24
    config.overlays = 1
    return config


def parse_arg(
    arg: str | None, local: Mapping[str, Any] | None = None, **defaults: Any
) -> ml_collections.ConfigDict:
    """Reads a config file's argument, `"category=poly,runlocal"`.

    Each value takes the type of its default; a bare name means True.

    Args:
      arg: None is none.
      local: with `runlocal`, what arguments are that were not given, such as one
        category in place of all.
      **defaults: the arguments.

    Raises:
      InputError: unknown name, or a value that does not fit the default's type.
    """
    chosen = {}
    for item in filter(None, (arg or "").split(",")):
        name, given, text = item.partition("=")
        if name not in defaults:
            raise InputError(
                f"config argument {name!r} does not exist"
                f"{did_you_mean(name, defaults)}; this config takes "
                f"{', '.join(sorted(defaults))}"
            )
        chosen[name] = _cast(name, text if given else "true", defaults[name])
    small = (local or {}) if chosen.get("runlocal") else {}
    return ml_collections.ConfigDict({**defaults, **small, **chosen})


def _cast(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise InputError(f"config argument {name}={text} must be true or false")
        return text.lower() in ("true", "1")
    try:
        return type(default)(text)
    except ValueError:
        kind = type(default).__name__
        raise InputError(
            f"config argument {name}={text} must be of type {kind}"
        ) from None
