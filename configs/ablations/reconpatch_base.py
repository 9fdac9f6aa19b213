"""What ReConPatch's ablations start from: configs/reconpatch_<data>.py, or MVTec's."""

import importlib

from jaxad.errors import InputError

DATA = ("mvtec", "visa", "btad", "elpv")


def get_config(arg=None):
    """The config of `data=<one of DATA>`; the other arguments are that config's."""
    given = [item for item in (arg or "").split(",") if item]
    data = [item.removeprefix("data=") for item in given if item.startswith("data=")]
    rest = [item for item in given if not item.startswith("data=")]
    name = data[-1] if data else "mvtec"
    if name not in DATA:
        raise InputError(
            f"config argument data={name} must be one of {', '.join(DATA)}"
        )
    config = importlib.import_module(f"configs.reconpatch_{name}")
    return config.get_config(",".join(rest))
