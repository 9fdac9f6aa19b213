"""What the builders of images with masks share: features, pairing, published counts."""

import abc
import collections
import dataclasses
import io
import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxad.data import images
from jaxad.errors import InputError
from tfds_builders import archives

_LOG = logging.getLogger(f"jaxad.{__name__}")


@dataclasses.dataclass(frozen=True)
class Item:
    """One image of a layout; `mask` is None for normal images."""

    image: pathlib.Path
    label: int
    defect_type: str
    mask: pathlib.Path | None = None


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """An archive of images and masks, prepared one category at a time.

    Images keep their bytes. Masks become 0 and 1, and zeros for normal images.
    """

    ARCHIVE: archives.Archive
    HOMEPAGE: str
    # Whether an archive that is not on this machine is downloaded.
    may_download = True
    # Class ids in the masks beside 0; then they are kept as `mask_classes`, and indices
    # of a palette are ids, whatever their colours.
    MASK_CLASSES = 0

    @abc.abstractmethod
    def _is_root(self, folder: pathlib.Path) -> bool:
        """Whether a folder is the top level of the layout."""

    @abc.abstractmethod
    def _items(self, root: pathlib.Path) -> Mapping[str, Sequence[Item]]:
        """The items of the builder config, by split."""

    @abc.abstractmethod
    def published_counts(self) -> Mapping[str, int]:
        """Number of images by `split/kind`."""

    def _kind(self, item: Item) -> str:
        """What the published counts tell apart."""
        return item.defect_type

    def _category(self) -> str:
        return self.builder_config.name

    def _differences(self, root: pathlib.Path) -> list[str]:
        """What else differs from the published layout."""
        del root
        return []

    def _info(self) -> tfds.core.DatasetInfo:
        mask = tfds.features.LabeledImage(labels=2, shape=(None, None, 1))
        classes = tfds.features.LabeledImage(
            labels=self.MASK_CLASSES + 1, shape=(None, None, 1)
        )
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "mask": mask,
                    **({"mask_classes": classes} if self.MASK_CLASSES else {}),
                    "label": tfds.features.ClassLabel(names=["normal", "anomalous"]),
                    "defect_type": tfds.features.Text(),
                    "category": tfds.features.Text(),
                    "filename": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        found = archives.find(
            dl_manager, self.ARCHIVE, self._is_root, may_download=self.may_download
        )
        splits = self._items(found.root)
        for split, items in splits.items():
            if not items:
                raise InputError(
                    f"{found.root} has no image in the {split} split of "
                    f"{self.info.full_name}; add some, or name another "
                    "config.dataset.manual_dir"
                )
        counts = collections.Counter(
            f"{split}/{self._kind(item)}"
            for split, items in splits.items()
            for item in items
        )
        published = self.published_counts()
        differences = self._differences(found.root) + [
            f"{counts[kind]} images in {kind}, not {published.get(kind, 0)}"
            for kind in sorted(counts.keys() | published.keys())
            if counts[kind] != published.get(kind, 0)
        ]
        if differences and found.published:
            raise InputError(
                f"{found.root} is not what {found.origin} holds "
                f"({'; '.join(differences)}); remove that folder"
            )
        self.info.metadata.update(
            origin=str(found.origin.resolve()),
            root=str(found.root.resolve()),
            listing=_listing(splits),
            differences="; ".join(differences),
        )
        return {
            split: self._generate_examples(found.root, items)
            for split, items in splits.items()
        }

    def changed(self) -> bool:
        """Whether the files that this was prepared from are no longer what they were.

        False as well where they are gone.
        """
        root = pathlib.Path(self.info.metadata["root"])
        if not self._is_root(root):
            return False
        return _listing(self._items(root)) != self.info.metadata["listing"]

    def _generate_examples(self, root: pathlib.Path, items: Iterable[Item]):
        for key, item in enumerate(items):
            filename = item.image.relative_to(root).as_posix()
            encoded = item.image.read_bytes()
            height, width = _size(item.image, encoded)
            if item.mask is None:
                mask = np.zeros((height, width), np.uint8)
            else:
                mask = self._read_mask(item.mask)
            if mask.shape != (height, width):
                raise InputError(
                    f"{item.mask} is {mask.shape[0]} x {mask.shape[1]} pixels, "
                    f"its image {filename} {height} x {width}; they must be of one size"
                )
            example = {
                "image": encoded,
                "mask": _png((mask != 0).astype(np.uint8)),
                "label": item.label,
                "defect_type": item.defect_type,
                "category": self._category(),
                "filename": filename,
            }
            if self.MASK_CLASSES:
                example["mask_classes"] = _png(mask)
            yield key, example

    def _read_mask(self, path: pathlib.Path) -> np.ndarray:
        """[h, w]: class ids, or 0 and 1."""
        try:
            if self.MASK_CLASSES:
                return images.mask_values(path.read_bytes(), ids=True)
            return images.decode_mask(path.read_bytes())
        except images.Unreadable as error:
            raise InputError(f"{path} cannot be read ({error}); replace it") from error


def paired(
    image_paths: Sequence[pathlib.Path],
    mask_paths: Sequence[pathlib.Path],
    defect_type: str,
    mask_suffix: str = "",
) -> list[Item]:
    """Anomalous images with their masks, by name whatever the file type.

    Raises:
      InputError: names the first image without mask.
    """
    masks = {path.stem.removesuffix(mask_suffix): path for path in mask_paths}
    missing = [path for path in image_paths if path.stem not in masks]
    if missing:
        raise InputError(
            f"{missing[0]} has no mask ({len(missing)} such images); add it, or remove "
            "the image"
        )
    orphans = masks.keys() - {path.stem for path in image_paths}
    if orphans:
        _LOG.warning(
            "%s has no image (%d such masks)", masks[min(orphans)], len(orphans)
        )
    return [Item(path, 1, defect_type, masks[path.stem]) for path in image_paths]


def _listing(splits: Mapping[str, Sequence[Item]]) -> str:
    return archives.listing(
        (split, path)
        for split, items in splits.items()
        for item in items
        for path in (item.image, item.mask)
        if path is not None
    )


def _size(path: pathlib.Path, encoded: bytes) -> tuple[int, int]:
    """(height, width) of an encoded image, from its header."""
    try:
        return images.size(encoded)
    except images.Unreadable as error:
        raise InputError(f"{path} cannot be read ({error}); replace it") from error


def _png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()
