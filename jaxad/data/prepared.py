"""Folders that TFDS has prepared as array_record files, read without TensorFlow."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxad.data import files
from jaxad.errors import InputError


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Splits of a data set, one after the other.

    Attributes:
      name: of the data set, with its version.
      records: dictionaries, whose pictures stay encoded.
      pictures: names of their features that are pictures.
      texts: feature of text -> that of every record.
      labels, classes: of the feature `label` where it is one of classes; else zeros
        and ().
      digest: sha256 of all pictures, and of what names them.
    """

    name: str
    records: Sequence[dict[str, Any]]
    pictures: tuple[str, ...]
    texts: dict[str, list[str]]
    labels: list[int]
    classes: tuple[str, ...]
    digest: str

    @property
    def filenames(self) -> list[str]:
        """Numbers, where the records have no names."""
        return [f"{self.name}, picture {i}" for i in range(len(self.records))]


def read(
    folder: pathlib.Path,
    splits: tuple[str, ...],
    *,
    mend: str,
    texts: tuple[str, ...] = (),
) -> Prepared:
    """All of some splits, once a process while the folder's files stay the same.

    Args:
      folder: of one version, with `dataset_info.json`.
      splits: their names.
      mend: what to do where they cannot be read, for the message.
      texts: features of text to hand out; the first one names a record.

    Raises:
      InputError: they cannot be read.
    """
    return _read(folder, splits, mend, texts, files.state(folder))


def splits(folder: pathlib.Path) -> tuple[str, ...]:
    """Names of the splits of a folder that `read` can read."""
    import tensorflow_datasets as tfds

    return tuple(tfds.builder_from_directory(folder).info.splits)


@functools.cache
def _read(folder, splits, mend: str, texts, state: tuple) -> Prepared:
    """`state` of the folder is for the cache alone."""
    del state
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        features = dict(builder.info.features)
        raw = {
            name: tfds.decode.SkipDecoding()
            for name, kind in features.items()
            if isinstance(kind, tfds.features.Image)
        }
        if "image" not in raw:
            raise ValueError(f"it has no pictures named image, only {sorted(features)}")
        records = _Joined(
            [builder.as_data_source(split=name, decoders=raw) for name in splits]
        )
        label = features.get("label")
        labelled = isinstance(label, tfds.features.ClassLabel)
        found, labels = {name: [] for name in texts}, []
        digest = hashlib.sha256(builder.info.full_name.encode())
        for record in records:
            labels.append(record["label"] if labelled else 0)
            for name in texts:
                found[name].append(record[name].decode())
            for name in (*texts[:1], *raw):
                digest.update(record[name])
    except Exception as error:  # what array_record raises is not documented
        raise InputError(
            f"{folder} cannot be read as array_record files with images and a split "
            f"{', '.join(splits)} ({error}); {mend}"
        ) from error
    return Prepared(
        name=builder.info.full_name,
        records=records,
        pictures=tuple(raw),
        texts=found,
        labels=labels,
        classes=tuple(label.names) if labelled else (),
        digest=digest.hexdigest(),
    )


class _Joined(Sequence):
    """Sequences one after the other."""

    def __init__(self, parts: Sequence[Sequence]):
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, i: int):
        for part in self._parts:
            if i < len(part):
                return part[i]
            i -= len(part)
        raise IndexError(i)
