"""A corpus: pictures to pre-train on, with or without classes, and to test them on.

`config.name` and `config.path` name one of

* a data set, or a folder that is laid out as `jaxad.data.folder` has it: the normal
  training images of its categories, which are the classes where there are several;
* a plain folder of pictures; where all lie in folders of it, of which there are two or
  more, these are the classes;
* a folder with `train`, as ImageNet and its subsets are extracted: the same of that,
  and `val` beside it (or `valid`, `validation`) is the validation set;
* a tar of either, or the folder of ImageNet's, ILSVRC2012_img_train.tar and
  ILSVRC2012_img_val.tar, as they are downloaded: read where they lie, nothing is
  extracted;
* a folder that TFDS has prepared as array_record files, such as `imagenet2012/5.1.0`:
  its splits `train` and `validation`.
"""

import dataclasses
import hashlib
import importlib.resources
import logging
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from jaxad.data import files, folder, images, layout, prepared, tars
from jaxad.data.split import Split, joined
from jaxad.errors import InputError

_LOG = logging.getLogger(__name__)

TRAIN, VALIDATION = "train", "validation"
_FOLDERS = {TRAIN: ("train",), VALIDATION: ("val", "valid", "validation")}
_INFO = "dataset_info.json"
# Of ImageNet's validation set, which is no folder a class; TFDS brings its classes.
_UNSORTED = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


class _Found(NamedTuple):
    """Pictures, the class of each by its folder ("" of one in none), all classes in
    their order, text that changes with them, and `i -> encoded bytes`."""

    names: list[str]
    labels: list[str]
    classes: tuple[str, ...]
    version: str
    read: Callable[[int], bytes]


def pictures(
    config: ml_collections.ConfigDict, geometry: images.Geometry
) -> Split | None:
    """Plain pictures; None where the config names anything else.

    Args:
      config: `config.dataset`.
      geometry: how they become the config's size.

    Raises:
      InputError: there are none, or they cannot be read.
    """
    found = _found(config, TRAIN)
    if found is None:
        return None
    if not found.names:
        raise InputError(
            f"config.dataset.path={config.path} holds no picture; name another"
        )
    return _split(found, found.classes, geometry)


def validation(
    config: ml_collections.ConfigDict, geometry: images.Geometry, classes: Sequence[str]
) -> Split | None:
    """The validation set of plain pictures; None where there is none of these classes.

    Args:
      config, geometry: as `pictures` takes them.
      classes: of what trains.

    Raises:
      InputError: it cannot be read.
    """
    found = _found(config, VALIDATION)
    if found is None or not found.names:
        return None
    for name, label in zip(found.names, found.labels, strict=True):
        if label not in classes:
            _LOG.warning(
                "the validation set in %s is not used: %s lies in no folder that is "
                "named as one of the %d classes of the training set",
                *(config.path, name, len(classes)),
            )
            return None
    return _split(found, classes, geometry)


def of_categories(names: Sequence[str], splits: Sequence[Split]) -> Split:
    """The normal training images of categories, which are the classes of several."""
    labels = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
    return dataclasses.replace(
        joined(splits),
        name="corpus",
        labels=labels.astype(np.int32),
        classes=tuple(names) if len(names) > 1 else (),
    )


def _found(config, split: str) -> _Found | None:
    # In their version: other pictures may have the same names, sizes and times.
    root = pathlib.Path(os.path.abspath(pathlib.Path(config.path).expanduser()))
    if config.name != folder.NAME or not config.path or not root.exists():
        return None
    tar = tars.find(root)
    if tar is not None:
        return _in_tar(tar, split)
    if not root.is_dir():
        return None
    if (root / _INFO).is_file():
        return _in_prepared(root, split)
    root = _folder(config, root, split)
    return root and _in_folder(root)


def _folder(config, root: pathlib.Path, split: str) -> pathlib.Path | None:
    """Where plain pictures begin; None where there are none, or of other layouts."""
    good = folder.good_names(config)
    kind = layout.kind(root, good)
    if kind == layout.TREE:
        inside = {path.name.casefold(): path for path in files.subfolders(root)}
        if {path.name.casefold() for path in files.subfolders(inside["train"])} & good:
            return None
        return next((inside[x] for x in _FOLDERS[split] if x in inside), None)
    if kind != layout.PLAIN or layout.categories(root, good) or split != TRAIN:
        return None
    return root


