"""Logits of a trained network: what it has learnt is all there is.

The method gives one channel a patch, the log-odds of an anomaly, raw: no sigmoid comes
between them and their rank. An image scores what `config.detector.image_score` makes of
its patches.
"""

from jaxad.detectors.base import Scored, Scorer, State, image_score
from jaxad.errors import InputError


def build(config) -> Scorer:
    """Patches score the one channel they have.

    Raises:
      InputError: an image score that needs a memory bank.
    """
    options = config.detector.to_dict()
    if options["image_score"] == "reweighted":
        raise InputError(
            "config.detector.image_score=reweighted needs the memory bank of "
            "config.detector.name=knn; choose max, mean or top_fraction for logits"
        )

    def score(state: State, described) -> Scored:
        del state
        patches = described[..., 0]
        return Scored(patches, image_score(options, patches))

    return Scorer(
        fit=None, score=score, check=_check, unit="the log-odds of an anomaly"
    )


def _check(images: int, grid: tuple[int, int], width: int) -> None:
    del images, grid
    if width != 1:
        raise InputError(
            f"config.detector.name=logits takes one channel a patch, and there are "
            f"{width}; choose config.method.name=two_class, or another detector"
        )
