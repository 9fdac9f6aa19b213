"""Small pictures of images, their anomaly maps and masks, as a report shows them.

They are made where images are scored, since nothing is at hand as cheaply later on, and
have the images' own shape.
"""

import io
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxad import arrays
from jaxad.data.images import Geometry

# The longest side in pixels of an image and of its mask, and of its map.
LONGEST, MAP = 192, 64
# Brighter than what a camera's 12 of 16 bits give; darker images are shown stretched.
_DARK = 1 / 12
_UNSEEN = 0.5


class Thumbnail(NamedTuple):
    """What is kept of one image.

    Attributes:
      image: WebP.
      map: uint8 [h, w], from `low` to `high`.
      low, high: the lowest and the highest value of the whole map.
      mask: PNG of one bit, or None where nothing is marked.
    """

    image: bytes
    map: np.ndarray
    low: float
    high: float
    mask: bytes | None = None

    def scores(self) -> np.ndarray:
        """The map as it was, but for rounding and size: float32 [h, w]."""
        step = (self.high - self.low) / 255
        return (self.low + step * self.map).astype(np.float32)


class Thumbnails:
    """Those of a split, by index, gathered batch by batch; shares can be merged."""

    def __init__(self):
        self._found: dict[int, Thumbnail] = {}

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._found))

    def get(self, index: int) -> Thumbnail | None:
        return self._found.get(index)

    def add(
        self,
        index: int,
        image: np.ndarray,
        anomaly_map: np.ndarray,
        mask: np.ndarray,
        geometry: Geometry,
        size: tuple[int, int],
    ) -> None:
        """Adds an image.

        Args:
          index: in the split.
          image: float [H, W, 3] in [0, 1], as the detector sees it.
          anomaly_map: float [H, W].
          mask: [H, W], not zero where there is a defect.
          geometry: that made it of the image.
          size: (height, width) of the image itself.
        """
        shape = _within(size, LONGEST)
        low, high = float(np.min(anomaly_map)), float(np.max(anomaly_map))
        values = geometry.undo(anomaly_map, _within(size, MAP))
        share = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-30)
        marked = None
        if mask.any():
            soft = geometry.undo(np.asarray(mask != 0, np.float32), shape)
            # A scratch that is thinner than a pixel here still counts.
            marked = np.nan_to_num(soft) > 0.5 * min(1, shape[0] / mask.shape[0])
        self._found[int(index)] = Thumbnail(
            _encoded(_shown(image, geometry, shape), "WEBP", quality=65, method=2),
            (255 * np.clip(share, 0, 1)).round().astype(np.uint8),
            low,
            high,
            None if marked is None else _encoded(Image.fromarray(marked), "PNG"),
        )

    def merge(self, other: "Thumbnails") -> None:
        """Adds all that another state has."""
        self._found |= other._found

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays, which `of_arrays` takes."""
        all_of = [self._found[i] for i in self]
        masks = [one.mask or b"" for one in all_of]
        return {
            "index": np.array(list(self), np.int64),
            "range": np.array([(x.low, x.high) for x in all_of], np.float64),
            "shape": np.array([x.map.shape for x in all_of], np.int64),
            "maps": np.concatenate(
                [np.zeros(0, np.uint8), *(x.map.ravel() for x in all_of)]
            ),
            "image_bytes": np.array([len(x.image) for x in all_of], np.int64),
            "images": np.frombuffer(b"".join(x.image for x in all_of), np.uint8),
            "mask_bytes": np.array([len(mask) for mask in masks], np.int64),
            "masks": np.frombuffer(b"".join(masks), np.uint8),
        }

    @classmethod
    def of_arrays(cls, found: dict[str, np.ndarray]) -> "Thumbnails":
        """The state that `arrays` gave."""
        state = cls()
        shapes = found["shape"].reshape(-1, 2)
        parts = zip(
            found["index"].tolist(),
            _parts(found["images"], found["image_bytes"]),
            _parts(found["maps"], shapes.prod(axis=1)),
            shapes,
            found["range"].reshape(-1, 2).tolist(),
            _parts(found["masks"], found["mask_bytes"]),
            strict=True,
        )
        for index, image, values, shape, (low, high), mask in parts:
            state._found[index] = Thumbnail(
                image.tobytes(),
                values.reshape(shape),
                low,
                high,
                mask.tobytes() or None,
            )
        return state

    def save(self, path: pathlib.Path) -> None:
        """Writes a file, whole or not at all.

        Raises:
          InputError: it cannot be written.
        """
        arrays.save_packed(path, self.arrays())

    @classmethod
    def load(cls, path: pathlib.Path) -> "Thumbnails":
        """What `save` wrote; nothing where there is no such file.

        Raises:
          InputError: it is damaged.
        """
        found = arrays.restore_packed(path, "pictures")
        return cls() if found is None else cls.of_arrays(found)


def _within(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(height, width) of the same shape, no longer than that."""
    factor = min(1, longest / max(size))
    return tuple(max(1, round(int(side) * factor)) for side in size)


def _shown(image: np.ndarray, geometry: Geometry, shape: tuple[int, int]):
    """As a picture of a shape, grey where nobody has looked."""
    grey = (image == image[..., :1]).all()
    bands = [
        np.nan_to_num(geometry.undo(image[..., c], shape), nan=_UNSEEN)
        for c in range(1 if grey else 3)
    ]
    brightest = float(np.max(image))
    if 0 < brightest < _DARK:
        bands = [band / brightest for band in bands]
    pixels = np.stack(bands, axis=-1).squeeze(-1) if grey else np.stack(bands, axis=-1)
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))


def _encoded(picture: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def _parts(joined: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(joined, np.cumsum(lengths)[:-1]) if len(lengths) else []
