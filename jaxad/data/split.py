"""A split: images by index, at the config's size, decoded when asked for."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxad.data import images
from jaxad.errors import InputError

# Encoded; several of one image count together.
Mask = bytes | tuple[bytes, ...]


class Note(NamedTuple):
    """What a listing tells of a file that it did not take as it stands.

    Attributes:
      file: or a folder, which ends in a slash; as the split names its images.
      kind: what there is to tell, the same for all files of which it is to be told.
      detail: what is so of this one alone.
      grave: whether a run stops at it.
    """

    file: str
    kind: str
    detail: str = ""
    grave: bool = False

    def __str__(self) -> str:
        return f"{self.kind}{self.detail and f' ({self.detail})'}: {self.file}"


class Decoded(NamedTuple):
    """An image of 8 bits at the config's size.

    Attributes:
      pixels: uint8 [h, w, 3], as `Geometry.fitted` gives them.
      original_size: (height, width) of the image itself.
      has_mask: whether a mask of it is to be read.
    """

    pixels: np.ndarray
    original_size: tuple[int, int]
    has_mask: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The images of one category, for training or for test.

    Attributes:
      name: "train" or "test".
      filenames: of the images, as messages and tables name them.
      labels: int32 [n]; 0 normal, 1 anomalous.
      defect_types: the kind of the defect; of normal images "good", or the data set's
        own word, as VisA's "normal".
      has_masks: whether the data set has pixel masks at all.
      geometry: how images become the config's size.
      version: text that changes whenever an item does; for caches.
      read: `i -> (image, mask)`, encoded bytes; a tuple where an image has several
        masks, None where it has none.
      decode: from an encoded image to what `Geometry.image` takes.
      mask_ids: whether masks hold class ids, indices of palettes among them, as
        `images.decode_mask` takes it.
      notes: of the files that were found and are in no split, or not as they stand.
      classes: of a corpus, what `labels` number in place of normal and anomalous; ()
        where it has none, and of every other split.
      kept: `i -> image`, decoded before; None of one that is not kept.
    """

    name: str
    filenames: list[str]
    labels: np.ndarray
    defect_types: list[str]
    has_masks: bool
    geometry: images.Geometry
    version: str
    read: Callable[[int], tuple[bytes, Mask | None]] = dataclasses.field(repr=False)
    decode: Callable[[Any], Any] = images.decode_image
    mask_ids: bool = False
    notes: tuple[Note, ...] = ()
    classes: tuple[str, ...] = ()
    kept: Callable[[int], Decoded | None] = dataclasses.field(
        default=lambda i: None, repr=False
    )

    def __len__(self) -> int:
        return len(self.filenames)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """The item `i`.

        Returns:
          `index` int, `filename` str, `label` int, `size` (height, width) of the image
          itself, `image` float32 [H, W, 3] in [0, 1], `mask` uint8 [H, W] in {0, 1}:
          zeros where there is none.

        Raises:
          InputError: the file cannot be read, or its mask does not fit it.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"{self.name} has {len(self)} images, not {i + 1}")
        kept, encoded_mask, mask = self.kept(i), None, None
        with self._reading(i):
            if kept is None or kept.has_mask:
                encoded, encoded_mask = self.read(i)
            if encoded_mask is not None:
                mask = decode_mask(encoded_mask, ids=self.mask_ids)
            if kept is None:
                image = self.decode(encoded)
                size, image = _size(image), self.geometry.image(image)
            else:
                size = kept.original_size
                image = self.geometry.finished(kept.pixels)
        if mask is None:
            mask = np.zeros(self.geometry.size, np.uint8)
        elif mask.shape != size:
            raise InputError(
                f"{self.filenames[i]} is {size[0]} x {size[1]} pixels, but "
                f"its mask is {mask.shape[0]} x {mask.shape[1]}; make them one size"
            )
        else:
            mask = self.geometry.mask(mask)
        return {
            "index": i,
            "filename": self.filenames[i],
            "label": int(self.labels[i]),
            "size": size,
            "image": image,
            "mask": mask,
        }

    def decoded(self, i: int) -> Decoded | None:
        """The image `i` for `kept`; None where it has more than 8 bits.

        Raises:
          InputError: the file cannot be read.
        """
        with self._reading(i):
            encoded, mask = self.read(i)
            image = self.decode(encoded)
        if isinstance(image, np.ndarray) or image.mode not in ("L", "RGB"):
            return None
        pixels = self.geometry.fitted(image.convert("RGB"))
        return Decoded(pixels, _size(image), mask is not None)

    @contextlib.contextmanager
    def _reading(self, i: int) -> Iterator[None]:
        try:
            yield
        except (OSError, images.Unreadable) as error:
            raise InputError(
                f"{self.filenames[i]} cannot be read ({error}); mend or remove it"
            ) from None

    def normal(self) -> "Split":
        """The normal images only, for what learns from nothing else."""
        return self.take(np.flatnonzero(self.labels == 0))

    def take(self, rows: Sequence[int]) -> "Split":
        """The split of these rows only, in this order."""
        rows = np.asarray(rows, np.int64)
        if np.array_equal(rows, np.arange(len(self))):
            return self
        digest = hashlib.sha256(rows.tobytes()).hexdigest()
        return dataclasses.replace(
            self,
            filenames=[self.filenames[i] for i in rows],
            labels=self.labels[rows],
            defect_types=[self.defect_types[i] for i in rows],
            version=f"{self.version}/{digest}",
            read=lambda i: self.read(int(rows[i])),
            kept=lambda i: self.kept(int(rows[i])),
        )


def _size(image) -> tuple[int, int]:
    """(height, width) of what `Split.decode` gives."""
    return image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]


def decode_mask(encoded: Mask, *, ids: bool = False) -> np.ndarray:
    """The mask of an image as `images.decode_mask` has it; of several, their maximum.

    Raises:
      Unreadable: one of them is, or they are of different sizes.
    """
    if isinstance(encoded, bytes):
        return images.decode_mask(encoded, ids=ids)
    masks = [images.decode_mask(one, ids=ids) for one in encoded]
    if len(shapes := {mask.shape for mask in masks}) > 1:
        sizes = " and ".join(f"{height} x {width}" for height, width in sorted(shapes))
        raise images.Unreadable(f"its masks are of different sizes, {sizes}")
    return np.maximum.reduce(masks)


def joined(splits: Sequence[Split]) -> Split:
    """Several splits, one after the other."""
    ends = np.cumsum([len(split) for split in splits])

    def place(i: int) -> tuple[Split, int]:
        which = int(np.searchsorted(ends, i, "right"))
        return splits[which], i - int(ends[which]) + len(splits[which])

    def read(i: int):
        split, row = place(i)
        return split.read(row)

    def kept(i: int):
        split, row = place(i)
        return split.kept(row)

    return dataclasses.replace(
        splits[0],
        has_masks=any(split.has_masks for split in splits),
        notes=tuple(note for split in splits for note in split.notes),
        filenames=[name for split in splits for name in split.filenames],
        labels=np.concatenate([split.labels for split in splits]),
        defect_types=[kind for split in splits for kind in split.defect_types],
        version=" + ".join(split.version for split in splits),
        read=read,
        kept=kept,
    )
