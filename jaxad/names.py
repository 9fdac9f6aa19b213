"""What fields of a config name: one of ours, or a module by its dotted path.

Ours are listed here, and not beside what is named: a misspelt name is then told before
JAX is imported.
"""

import importlib
import types
from collections.abc import Sequence

from jaxad.errors import InputError
from jaxad.fields import choose, require

BACKBONES = (
    "efficientnet_lite0",
    "resnet18",
    "resnet50",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext101_32x8d",
    "densenet201",
    "dinov2_vits14",
    "dinov2_vitb14",
    "dinov2_vits14_reg",
    "dinov2_vitb14_reg",
    "dinov3_vits16",
    "dinov3_vitb16",
)
# Those with residual blocks, which can begin as the identity.
RESIDUAL = (
    *("resnet18", "resnet50", "wide_resnet50_2", "wide_resnet101_2"),
    "resnext101_32x8d",
)
METHODS = ("patchcore", "reconpatch", "tocoad", "spd", "two_class")
DETECTORS = ("knn", "padim", "logits")
# Of methods: `optim.scale_by`, and in `models` what heads normalise with and what
# `decoder` connects to a backbone with.
OPTIMISERS = ("adam", "adamw", "sgd", "lars")
NORMS = ("batch", "layer")
SKIPS = ("none", "unet")


def require_known(field: str, name: str, known: Sequence[str]) -> None:
    """Raises InputError for a name that is none of these, and no dotted path."""
    if "." not in name:
        choose(field, name, tuple(known), " or, of your own, a dotted path")


def find_module(
    field: str, name: str, package: str, known: Sequence[str], needs: Sequence[str]
) -> types.ModuleType:
    """The file that a field names: one of a package, or any by its dotted path.

    Args:
      field: for messages, such as "method.name".
      name: its value; a dotted path such as "mypackage.mymethod" is imported as it is.
      package: of the files that are named without one.
      known: those files.
      needs: functions that the file defines, with their arguments for messages:
        "build(config, backbone)".

    Raises:
      InputError: there is no such file, it imports what is not installed, or it lacks
        a function.
    """
    require_known(field, name, known)
    path = name if "." in name else f"{package}.{name}"
    named = all(part.isidentifier() for part in path.split("."))
    require(named, field, repr(name), "a dotted path, such as mypackage.mymodule")
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if f"{path}.".startswith(f"{error.name}."):
            raise InputError(
                f"config.{field}={name} does not exist: there is no module "
                f"{error.name}; install its package, or put its folder on PYTHONPATH"
            ) from error
        raise InputError(
            f"config.{field}={name} imports {error.name}, which is not installed"
        ) from error
    for function in needs:
        if not callable(getattr(module, function.partition("(")[0], None)):
            raise InputError(
                f"config.{field}={name} has no {function}; the docstring of {package} "
                "says what such a file defines"
            )
    return module
