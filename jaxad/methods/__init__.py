"""One file a paper; `build` finds it by name."""

import importlib
from collections.abc import Callable

from jaxad import config as config_lib
from jaxad.methods.base import Backbone, Method

NAMES = ("patchcore", "reconpatch", "tocoad")


def complete(config, *, textures: Callable[[], object]) -> None:
    """Fills in what a method's fields leave to the data that are there.

    Args:
      config: changed in place.
      textures: gives the texture source, None where there is none.

    Raises:
      InputError: there is no such method.
    """
    module = _module(config)
    if hasattr(module, "complete"):
        module.complete(config.method, textures=textures)


def pasted(config) -> str | None:
    """What synthetic anomalies are made of, None where the method makes none."""
    module = _module(config)
    return module.pasted(config.method) if hasattr(module, "pasted") else None


def build(config, backbone: Backbone) -> Method:
    """The method that `config.method.name` names.

    Raises:
      InputError: there is no such method, or its own fields cannot work.
    """
    return _module(config).build(config, backbone)


def _module(config):
    config_lib.choose("method.name", config.method.name, NAMES)
    return importlib.import_module(f"jaxad.methods.{config.method.name}")
