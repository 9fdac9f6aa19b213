"""Pictures that synthetic anomalies are pasted from: DTD, or any folder of them.

Cimpoi et al., Describing Textures in the Wild, CVPR 2014 (arXiv:1311.3618): 5,640
pictures of 47 kinds of texture.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib

import ml_collections
import numpy as np

from jaxad.data import files, images
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
    found = _whole(versions[-1], files.state(versions[-1]))
    return dataclasses.replace(found, geometry=geometry)


@functools.cache
def _whole(folder: pathlib.Path, state: tuple) -> Split:
    """All of DTD, at no size yet; `state` of the folder is for the cache alone.

    Every picture is read for the version, once a process.
    """
    del state
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        decoders = {"image": tfds.decode.SkipDecoding()}
        sources = [
            builder.as_data_source(split=name, decoders=decoders) for name in _SPLITS
        ]
        digest = hashlib.sha256(builder.info.full_name.encode())
        for source in sources:
            for record in source:
                digest.update(record["image"])
    except Exception as error:  # what array_record raises is not documented
        raise InputError(
            f"{folder} cannot be read as array_record files ({error}); prepare "
            "DTD with file_format='array_record', or name a folder of its pictures "
            "with config.dataset.textures"
        ) from error
    places = [(source, i) for source in sources for i in range(len(source))]

    def read(i: int) -> bytes:
        source, place = places[i]
        return source[place]["image"]

    names = [f"{builder.info.full_name}, picture {i}" for i in range(len(places))]
    version = f"{builder.info.full_name}/{digest.hexdigest()}"
    return _split(names, images.Geometry((0, 0)), version, read)


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
