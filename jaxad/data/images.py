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
"""

import contextlib
import dataclasses
import io
import os
import zlib
from collections.abc import Iterator

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

    def image(self, image: Image.Image) -> np.ndarray:
        """float32 [H, W, 3] in [0, 1] of what `decode_image` gave."""
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

    def _fit(self, image: Image.Image) -> Image.Image:
        """Resized and cropped; with `pad`, not yet padded."""
        height, width = self.size
        bilinear = Image.Resampling.BILINEAR
        if self.policy == "resize":
            return image.resize((width, height), bilinear)
        if self.policy == "resize_crop":
            shorter = min(image.size)
            resized = [side * self.resize_to // shorter for side in image.size]
            image = image.resize(resized, bilinear)
            left = round((resized[0] - width) / 2)
            top = round((resized[1] - height) / 2)
            return image.crop((left, top, left + width, top + height))
        scale = min(width / image.width, height / image.height)
        inside = [max(1, round(side * scale)) for side in image.size]
        return image.resize(inside, bilinear)

    def _pad(self, pixels: np.ndarray, fill) -> np.ndarray:
        if pixels.shape[:2] == self.size:
            return pixels
        padded = np.full((*self.size, *pixels.shape[2:]), fill, pixels.dtype)
        top, left = ((np.array(self.size) - pixels.shape[:2]) // 2).tolist()
        padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return padded


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
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    """Raises Unreadable, whatever Pillow raises: on a broken file that may be a lot."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            yield image
    except UnidentifiedImageError:
        reason = "it is not an image file" if encoded else "the file is empty"
        raise Unreadable(reason) from None
    except Exception as error:
        raise Unreadable(str(error) or type(error).__name__) from error


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
    image = _decoded(encoded)
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
    # By way of RGBA, because a palette may hold transparency.
    return image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")


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
