"""Data sets with a TFDS builder: prepared on first use, read without TensorFlow."""

import contextlib
import hashlib
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator

import ml_collections
import numpy as np

from jaxad.data import images
from jaxad.data.split import Split

_LOG = logging.getLogger(__name__)

NAMES = ("elpv", "mvtec_ad", "visa", "btad")


def categories(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The categories that "all" stands for, and every one that can be named."""
    builder = _class(name)
    return tuple(builder.CATEGORIES), tuple(builder.builder_configs)


def load(
    config: ml_collections.ConfigDict,
    category: str,
    name: str,
    geometry: images.Geometry,
) -> Split:
    """A split of a category, prepared if it is not yet.

    Raises:
      InputError: something is missing from which to prepare it.
    """
    builder = _prepared(config, category)
    from tensorflow_datasets import decode

    raw = {
        feature: decode.SkipDecoding()
        for feature in ("image", "mask")
        if feature in builder.info.features
    }
    records = builder.as_data_source(split=name, decoders=raw)
    has_masks = "mask" in raw
    # One pass over the records, for what has to be known of all of them at once.
    filenames, labels, defect_types = [], [], []
    digest = hashlib.sha256(builder.info.full_name.encode())
    for record in records:
        filenames.append(record["filename"].decode())
        labels.append(record["label"])
        defect_types.append(record["defect_type"].decode())
        for feature in ("filename", *raw):
            digest.update(record[feature])

    def read(i: int) -> tuple[bytes, bytes | None]:
        record = records[i]
        return record["image"], record["mask"] if has_masks else None

    return Split(
        name=name,
        filenames=filenames,
        labels=np.array(labels, np.int32),
        defect_types=defect_types,
        has_masks=has_masks,
        geometry=geometry,
        version=f"{builder.info.full_name}/{name}/{digest.hexdigest()}",
        read=read,
    )


def _class(name: str):
    # Late: tensorflow_datasets takes most of a second to import.
    return importlib.import_module(f"tfds_builders.{name}").Builder


def _prepared(config: ml_collections.ConfigDict, category: str):
    """The builder of a category whose data are on disk, whole."""
    import tensorflow_datasets as tfds

    builder = _class(config.name)(
        config=category,
        data_dir=config.data_dir or None,
        file_format="array_record",
    )
    # TFDS writes into a folder of another name and renames it when all is written.
    if builder.data_path.exists():
        return builder
    _LOG.info("preparing %s/%s in %s", config.name, category, builder.data_path)
    download = tfds.download.DownloadConfig(manual_dir=config.manual_dir or None)
    with _quiet():
        builder.download_and_prepare(download_config=download)
    return builder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what TFDS prints out of a run's output; its bars need a terminal."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(sys.stderr.isatty())
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tfds.display_progress_bar(True)
