"""One file a paper; `build` finds it by name.

A method of your own is as good: `config.method.name` takes a dotted path, and
`jaxad.methods.base` says what the file defines.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import ml_collections

from jaxad import config as config_lib
from jaxad import fields as fields_lib
from jaxad.errors import InputError
from jaxad.fields import Idle, Table
from jaxad.names import METHODS as NAMES
from jaxad.names import find_module

if TYPE_CHECKING:  # config files import the tables of fields, which need no JAX
    from jaxad.methods.base import Backbone, Method


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


def learns_from(config) -> str:
    """What the method learns from: "normal" images alone, "labels" or "masks".

    Raises:
      InputError: there is no such method.
    """
    module = _module(config)
    if hasattr(module, "learns_from"):
        return module.learns_from(config.method)
    return "normal"


def of_category(config, category: str):
    """The config as a category has it, where the method's fields differ by category.

    Returns:
      The same object where they do not.
    """
    module = _module(config)
    if not hasattr(module, "of_category"):
        return config
    options = module.of_category(config.method, category)
    if options is config.method:
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.method = options
    return config


def leaves(config) -> str:
    """What a run of the method leaves: a "detector", or a "backbone".

    Raises:
      InputError: there is no such method.
    """
    return getattr(_module(config), "LEAVES", "detector")


def build(config, backbone: "Backbone") -> "Method":
    """The method that `config.method.name` names, at `config.precision`.

    Raises:
      InputError: there is no such method, or its own fields cannot work.
    """
    return _module(config).build(config, backbone).at(config.precision)


def fields(config) -> Table:
    """The table of `config.method`; of the name alone where the method has no other.

    Of ours it is `FIELDS` of `<name>_fields`, and needs no JAX.

    Raises:
      InputError: there is no such method.
    """
    ours = config.method.name in NAMES
    module = _fields_of(config) if ours else _module(config)
    return getattr(module, "FIELDS", config_lib.FIELDS["method"])


def _fields_of(config):
    """The file of the fields of one of ours, None where it has none."""
    place = f"{__name__}.{config.method.name}_fields"
    there = importlib.util.find_spec(place) is not None
    return importlib.import_module(place) if there else None


def completed(stored: dict) -> ml_collections.ConfigDict:
    """A config as a run has stored it, with its method's later fields at their
    defaults, and the others as `config.completed` has them.

    Raises:
      InputError: there is no such method, or it has other groups of fields now.
    """
    config = config_lib.completed(stored)
    with config.unlocked():
        method = fields_lib.defaults(fields(config)).unlock()
        try:
            method.update(config.method)
        except (AttributeError, TypeError) as error:  # a number in place of a group
            raise InputError(
                f"the fields of config.method.name={config.method.name} have another "
                f"form in this version than in the stored run ({error}); run it anew "
                "in another --workdir"
            ) from error
        config.method = method
    return config


def check(config) -> None:
    """Checks `config.method` of ours: every field, and what cannot work together.

    Raises:
      InputError: there is no such method, or names the field.
    """
    found = _fields_of(config)
    if hasattr(found, "check"):
        found.check(config)
    else:
        fields_lib.check(fields(config), config.method, "method")


def idle(config) -> list[Idle]:
    """The fields of a config that have not their defaults, and no effect.

    Raises:
      InputError: there is no such method.
    """
    return fields_lib.idle(config_lib.FIELDS, config) + fields_lib.idle(
        fields(config), config.method, "method"
    )


def _module(config):
    return find_module(
        "method.name",
        config.method.name,
        __name__,
        NAMES,
        ("build(config, backbone)",),
    )
