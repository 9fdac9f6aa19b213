"""A split: images by index, at the config's size, decoded when asked for."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxad.data import images
from jaxad.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The images of one category, for training or for test.

    Attributes:
      name: "train" or "test".
      filenames: of the images, as messages and tables name them.
      labels: int32 [n]; 0 normal, 1 anomalous.
      defect_types: "good" or the kind of the defect.
      has_masks: whether the data set has pixel masks at all.
      geometry: how images become the config's size.
      version: text that changes whenever an item does; for caches.
      read: `i -> (image, mask)`, encoded bytes; None where an image has no mask.
      decode: from an encoded image to what `Geometry.image` takes.
      unused_masks: mask files that belong to no image.
    """

    name: str
    filenames: list[str]
    labels: np.ndarray
    defect_types: list[str]
    has_masks: bool
    geometry: images.Geometry
    version: str
    read: Callable[[int], tuple[bytes, bytes | None]] = dataclasses.field(repr=False)
    decode: Callable[[Any], Any] = images.decode_image
    unused_masks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.filenames)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """The item `i`.

        Returns:
          `index` int, `filename` str, `label` int, `image` float32 [H, W, 3] in [0, 1],
          `mask` uint8 [H, W] in {0, 1}: zeros where there is none.

        Raises:
          InputError: the file cannot be read, or its mask does not fit it.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"{self.name} has {len(self)} images, not {i + 1}")
        try:
            encoded, encoded_mask = self.read(i)
            image = self.decode(encoded)
            mask = None if encoded_mask is None else images.decode_mask(encoded_mask)
        except (OSError, images.Unreadable) as error:
            raise InputError(
                f"{self.filenames[i]} cannot be read ({error}); mend or remove it"
            ) from None
        if mask is None:
            mask = np.zeros(self.geometry.size, np.uint8)
        elif mask.shape != image.size[::-1]:
            raise InputError(
                f"{self.filenames[i]} is {image.height} x {image.width} pixels, but "
                f"its mask is {mask.shape[0]} x {mask.shape[1]}; make them one size"
            )
        else:
            mask = self.geometry.mask(mask)
        return {
            "index": i,
            "filename": self.filenames[i],
            "label": int(self.labels[i]),
            "image": self.geometry.image(image),
            "mask": mask,
        }

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
        )


def joined(splits: Sequence[Split]) -> Split:
    """Several splits, one after the other."""
    ends = np.cumsum([len(split) for split in splits])

    def read(i: int):
        which = int(np.searchsorted(ends, i, "right"))
        return splits[which].read(i - int(ends[which]) + len(splits[which]))

    return dataclasses.replace(
        splits[0],
        filenames=[name for split in splits for name in split.filenames],
        labels=np.concatenate([split.labels for split in splits]),
        defect_types=[kind for split in splits for kind in split.defect_types],
        version=" + ".join(split.version for split in splits),
        read=read,
    )
