"""Data sets: what categories there are, their splits, and batches of them.

Example:
  split = data.load(config.dataset, "mono", "train")
  for batch in data.eval_batches(split, batch_size=16):
      batch["image"]  # float32 [16, H, W, 3] in [0, 1]

Images are not normalised here: mean and standard deviation belong to the weights.

A data set of your own is as good as ours: `config.dataset.name` takes the dotted path
of a module that defines

  categories(config) -> (those that "all" stands for, every one that can be named)
  load(config, category, name, geometry) -> Split
      Of the split that `name` names, "train" or "test".

where `config` is `config.dataset`.
"""

import dataclasses
import logging
import os
import pathlib
from typing import Any

import ml_collections
import numpy as np

from jaxad import config as config_lib
from jaxad.data import builders, folder, images, protocol
from jaxad.data import corpus as corpus_lib
from jaxad.data import given as given_lib
from jaxad.data.batches import (
    THREADS,
    batches_of,
    eval_batches,
    require_enough_textures,
    train_batches,
)
from jaxad.data.images import Geometry
from jaxad.data.split import Decoded, Note, Split, joined
from jaxad.data.textures import load as load_textures
from jaxad.errors import InputError, did_you_mean
from jaxad.names import find_module

__all__ = (
    "THREADS",
    "Decoded",
    "Geometry",
    "Note",
    "Split",
    "categories",
    "batches_of",
    "corpus",
    "eval_batches",
    "good",
    "joined",
    "load",
    "load_textures",
    "published",
    "require_enough_textures",
    "train_batches",
    "validation",
)

_LOG = logging.getLogger(__name__)

# Fields that say where data come from, and for which of our data sets.
_ONLY = {
    **dict.fromkeys(
        ("path", "anomalous_path", "normal_names", "test_share"), (folder.NAME,)
    ),
    "manual_dir": builders.NAMES,
    "download": tuple(name for name in builders.NAMES if name != "elpv"),
}


