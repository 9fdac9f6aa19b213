"""What an ablation study starts from: a method's config on one of the data sets."""

import importlib

from jaxad.errors import InputError

DATA = ("mvtec", "visa", "btad", "elpv")


def get_config(method, arg=None):
    """configs/<method>_<data>.py of `data=<one of DATA>`, MVTec AD by default.

    The other arguments are that config's own.
    """
    given = [item for item in (arg or "").split(",") if item]
    data = [item.removeprefix("data=") for item in given if item.startswith("data=")]
    rest = [item for item in given if not item.startswith("data=")]
    name = data[-1] if data else "mvtec"
    if name not in DATA:
        raise InputError(
            f"config argument data={name} must be one of {', '.join(DATA)}"
        )
    config = importlib.import_module(f"configs.{method}_{name}")
    return config.get_config(",".join(rest))
