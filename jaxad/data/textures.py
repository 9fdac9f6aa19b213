"""Pictures that synthetic anomalies are pasted from: DTD, or any folder of them.

Cimpoi et al., Describing Textures in the Wild, CVPR 2014 (arXiv:1311.3618): 5,640
pictures of 47 kinds of texture.
"""

import dataclasses
import hashlib
import os
import pathlib

import ml_collections
import numpy as np

from jaxad.data import images, prepared
from jaxad.data.split import Split
from jaxad.errors import InputError

_SPLITS = ("train", "validation", "test")  # together, they are all of DTD


def load(config: ml_collections.ConfigDict) -> Split | None:
    """The texture source: the folder that is named, or DTD where TFDS has prepared it.

    Args:
      config: `config.dataset`; `textures` is a folder, whose subfolders count, or "".

    Returns:
      Pictures at the size of the config's images; None where there is no source.

    Raises:
      InputError: the folder does not exist or holds no image.
    """
    geometry = images.Geometry(tuple(config.image_size))
    if config.textures:
        root = pathlib.Path(config.textures).expanduser()
        found = _folder(pathlib.Path(os.path.abspath(root)), geometry)
    else:
        found = _prepared(os.path.expanduser(config.data_dir), geometry)
    if found is None:
        return None
    return dataclasses.replace(found, decode=images.decoder(config.max_pixels))


def _folder(root: pathlib.Path, geometry: images.Geometry) -> Split:
    if not root.is_dir():
        raise InputError(
            f"config.dataset.textures={root} is not a folder; name one of pictures, "
            'such as the folder images of DTD, or "" for none'
        )
    paths = [
        os.path.join(folder, name)
        for folder, _, _ in sorted(os.walk(root))
        for name in images.names(folder)
    ]
    if not paths:
        raise InputError(
            f"config.dataset.textures={root} holds no image; name a folder of pictures"
        )
    digest = hashlib.sha256()
    for path in paths:
        status = os.stat(path)
        digest.update(repr((path, status.st_size, status.st_mtime_ns)).encode())
    return _split(
        [os.path.relpath(path, root) for path in paths],
        geometry,
        f"{root}/{digest.hexdigest()}",
        lambda i: pathlib.Path(paths[i]).read_bytes(),
    )


def _prepared(data_dir: str, geometry: images.Geometry) -> Split | None:
    """The newest DTD that TFDS has prepared."""
    import tensorflow_datasets as tfds

    folder = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR, "dtd")
    versions = sorted(folder.expanduser().glob("*.*.*"))
    if not versions:
        return None
    found = prepared.read(
        versions[-1],
        _SPLITS,
        mend="prepare DTD with file_format='array_record', or name a folder of its "
        "pictures with config.dataset.textures",
    )
    version = f"{found.name}/{found.digest}"
    return _split(
        found.filenames, geometry, version, lambda i: found.records[i]["image"]
    )


def _split(names, geometry, version, read) -> Split:
    return Split(
        name="textures",
        filenames=names,
        labels=np.zeros(len(names), np.int32),
        defect_types=["good"] * len(names),
        has_masks=False,
        geometry=geometry,
        version=f"textures/{version}",
        read=lambda i: (read(i), None),
    )
