"""One file a scorer; `build` finds it by name.

What a detector is stands in `jaxad.detectors.base`.
"""

from jaxad.detectors.base import Scorer
from jaxad.names import DETECTORS as NAMES
from jaxad.names import find_module


def build(config) -> Scorer:
    """The scorer that `config.detector.name` names.

    Raises:
      InputError: there is none, or its fields cannot work.
    """
    module = find_module(
        "detector.name",
        config.detector.name,
        "jaxad.detectors",
        NAMES,
        ("build(config)",),
    )
    return module.build(config)
