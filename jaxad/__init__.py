"""Anomaly detection in product images with JAX.

Example:
  detector = jaxad.load("runs/demo/mono")
  detector.predict("tomorrow/part_017.jpg").is_anomalous
"""

import importlib
import sys

__version__ = "0.1.0"

# Where what is public lives.
_HOMES = {
    "InputError": "jaxad.errors",
    "Predictor": "jaxad.inference.predictor",
    "Result": "jaxad.inference.predictor",
    "fit": "jaxad.run.alone",
    "load": "jaxad.inference.predictor",
}
_MODULES = {
    "config": "jaxad.config",
    "losses": "jaxad.losses",
    "memory_bank": "jaxad.bank.memory_bank",
    "metrics": "jaxad.metrics",
    "patches": "jaxad.patches",
    "scores": "jaxad.scores",
    "threshold": "jaxad.detectors.threshold",
}
__all__ = (*_HOMES, *_MODULES)


if sys.argv[:1] == ["-m"] and any(
    word.removeprefix("-m").partition(".")[0] == "jaxad" for word in sys.orig_argv
):
    # `python -m jaxad.main` imports this first: what it imports then takes a while, and
    # may be interrupted.
    importlib.import_module("jaxad.signals").catch()


def __getattr__(name: str):
    """Imports what is asked for: JAX alone takes half a second."""
    if name in _MODULES:
        found = importlib.import_module(_MODULES[name])
    elif name in _HOMES:
        found = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'jaxad' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
