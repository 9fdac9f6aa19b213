"""Data sets with a TFDS builder: prepared on first use, read without TensorFlow."""

import contextlib
import functools
import importlib
import io
import logging
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator

import ml_collections
import numpy as np

from jaxad.data import images, prepared
from jaxad.data.split import Split
from jaxad.errors import InputError
from tfds_builders.published import ARCHIVES, CATEGORIES

_LOG = logging.getLogger(__name__)

NAMES = ("elpv", "mvtec_ad", "visa", "btad")
# Those that say themselves what trains under every protocol.
DIVIDED = ("visa",)


def categories(
    config: ml_collections.ConfigDict,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The categories that "all" stands for, and every one that can be named."""
    names = CATEGORIES[config.name]
    if config.name == "elpv":
        return names, names + tuple(f"{name}_uncertain" for name in names)
    return names, names


def require_here(config: ml_collections.ConfigDict) -> None:
    """Finds at once that nothing of a data set is on this machine; reads no data.

    Where it says nothing, `load` may still find that what is there is not enough.

    Raises:
      InputError: as `load`; NotHere where it could be downloaded.
    """
    named = _manual_dir(config)
    if config.name not in ARCHIVES or named or config.download:
        return
    # As TFDS has it.
    home = config.data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    home = pathlib.Path(home).expanduser()
    downloads = home / "downloads"
    places = {"manual", "extracted"}
    there = (
        *home.glob(f"{config.name}/*/[0-9]*"),
        *(path for path in downloads.glob("*") if path.name not in places),
        *(downloads / "manual").glob("*"),
    )
    if not there:
        raise ARCHIVES[config.name].not_here(downloads)


def load(
    config: ml_collections.ConfigDict,
    category: str,
    name: str,
    geometry: images.Geometry,
) -> Split:
    """A split of a category, prepared if it is not yet.

    Raises:
      InputError: something is missing from which to prepare it; NotHere where it could
        be downloaded.
    """
    builder = _prepared(config, _variant(config, category))
    if differences := (builder.info.metadata or {}).get("differences"):
        origin = builder.info.metadata["origin"]
        _warn(f"{origin} differs from {builder.info.full_name}: {differences}")
    path = pathlib.Path(builder.data_path)
    found = prepared.read(
        path,
        (name,),
        mend="remove that folder to have it prepared anew",
        texts=("filename", "defect_type"),
    )
    labels, has_masks = found.labels, "mask" in found.pictures

    def read(i: int) -> tuple[bytes, bytes | None]:
        record = found.records[i]
        # Of a normal image it is zeros, which need no decoding.
        return record["image"], record["mask"] if has_masks and labels[i] else None

    return Split(
        name=name,
        filenames=found.texts["filename"],
        labels=np.array(labels, np.int32),
        defect_types=found.texts["defect_type"],
        has_masks=has_masks,
        geometry=geometry,
        version=f"{found.name}/{name}/{found.digest}",
        read=read,
    )


def published(config: ml_collections.ConfigDict, category: str) -> int:
    """Normal training images of a category of an archive."""
    builder = _class(config.name)(config=_variant(config, category))
    counts = builder.published_counts()
    return sum(counts.get(f"train/{kind}", 0) for kind in ("good", "ok", "normal"))


def _variant(config: ml_collections.ConfigDict, category: str) -> str:
    return f"{category}_{config.protocol}" if config.name == "visa" else category


@functools.cache
def _warn(text: str) -> None:
    """Once a process, however often the same data are loaded."""
    _LOG.warning(text)


def _class(name: str):
    # Late: tensorflow_datasets takes most of a second to import.
    return importlib.import_module(f"tfds_builders.{name}").Builder


def _prepared(config: ml_collections.ConfigDict, variant: str):
    """The builder of a category whose data are on disk, whole.

    TFDS writes into a folder of another name, and renames it when all is written.
    """
    import tensorflow_datasets as tfds

    def new():
        try:
            builder = _class(config.name)(
                config=variant,
                data_dir=os.path.expanduser(config.data_dir) or None,
                file_format="array_record",
            )
        except ValueError as error:  # prepared by somebody else, in another format
            raise InputError(
                f"{config.name}/{variant} as it is prepared cannot be used ({error}); "
                "name another config.dataset.data_dir"
            ) from error
        builder.may_download = config.download
        return builder

    manual_dir = _manual_dir(config)
    builder = new()
    modes = tfds.GenerateMode
    mode = modes.REUSE_DATASET_IF_EXISTS
    if builder.data_path.exists():
        if not _changed(builder, manual_dir):
            return builder
        mode = modes.REUSE_CACHE_IF_EXISTS  # writes anew what is there
    _LOG.info("preparing %s in %s", builder.info.full_name, builder.data_path)
    download = tfds.download.DownloadConfig(manual_dir=manual_dir, download_mode=mode)
    try:
        with _quiet():
            builder.download_and_prepare(download_config=download)
    except OSError as error:
        # Another process of this run may have been faster.
        if not builder.data_path.exists():
            raise InputError(
                f"{builder.info.full_name} cannot be prepared in {builder.data_path} "
                f"({error}); mend that, or name another config.dataset.data_dir"
            ) from error
    return new()


def _manual_dir(config: ml_collections.ConfigDict) -> pathlib.Path | None:
    if not config.manual_dir:
        return None
    path = pathlib.Path(config.manual_dir).expanduser()
    if not path.is_dir():
        raise InputError(
            f"config.dataset.manual_dir={config.manual_dir} is not a folder; name the "
            "one that holds the archive or the extracted data"
        )
    if not any(path.iterdir()):  # which TFDS takes for one that nobody named
        raise InputError(
            f"config.dataset.manual_dir={config.manual_dir} is empty.\n"
            f"{_instructions(config.name)}"
        )
    return path.resolve()


def _instructions(name: str) -> str:
    """How a data set gets into a folder that somebody has named."""
    if name in ARCHIVES:
        return ARCHIVES[name].instructions("that folder")
    return (
        "Put labels.csv and images/ there, or name no folder: the package elpv-dataset "
        "has them."
    )


def _changed(builder, manual_dir: pathlib.Path | None) -> bool:
    """Whether the files that data were prepared from have changed since.

    Raises:
      InputError: they were others than those in `manual_dir`.
    """
    metadata = builder.info.metadata
    if not metadata:  # prepared by an earlier version, nobody knows from what
        return manual_dir is not None
    origin = pathlib.Path(metadata["origin"])
    if manual_dir and manual_dir not in (origin, origin.parent):
        raise InputError(
            f"{builder.data_path} was prepared from {origin}, not from "
            f"config.dataset.manual_dir={manual_dir}; remove that folder, or name "
            "another config.dataset.data_dir"
        )
    return builder.changed()


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