def _in_folder(root: pathlib.Path) -> _Found:
    walked = list(files.walk(root))
    paths = [one.path(name) for one in walked for name in one.images]
    left_out = sum(len(one.unread) + len(one.broken) for one in walked)
    if left_out:
        _LOG.warning("%s: %d pictures cannot be read and are left out", root, left_out)
    digest = hashlib.sha256(os.fsencode(root))
    for path in paths:
        status = os.stat(root / path)
        digest.update(repr((path, status.st_size, status.st_mtime_ns)).encode())
    return _of_folders(
        paths,
        paths,
        f"{folder.NAME}/{digest.hexdigest()}",
        lambda i: (root / paths[i]).read_bytes(),
    )


def _in_tar(path: pathlib.Path, split: str) -> _Found | None:
    alone = path.name == tars.IMAGENET  # ImageNet's are a tar a split
    if alone and split == VALIDATION:
        path = path.with_name(tars.IMAGENET_VALIDATION)
        if not path.is_file():
            return None
    _LOG.info("%s: looking for the pictures in it", path)
    found = tars.pictures(path)
    paths = [picture.name for picture in found]
    if not alone:
        found, paths = _part(found, paths, split)
    names = [picture.name for picture in found]
    status = os.stat(path)
    version = repr((str(path), names, status.st_size, status.st_mtime_ns)).encode()
    return _of_folders(
        names,
        paths,
        f"tar/{hashlib.sha256(version).hexdigest()}",
        lambda i: tars.read(path, found[i]),
    )


def _part(found: list, paths: list[str], split: str) -> tuple[list, list[str]]:
    """The pictures of a split of a tar, and their paths in its folder; all train where
    no folder does."""
    parts = [path.partition("/") for path in paths]
    tops = [top.casefold() for top, _, _ in parts]
    if not set(tops) & set(_FOLDERS[TRAIN]):
        return (found, paths) if split == TRAIN else ([], [])
    rows = [i for i, top in enumerate(tops) if top in _FOLDERS[split]]
    return [found[i] for i in rows], [parts[i][2] for i in rows]


def _of_folders(names, paths: Sequence[str], version: str, read) -> _Found:
    """Of paths whose first folders are the classes, where all lie in one of several."""
    labels = [path.partition("/")[0] if "/" in path else "" for path in paths]
    if any(map(_UNSORTED.fullmatch, paths[:1])):
        labels = _of_imagenet(paths)
    classes = tuple(sorted(set(labels)))
    if "" in classes or len(classes) < 2:
        classes = ()
    return _Found(list(names), labels, classes, version, read)


def _of_imagenet(paths: Sequence[str]) -> list[str]:
    """The classes of pictures of ImageNet's validation set, by their numbers."""
    place = "datasets/imagenet2012/validation_labels.txt"
    known = importlib.resources.files("tensorflow_datasets") / place
    classes, labels = known.read_text().split(), []
    for path in paths:
        match = _UNSORTED.fullmatch(path)
        labels.append(classes[int(match[1]) - 1] if match else "")
    return labels


def _in_prepared(root: pathlib.Path, split: str) -> _Found | None:
    if split == VALIDATION and split not in prepared.splits(root):
        return None
    found = prepared.read(
        root,
        (split,),
        mend="prepare it with file_format='array_record', or name the extracted folder "
        "of its pictures as config.dataset.path",
    )
    names = found.classes or ("",)
    return _Found(
        found.filenames,
        [names[label] for label in found.labels],
        found.classes,
        f"{found.name}/{found.digest}",
        lambda i: found.records[i]["image"],
    )


def _split(found: _Found, classes: Sequence[str], geometry) -> Split:
    number = {name: i for i, name in enumerate(classes)}
    labels = [number[label] if classes else 0 for label in found.labels]
    return Split(
        name="corpus",
        filenames=found.names,
        labels=np.array(labels, np.int32),
        defect_types=["good"] * len(labels),
        has_masks=False,
        geometry=geometry,
        version=f"corpus/{found.version}",
        read=lambda i: (found.read(i), None),
        classes=tuple(classes),
    )
