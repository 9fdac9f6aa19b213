"""What trains and what tests, where anomalous images are to be learnt from.

  1cls            as the data set has it
  2cls_highshot   60 % of the normal and of the anomalous images train
  2cls_fewshot    20 % of each are a pool, from which a draw takes some shots a class

What does not train tests, all but what a draw leaves in the pool. VisA's divisions are
the published ones, in its own tables; any other data set is divided here, by nothing
but the name of the category. Published draws there are none: these are this project's.

Source: the 2-class protocols of Zou et al., SPot-the-Difference, ECCV 2022
(arXiv:2207.14315).
"""

import dataclasses
from collections.abc import Sequence

import ml_collections
import numpy as np

from jaxad.config import require
from jaxad.data.split import Split, joined
from jaxad.errors import InputError

SHARES = {"2cls_highshot": 0.6, "2cls_fewshot": 0.2}
NAMES = ("1cls", *SHARES)


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where `shots` or `draw` of `config.dataset` do not fit."""
    few = config.protocol == "2cls_fewshot"
    for field in ("shots", "draw"):
        value = config[field]
        if value and not few:
            raise InputError(
                f"config.dataset.{field}={value} is for the protocol 2cls_fewshot, "
                f"not {config.protocol}"
            )
    require(config.draw >= 0, "dataset.draw", config.draw, "0 or more")
    require(
        config.shots or not config.draw,
        "dataset.draw",
        config.draw,
        "0 with config.dataset.shots=0, which takes the pool whole",
    )


def divided(train: Split, test: Split, protocol: str, category: str, name: str):
    """The split of that name, of all images that a data set has.

    Raises:
      InputError: a class has too few images for both.
    """
    whole = joined([train, test])
    chosen = []
    for label, kind in enumerate(("normal", "anomalous")):
        of_class = np.flatnonzero(whole.labels == label)
        count = round(SHARES[protocol] * len(of_class))
        if not 0 < count < len(of_class):
            raise InputError(
                f"config.dataset.protocol={protocol} divides the {len(of_class)} "
                f"{kind} images of {category} into {count} that train and "
                f"{len(of_class) - count} that test; there must be some of both: add "
                f"{kind} images of it, or choose another config.dataset.protocol"
            )
        generator = np.random.default_rng([label, *category.encode()])
        chosen += generator.permutation(of_class)[:count].tolist()
    rows = np.sort(chosen)
    if name != "train":
        rows = np.setdiff1d(np.arange(len(whole)), rows)
    # Of what is left out of either it is enough to be told once.
    notes = whole.notes if name == "train" else ()
    return dataclasses.replace(whole.take(rows), name=name, notes=notes)


def few_shot(category: str, draw: int, shots: int, labels: Sequence[int]) -> list[int]:
    """The rows of a few-shot pool that a draw trains on.

    Args:
      category: the object.
      draw: which draw, 0 or more; the paper averages over five.
      shots: images of each class.
      labels: of the pool, 0 normal and 1 anomalous.

    Returns:
      Rows in rising order. Fewer shots are nested in more, and nothing but category
      and draw decides.

    Raises:
      InputError: the pool has fewer.
    """
    rows, most = [], min(np.bincount(labels, minlength=2))
    for label, kind in enumerate(("normal", "anomalous")):
        of_class = np.flatnonzero(np.asarray(labels) == label)
        if len(of_class) < shots:
            raise InputError(
                f"config.dataset.shots={shots}, but the pool of {category} has only "
                f"{len(of_class)} {kind} images; {most} of each class is the most"
            )
        generator = np.random.default_rng([draw, label, *category.encode()])
        rows += of_class[generator.permutation(len(of_class))[:shots]].tolist()
    return sorted(rows)
