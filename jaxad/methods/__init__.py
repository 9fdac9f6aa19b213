"""One file a paper; `build` finds it by name."""

import importlib

from jaxad import config as config_lib
from jaxad.methods.base import Backbone, Method

NAMES = ("patchcore", "reconpatch", "tocoad")


def build(config, backbone: Backbone) -> Method:
    """The method that `config.method.name` names.

    Raises:
      InputError: there is no such method, or its own fields cannot work.
    """
    config_lib.choose("method.name", config.method.name, NAMES)
    module = importlib.import_module(f"jaxad.methods.{config.method.name}")
    return module.build(config, backbone)
