"""One file a scorer; `build` finds it by name.

What a detector is stands in `jaxad.detectors.base`.
"""

from jaxad import config as config_lib
from jaxad.detectors.base import Scorer
from jaxad.names import DETECTORS as NAMES


def build(config) -> Scorer:
    """The scorer that `config.detector.name` names.

    Raises:
      InputError: there is none, or its fields cannot work.
    """
    module = config_lib.find_module(
        "detector.name",
        config.detector.name,
        "jaxad.detectors",
        NAMES,
        ("build(config)",),
    )
    return module.build(config)
