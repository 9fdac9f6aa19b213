"""Encoded images to float arrays of one size, and masks along with them.

Values: 8-bit is value / 255; 16-bit grey, with or without alpha, is value / 65535, so
that the order of values survives; 16-bit colour is read with 8 bits a channel (all that
Pillow gives); floats must lie in [0, 1] already. Grey becomes three equal channels,
alpha is dropped, palettes and CMYK become RGB. EXIF orientation is applied.

Geometries, all with Pillow's antialiased bilinear filter:

* `resize`: to (height, width), whatever the aspect ratio.
* `resize_crop`: the shorter side to `resize_to`, the longer one to scale, rounded down;
  then the centre (height, width), its offset rounded half to even, as torchvision does.
* `pad`: the largest size of the same aspect ratio inside (height, width), centred; the
  rest is the mean colour of ImageNet.

A mask is whatever is not zero. It goes through its image's geometry as values 0 and 1,
and a pixel is anomalous where the result is above 0.5. Padding is normal.

An anomaly map goes the other way, from `size` to the pixels of its image.
"""

import contextlib
import dataclasses
import io
import math
import os
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

PAD_COLOUR = (0.485, 0.456, 0.406)
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 swap height and width
# The start of a PNG's header, and its depth and colour type: 16-bit grey and alpha.
_PNG, _GREY_ALPHA_16 = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\x10\4"


class Unreadable(ValueError):
    """A file that is no image, is truncated, or has a depth without a rule."""


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

    def image(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """float32 [H, W, 3] in [0, 1] of what `decode_image` gave.

        Colour that is float already, for which Pillow has no mode, comes as an array,
        float32 [h, w, 3] in [0, 1].
        """
        if isinstance(image, np.ndarray):
            bands = [self.image(Image.fromarray(image[..., c])) for c in range(3)]
            return np.stack([band[..., c] for c, band in enumerate(bands)], axis=-1)
        pixels = np.asarray(self._fit(image))
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
        resized, offset = self._place(size[::-1])
        x = _Axis.of(size[1], resized[0], offset[0], self.size[1])
        y = _Axis.of(size[0], resized[1], offset[1], self.size[0])
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


def names(folder: str | os.PathLike) -> list[str]:
    """The image files right in a folder, sorted, hidden ones left out.

    Reads no file, so a million of them take seconds. [] where there is no such folder.
    """
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    with entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(SUFFIXES)
            and not entry.name.startswith(".")
            and entry.is_file()
        )


@contextlib.contextmanager
def _reading(encoded: bytes = b"?") -> Iterator[None]:
    """Raises Unreadable, whatever Pillow raises: on a broken file that may be a lot."""
    try:
        yield
    except Unreadable:
        raise
    except UnidentifiedImageError:
        reason = "it is not an image file" if encoded else "the file is empty"
        raise Unreadable(reason) from None
    except Exception as error:
        raise Unreadable(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    with _reading(encoded), Image.open(io.BytesIO(encoded)) as image:
        yield image


def size(encoded: bytes) -> tuple[int, int]:
    """(height, width) of an upright image, from the file's header."""
    with _opened(encoded) as image:
        width, height = image.size
        if image.format == "TIFF":  # Pillow has turned it already
            return height, width
        if image.format == "PNG" and "exif" not in image.info:
            return height, width  # getexif would decode all of it to look behind it
        turned = image.getexif().get(_ORIENTATION, 1) >= 5
    return (width, height) if turned else (height, width)


def kind(encoded: bytes) -> str:
    """Colour and depth of an image as it is stored.

    Pillow's mode; or "RGB;16", "RGBA;16", "LA;16" and the like where it has none for a
    file's 16 bits a channel.
    """
    with _opened(encoded) as image:
        if _is_grey_alpha_16(encoded):
            return "LA;16"
        # Pillow says RGB for 16-bit colour too; only the raw mode tells.
        stored = str(image.tile[0].args) if image.tile else ""
        deep = ";16" in stored and not image.mode.startswith("I")
        return f"{image.mode};16" if deep else image.mode


def _is_grey_alpha_16(encoded: bytes) -> bool:
    return encoded.startswith(_PNG) and encoded[24:26] == _GREY_ALPHA_16


def _decoded(encoded: bytes) -> Image.Image:
    """As Pillow decodes it, but 16-bit grey and alpha as grey float32 in [0, 1].

    Of these Pillow keeps the upper bytes only. A pixel is four bytes, as one of 8-bit
    RGBA is, and PNG compresses bytes: a header that says RGBA gives all of them.
    """
    deep = _is_grey_alpha_16(encoded)
    if deep:
        header = encoded[12:24] + b"\x08\x06" + encoded[26:29]
        check = zlib.crc32(header).to_bytes(4, "big")
        encoded = encoded[:12] + header + check + encoded[33:]
    with _opened(encoded) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    if not deep:
        return image
    upper, lower = (np.asarray(band, np.float32) for band in image.split()[:2])
    return Image.fromarray((256 * upper + lower) / 65535)


def decode_image(encoded: bytes) -> Image.Image:
    """A PNG, JPEG, BMP, TIFF, WebP ... file as an upright image.

    Returns:
      Mode "RGB" or "L" (uint8), or "F" (grey float32 in [0, 1]).

    Raises:
      Unreadable: says why.
    """
    return _standard(_decoded(encoded))


def of_pillow(image: Image.Image) -> Image.Image:
    """An image that Pillow has opened or made, as `decode_image` gives a file's.

    The given one is left as it is.

    Raises:
      Unreadable: says why.
    """
    with _reading():
        image.load()
        upright = ImageOps.exif_transpose(image)
    return _standard(upright)


def _standard(image: Image.Image) -> Image.Image:
    """In one of the modes of `decode_image`."""
    if not all(image.size):
        raise Unreadable("it has no pixels")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion to 8 bits saturates at 255.
        return Image.fromarray(np.asarray(image).astype(np.float32) / 65535)
    if image.mode in ("I", "F"):
        pixels = np.asarray(image)
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise Unreadable("32-bit values outside [0, 1]; store it as 8 or 16 bits")
        return image.convert("F")
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("1", "LA"):
        return image.convert("L")
    with _reading():
        # By way of RGBA, because a palette may hold transparency.
        through = "RGBA" if image.mode == "P" else "RGB"
        return image.convert(through).convert("RGB")


def decode_mask(encoded: bytes) -> np.ndarray:
    """A mask file as uint8 [h, w]: its grey values, class ids or palette indices.

    Colour masks give the largest of their channels, alpha left out. Of masks that have
    16 bits a channel, and colour or alpha, the upper 8 bits count.

    Raises:
      Unreadable: says why.
    """
    with _opened(encoded) as image:
        image.load()
    if image.mode == "1":
        image = image.convert("L")
    values = np.asarray(image)
    if values.ndim == 3:
        colour = values.shape[-1] - (image.mode in ("LA", "RGBA", "PA"))
        values = values[..., :colour].max(axis=-1)
    return values
