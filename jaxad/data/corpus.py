"""A corpus: pictures to pre-train on, with or without classes.

`config.name` and `config.path` name one of

* a data set, or a folder that is laid out as `jaxad.data.folder` has it: the normal
  training images of its categories, which are the classes where there are several;
* a plain folder of pictures; where all lie in folders of it, of which there are two or
  more, these are the classes;
* a folder with `train`, as ImageNet and its subsets are extracted: the same of that;
* a tar of either, or the folder of ImageNet's, ILSVRC2012_img_train.tar, as it is
  downloaded: read where it lies, nothing is extracted;
* a folder that TFDS has prepared as array_record files, such as `imagenet2012/5.1.0`:
  its split `train`.
"""

import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Sequence

import ml_collections
import numpy as np

from jaxad.data import files, folder, images, layout, prepared, tars
from jaxad.data.split import Split, joined
from jaxad.errors import InputError

_LOG = logging.getLogger(__name__)

_TRAIN = "train"
_INFO = "dataset_info.json"


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
    # In their version: other pictures may have the same names, sizes and times.
    root = pathlib.Path(os.path.abspath(pathlib.Path(config.path).expanduser()))
    if config.name != folder.NAME or not config.path or not root.exists():
        return None
    tar = tars.find(root)
    if tar is not None:
        return _of_tar(tar, geometry)
    if not root.is_dir():
        return None
    if (root / _INFO).is_file():
        return _prepared(root, geometry)
    found = _pictures(config, root)
    return _listed(*found, geometry) if found else None


def of_categories(names: Sequence[str], splits: Sequence[Split]) -> Split:
    """The normal training images of categories, which are the classes of several."""
    labels = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
    return dataclasses.replace(
        joined(splits),
        name="corpus",
        labels=labels.astype(np.int32),
        classes=tuple(names) if len(names) > 1 else (),
    )


def _pictures(config, root: pathlib.Path) -> tuple[pathlib.Path, list] | None:
    """Where plain pictures begin, and their folders; None of other layouts."""
    good = folder.good_names(config)
    kind = layout.kind(root, good)
    if kind == layout.TREE:
        (root,) = (
            path for path in files.subfolders(root) if path.name.casefold() == _TRAIN
        )
        if {path.name.casefold() for path in files.subfolders(root)} & good:
            return None
    elif kind != layout.PLAIN or layout.categories(root, good):
        return None
    return root, list(files.walk(root))


def _listed(root: pathlib.Path, walked: list[files.Folder], geometry) -> Split:
    paths = [one.path(name) for one in walked for name in one.images]
    if not paths:
        raise InputError(f"config.dataset.path={root} holds no picture; name another")
    left_out = sum(len(one.unread) + len(one.broken) for one in walked)
    if left_out:
        _LOG.warning("%s: %d pictures cannot be read and are left out", root, left_out)
    digest = hashlib.sha256(os.fsencode(root))
    for path in paths:
        status = os.stat(root / path)
        digest.update(repr((path, status.st_size, status.st_mtime_ns)).encode())
    return _split(
        paths,
        *_classes(paths),
        geometry,
        f"{folder.NAME}/{digest.hexdigest()}",
        lambda i: (root / paths[i]).read_bytes(),
    )


def _of_tar(path: pathlib.Path, geometry) -> Split:
    _LOG.info("%s: looking for the pictures in it", path)
    found = tars.pictures(path)
    if not found:
        raise InputError(f"config.dataset.path={path} holds no picture; name another")
    names = [picture.name for picture in found]
    status = os.stat(path)
    version = repr((str(path), names, status.st_size, status.st_mtime_ns)).encode()
    return _split(
        names,
        *_classes([name.removeprefix(f"{_TRAIN}/") for name in names]),
        geometry,
        f"tar/{hashlib.sha256(version).hexdigest()}",
        lambda i: tars.read(path, found[i]),
    )


def _classes(paths: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Of each picture the number of its class, and the classes; () where none are."""
    first = [path.partition("/")[0] if "/" in path else "" for path in paths]
    classes = tuple(sorted(set(first)))
    if "" in classes or len(classes) < 2:
        return [0] * len(paths), ()
    number = {name: i for i, name in enumerate(classes)}
    return [number[name] for name in first], classes


def _prepared(root: pathlib.Path, geometry) -> Split:
    found = prepared.read(
        root,
        (_TRAIN,),
        mend="prepare it with file_format='array_record', or name the extracted folder "
        "of its pictures as config.dataset.path",
    )
    return _split(
        found.filenames,
        found.labels,
        found.classes,
        geometry,
        f"{found.name}/{found.digest}",
        lambda i: found.records[i]["image"],
    )


def _split(names, labels, classes, geometry, version, read) -> Split:
    return Split(
        name="corpus",
        filenames=names,
        labels=np.array(labels, np.int32),
        defect_types=["good"] * len(names),
        has_masks=False,
        geometry=geometry,
        version=f"corpus/{version}",
        read=lambda i: (read(i), None),
        classes=classes,
    )