def categories(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The categories that `config.category` names.

    Args:
      config: `config.dataset`; its category is a name, a comma-separated list or "all".

    Raises:
      InputError: the data set or a category does not exist, or `shots` or `draw` does
        not fit the protocol.
    """
    source = _source(config)
    everything, known = source.categories(config)
    if source is folder:
        folder.require_names(config)
    if config.category == "all":
        return everything
    names = tuple(filter(None, (part.strip() for part in config.category.split(","))))
    for name in names:
        if name not in known:
            raise InputError(
                f"config.dataset.category={name!r} is not in {config.name}"
                f"{did_you_mean(name, known)}; choose all or some of {', '.join(known)}"
            )
    if not names:
        raise InputError("config.dataset.category is empty; name one, or all")
    return tuple(dict.fromkeys(names))


def require_named(config: ml_collections.ConfigDict) -> None:
    """Finds misspelt categories of our data sets, whether or not these are there.

    Raises:
      InputError: as `categories`.
    """
    if config.name in builders.NAMES:
        categories(config)


def require_known(config: ml_collections.ConfigDict) -> None:
    """Finds at once what looking for categories or images would find later.

    Args:
      config: `config.dataset`.

    Raises:
      InputError: there is no such data set or category, a field is not for it, or the
        path of own images does not exist.
    """
    require_named(config)
    if _source(config) is folder:
        folder.require_path(config)


def require_here(config: ml_collections.ConfigDict) -> None:
    """Finds at once that nothing of one of our data sets is on this machine.

    Raises:
      InputError: as `load`; NotHere where it could be downloaded.
    """
    if config.name in builders.NAMES:
        builders.require_here(config)


def load(config: ml_collections.ConfigDict, category: str, split: str) -> Split:
    """A split of a category; the data set is prepared on first use.

    Args:
      config: `config.dataset`.
      category: one of `categories(config)`.
      split: "train" or "test".

    Raises:
      InputError: data or a package are missing, or there is no training image. Without
        test images a detector is fitted all the same.
    """
    source, geometry = _source(config), _geometry(config)

    def of(name: str) -> Split:
        return source.load(config, category, name, geometry)

    if config.protocol == "1cls" or config.name in builders.DIVIDED:
        loaded = of(split)
    else:
        loaded = protocol.divided(
            of("train"), of("test"), config.protocol, category, split
        )
    if config.shots and split == "train":
        rows = protocol.few_shot(category, config.draw, config.shots, loaded.labels)
        loaded = loaded.take(rows)
    loaded = _completed(loaded, config)
    if split == "train" and not len(loaded):
        worst = sorted(loaded.notes, key=lambda note: not note.grave)
        but = f", but there is: {worst[0]}" if worst else ""
        raise InputError(f"{config.name}/{category} has no training image{but}")
    return loaded


def published(config: ml_collections.ConfigDict, category: str) -> int:
    """Normal training images of a category that could be downloaded.

    Args:
      config, category: as `load` takes them, where it raises NotHere.
    """
    count = builders.published(config, category)
    return min(count, config.limit or count)


def corpus(config: ml_collections.ConfigDict) -> Split:
    """What to pre-train on; `jaxad.data.corpus` says what that may be.

    Args:
      config: `config.dataset`.

    Returns:
      A split whose `labels` number its `classes`, where it has some.

    Raises:
      InputError: data or a package are missing, or there is no picture.
    """
    plain = corpus_lib.pictures(config, _geometry(config))
    if plain is not None:
        return _decoded_small(plain, config)
    names = categories(config)
    splits = [load(config, name, "train").normal() for name in names]
    for name, split in zip(names, splits, strict=True):
        if not len(split):
            raise InputError(f"{config.name}/{name} has no normal training image")
    return corpus_lib.of_categories(names, splits)


def validation(config: ml_collections.ConfigDict, corpus: Split) -> Split | None:
    """What a data set has to test classifiers of its corpus on.

    Args:
      config: `config.dataset`.
      corpus: of `corpus`.

    Returns:
      A split with the corpus's classes; None where that has none, or the data set has
      no validation set of them.

    Raises:
      InputError: it cannot be read.
    """
    if not corpus.classes:
        return None
    found = corpus_lib.validation(config, _geometry(config), corpus.classes)
    return found and _decoded_small(found, config)


def _decoded_small(plain: Split, config: ml_collections.ConfigDict) -> Split:
    """Pictures may be millions, and no pixel is judged: as small as they can be."""
    decode = images.decoder(config.max_pixels, plain.geometry)
    return _completed(dataclasses.replace(plain, decode=decode), config)


def _completed(split: Split, config: ml_collections.ConfigDict) -> Split:
    """A split with the config's geometry in its version, its decoder and its limit."""
    split = dataclasses.replace(split, version=f"{split.version}/{split.geometry}")
    if split.decode is images.decode_image:
        decode = images.decoder(config.max_pixels)
        split = dataclasses.replace(split, decode=decode)
    if config.limit:
        split = split.take(_limited(split.labels, config.limit))
    return split


def good(
    config: ml_collections.ConfigDict, given: Any, category: str | None = None
) -> Split:
    """All normal training images that a user has given, at the config's size.

    Args:
      config: `config.dataset`; what says where its own images are does not count.
      given: a folder or a CSV as `config.path` takes it, of which the training images
        count; or whatever else `jaxad.data.given` takes.
      category: which of several to take.

    Raises:
      InputError: there are none, or several categories; what is there cannot be taken
        as it stands.
    """
    is_path = isinstance(given, str | os.PathLike)
    if not is_path or not pathlib.Path(given).expanduser().exists():
        items = given_lib.items(given, max_pixels=config.max_pixels)
        return given_lib.split(items, _geometry(config))
    source = config.copy_and_resolve_references()
    fields = *_ONLY, "protocol", "shots", "draw"
    source.update({field: _default(field) for field in fields})
    source.update(name=folder.NAME, path=str(given), category="all", limit=0)
    # All are to be learnt from.
    source.update(normal_names=config.normal_names, test_share=0.0)
    # The names are those of the run, not of these.
    found, _ = folder.categories(source)
    if category not in found and len(found) > 1:
        lacks = f", but not {category}" if category else ""
        raise InputError(
            f"images={given} has the categories {', '.join(found)}{lacks}; name the "
            "folder of one"
        )
    split = load(source, category if category in found else found[0], "train").normal()
    if not len(split):
        raise InputError(f"images={given} has no normal image")
    for note in split.notes:
        if note.grave and config.check:
            raise InputError(
                f"images={given}: {note}; mend it, or config.dataset.check=False goes "
                "on regardless"
            )
        _LOG.warning("%s: %s", given, note)
    return split


def _geometry(config: ml_collections.ConfigDict) -> Geometry:
    geometry = Geometry.from_config(config)
    if min(geometry.size) < 1:
        raise InputError(
            f"config.dataset.image_size={geometry.size} must be two sizes in pixels, "
            "(height, width)"
        )
    return geometry


def _limited(labels: np.ndarray, limit: int) -> list[int]:
    """At most `limit` rows of each label, spread evenly over the split."""
    rows = []
    for label in np.unique(labels):
        of_label = np.flatnonzero(labels == label)
        count = min(limit, len(of_label))
        rows += of_label[np.arange(count) * len(of_label) // count].tolist()
    return sorted(rows)


def _default(field: str) -> Any:
    return config_lib.FIELDS["dataset"][field].default


def _source(config: ml_collections.ConfigDict):
    """The module that knows a data set."""
    name = config.name
    known = (*builders.NAMES, folder.NAME)
    own = None
    for field, names in _ONLY.items():
        config_lib.require(
            name not in known
            or name in names
            or not config[field]
            or config[field] == _default(field),
            f"dataset.{field}",
            config[field],
            f"left out with the data set {name}; it is for {', '.join(names)}",
        )
    if name not in known:
        needs = "categories(config)", "load(config, category, name, geometry)"
        own = find_module("dataset.name", name, __name__, known, needs)
    config_lib.choose("dataset.protocol", config.protocol, protocol.NAMES)
    protocol.check(config)
    config_lib.require(
        config.protocol == "1cls" or config.test_share == _default("test_share"),
        "dataset.test_share",
        config.test_share,
        f"left out: config.dataset.protocol={config.protocol} says what tests",
    )
    return own or (folder if name == folder.NAME else builders)
