"""Images, masks and anomaly maps between an image's own size and the config's.

All with Pillow's antialiased bilinear filter:

* `resize`: to (height, width), whatever the aspect ratio.
* `resize_crop`: the shorter side to `resize_to`, the longer one to scale, rounded down;
  then the centre (height, width), its offset rounded half to even, as torchvision does.
* `pad`: the largest size of the same aspect ratio inside (height, width), centred; the
  rest is the mean colour of ImageNet.

A mask goes through its image's geometry as values 0 and 1, and a pixel is anomalous
where the result is above 0.5. Padding is normal.

An anomaly map goes the other way, from `size` to the pixels of its image.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

PAD_COLOUR = (0.485, 0.456, 0.406)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How an image of any size becomes one of `size`.

    Attributes:
      size: (height, width) in pixels.
      policy: "resize", "resize_crop" or "pad".
      resize_to: the shorter side in pixels before the crop.
    """

    size: tuple[int, int]
    policy: str = "resize"
    resize_to: int = 0

    @classmethod
    def from_config(cls, config) -> "Geometry":
        """That of `config.dataset`."""
        return cls(tuple(config.image_size), config.resize, config.resize_to)

    def image(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """float32 [H, W, 3] in [0, 1] of what `decode_image` gave.

        Colour that is float already, for which Pillow has no mode, comes as an array,
        float32 [h, w, 3] in [0, 1].
        """
        if isinstance(image, np.ndarray):
            bands = [self.image(Image.fromarray(image[..., c])) for c in range(3)]
            return np.stack([band[..., c] for c, band in enumerate(bands)], axis=-1)
        return self.finished(self.fitted(image))

    def fitted(self, image: Image.Image) -> np.ndarray:
        """[h, w] or [h, w, 3] of it, no larger than `size`, which padding will fill."""
        return np.asarray(self._fit(image))

    def finished(self, pixels: np.ndarray) -> np.ndarray:
        """What `image` gives, of what `fitted` does."""
        if pixels.dtype == np.uint8:
            pixels = pixels.astype(np.float32) / 255
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=-1)
        return self._pad(pixels, PAD_COLOUR)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """uint8 [H, W] in {0, 1} of a mask of the image's own size."""
        soft = self._fit(Image.fromarray((mask != 0).astype(np.float32)))
        return self._pad((np.asarray(soft) > 0.5).astype(np.uint8), 0)

    def undo(self, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """An anomaly map in the pixels of the image that it is of.

        Args:
          values: float32 [H, W], at this geometry's size.
          size: (height, width) of the image before `image` resized it.

        Returns:
          float32 [height, width], bilinear. NaN where the crop of `resize_crop` leaves
          out a pixel's centre: there nobody has looked.
        """
        y, x = self._axes(size)
        found = np.full(size, np.nan, np.float32)
        if x.first < x.stop and y.first < y.stop:
            seen = np.asarray(values, np.float32)[y.low : y.high, x.low : x.high]
            box = np.array([x.left, y.left, x.right, y.right])
            if self.policy == "resize_crop":
                # The outermost pixels reach beyond it, by half of themselves at most.
                margin = 1 + int(max(x.scale, y.scale) / 2)
                seen, box = np.pad(seen, margin, "edge"), box + margin
            shown = Image.fromarray(seen).resize(
                (x.stop - x.first, y.stop - y.first),
                Image.Resampling.BILINEAR,
                tuple(np.minimum(box, seen.shape[::-1] * 2).tolist()),
            )
            found[y.first : y.stop, x.first : x.stop] = shown
        return found

    def seen(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """The pixels of an image of (height, width) that no crop leaves out."""
        return tuple(slice(axis.first, axis.stop) for axis in self._axes(size))

    def shown(
        self, part: tuple[slice, slice], size: tuple[int, int]
    ) -> tuple[slice, slice]:
        """Where in [H, W] a part of an image of (height, width) comes to lie.

        Pixels that show anything of it; none where a crop leaves it out.
        """
        resized, start = (each[::-1] for each in self._place(size[::-1]))
        spans = []
        for axis, within in enumerate(part):
            scale = resized[axis] / size[axis]
            first = math.floor(within.start * scale) - start[axis]
            stop = math.ceil(within.stop * scale) - start[axis]
            spans.append(slice(*np.clip((first, stop), 0, self.size[axis]).tolist()))
        return tuple(spans)

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """What an image of (height, width) becomes before any crop or padding."""
        return self._place(size[::-1])[0][::-1]

    def padding(self, size: tuple[int, int]) -> float:
        """The share of [H, W] that shows nothing of an image of (height, width)."""
        y, x = self._axes(size)
        inside = (y.high - y.low) * (x.high - x.low)
        return 1 - inside / (self.size[0] * self.size[1])

    def _axes(self, size: tuple[int, int]) -> tuple["_Axis", "_Axis"]:
        """Vertically and horizontally."""
        resized, start = self._place(size[::-1])
        x = _Axis.of(size[1], resized[0], start[0], self.size[1])
        return _Axis.of(size[0], resized[1], start[1], self.size[0]), x

    def _place(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """What (width, height) is resized to, and where in that `self.size` begins.

        The second, (left, top), is negative where there is padding.
        """
        height, width = self.size
        if self.policy == "resize":
            return (width, height), (0, 0)
        if self.policy == "resize_crop":
            resized = tuple(side * self.resize_to // min(size) for side in size)
            left = round((resized[0] - width) / 2)
            return resized, (left, round((resized[1] - height) / 2))
        scale = min(width / size[0], height / size[1])
        inside = tuple(max(1, round(side * scale)) for side in size)
        return inside, (-((width - inside[0]) // 2), -((height - inside[1]) // 2))

    def _fit(self, image: Image.Image) -> Image.Image:
        """Resized and cropped; with `pad`, not yet padded."""
        resized, (left, top) = self._place(image.size)
        image = image.resize(resized, Image.Resampling.BILINEAR)
        if self.policy == "resize_crop":
            height, width = self.size
            return image.crop((left, top, left + width, top + height))
        return image

    def _pad(self, pixels: np.ndarray, fill) -> np.ndarray:
        if pixels.shape[:2] == self.size:
            return pixels
        padded = np.full((*self.size, *pixels.shape[2:]), fill, pixels.dtype)
        top, left = ((np.array(self.size) - pixels.shape[:2]) // 2).tolist()
        padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return padded


class _Axis(NamedTuple):
    """One axis of a map, in an image whose pixels were resized to `scale` each.

    Attributes:
      scale: map pixels an image pixel.
      first, stop: the image's pixels whose centres lie in the map.
      low, high: the map's pixels that show the image, and not padding.
      left, right: where `first` and `stop` lie, counted from `low`.
    """

    scale: float
    first: int
    stop: int
    low: int
    high: int
    left: float
    right: float

    @classmethod
    def of(cls, pixels: int, resized: int, start: int, shown: int) -> "_Axis":
        """Of so many pixels, resized and then shown from `start` on."""
        scale = resized / pixels
        first = max(0, math.ceil(start / scale - 0.5))
        stop = min(pixels, math.ceil((start + shown) / scale - 0.5))
        low, high = max(0, -start), min(shown, resized - start)
        left, right = (edge * scale - start - low for edge in (first, stop))
        return cls(scale, first, stop, low, high, left, right)
