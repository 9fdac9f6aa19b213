"""Image files to pixels, and mask files to what is anomalous.

Values: 8-bit is value / 255; 16-bit grey, with or without alpha, is value / 65535, so
that the order of values survives; 16-bit colour is read with 8 bits a channel (all that
Pillow gives); floats must lie in [0, 1] already. Grey becomes three equal channels,
alpha is dropped, palettes and CMYK become RGB. EXIF orientation is applied. Of several
pages or frames the first one counts.

A mask is read as an image is, and then is grey: of colours the largest channel.

* A pixel is anomalous where it is not 0: of 0 and 1, of 0 and 255, of class ids, of one
  level of grey a class.
* But values that reach into the upper half of their range, which is the least of 1, 255
  and 65535 that holds them, and of which two (or one and 0) lie closer to each other
  than a sixteenth of it, are shades, as JPEG, smoothing and resizing leave them. Then a
  pixel is anomalous above half of the range.
* Where alpha varies, what is transparent is normal; and where all that is visible has
  one colour, the mask is the alpha.
* A palette gives its colours, unless the data set says that its indices are class ids.
"""

import contextlib
import functools
import io
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxad import config as config_lib
from jaxad.data.geometry import Geometry as Geometry
from jaxad.errors import InputError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".webp", ".gif", ".jp2", ".j2k", ".jpf", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm"),
    *(".pfm", ".avif"),
)
# What is taken from somebody whom nobody knows: what cameras and scanners write, and
# Pillow decodes without another program.
FORMATS = (
    *("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "JPEG2000", "PPM", "AVIF"),
)
_ANY = sys.maxsize  # pixels
MAX_PIXELS = config_lib.FIELDS["dataset"]["max_pixels"].default
# Two values of a mask that are closer than this share of their range are shades.
_CLOSE = 1 / 16
_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 swap height and width
# TIFF's tags: whether 0 is white, bits of every channel, and 2 for one plane a channel.
_PHOTOMETRIC, _BITS, _PLANAR = 0x0106, 0x0102, 0x011C
# The start of a PNG's header, and its depth and colour type: 16-bit grey and alpha.
_PNG, _GREY_ALPHA_16 = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\x10\4"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# The first two markers of JPEG 2000, and where the depth of a channel lies after them.
_JPEG_2000, _DEPTH = b"\xff\x4f\xff\x51", 42


class Unreadable(ValueError):
    """A file that is no image, is truncated, or has a depth without a rule."""


class NoImage(Unreadable):
    """A file of another kind."""


class Header(NamedTuple):
    """What an image's file says of it before anything is decoded.

    Attributes:
      extent: (height, width) as it is stored, before it is turned upright.
      several: whether there are more pages or frames than the first one.
    """

    extent: tuple[int, int]
    several: bool


def names(folder: str | os.PathLike) -> list[str]:
    """The image files right in a folder, sorted, hidden ones left out.

    Reads no file, so a million of them take seconds. [] where there is no such folder.

    Raises:
      InputError: the folder cannot be read.
    """
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(
            f"{os.fspath(folder)} cannot be read ({error.strerror}); mend or move it"
        ) from None
    with entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(SUFFIXES)
            and not entry.name.startswith(".")
            and _is_file(entry)
        )


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # such as of a link to itself
        return False


class _Lifted:
    """Without Pillow's limit of pixels, which all threads of a process share.

    It is lifted as long as any of them is inside.
    """

    def __init__(self):
        self._lock, self._inside, self._limit = threading.Lock(), 0, None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                # A number, since a thread that is not inside may be about to use it.
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _ANY
            self._inside += 1

    def __exit__(self, *_) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS = self._limit


_UNLIMITED = _Lifted()


@contextlib.contextmanager
def _reading(encoded: bytes = b"?") -> Iterator[None]:
    """Raises Unreadable, whatever Pillow raises: on a broken file that may be a lot."""
    try:
        yield
    except Unreadable:
        raise
    except UnidentifiedImageError:
        reason = "it is not an image file" if encoded else "the file is empty"
        if encoded.startswith(_TIFF):
            reason = (
                "a TIFF of a kind that Pillow does not read, such as colour with more "
                "than 16 bits; store it with 8 or 16 bits a channel"
            )
        raise NoImage(reason) from None
    except Exception as error:
        raise Unreadable(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _opened(
    encoded: bytes, formats: Sequence[str] | None = None
) -> Iterator[Image.Image]:
    with (
        _UNLIMITED,
        _reading(encoded),
        Image.open(io.BytesIO(encoded), formats=formats) as image,
    ):
        yield image


def header(encoded: bytes) -> Header:
    """That of a file in one of `FORMATS`.

    Raises:
      NoImage: it is in none of them.
      Unreadable: it is damaged.
    """
    with _opened(encoded, FORMATS) as image:
        return Header(image.size[::-1], getattr(image, "is_animated", False))


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


def orientation(encoded: bytes) -> int:
    """EXIF's, which decoding undoes: 1 is upright, 2 to 8 are turned or mirrored."""
    with _opened(encoded) as image:
        if image.format == "PNG" and "exif" not in image.info:
            return 1  # as in `size`
        return image.getexif().get(_ORIENTATION, 1)


def kind(encoded: bytes) -> str:
    """Colour and depth of an image as it is stored.

    Pillow's mode; or "RGB;16", "RGBA;16", "LA;16" and the like where it has none for a
    file's 16 bits a channel. 16-bit grey is "I;16".
    """
    with _opened(encoded) as image:
        if _is_grey_alpha_16(encoded):
            return "LA;16"
        if image.mode == "I" and image.format == "PPM":
            return "I;16"
        # Pillow says RGB for 16-bit colour too; only the raw mode tells, and in PPM the
        # largest value.
        stored = image.tile[0].args if image.tile else ""
        deep = ";16" in str(stored) and not image.mode.startswith("I")
        if image.format == "PPM":
            deep = isinstance(stored, tuple) and stored[-1] > 255
        elif image.format == "JPEG2000" and not image.mode.startswith("I"):
            start = encoded.find(_JPEG_2000)
            deep = start >= 0 and encoded[start + _DEPTH] & 0x7F >= 8
        return f"{image.mode};16" if deep else image.mode


def frames(encoded: bytes) -> int:
    """Pages of a TIFF, frames of an animation; only the first one is ever read."""
    with _opened(encoded) as image:
        return getattr(image, "n_frames", 1)


def _is_grey_alpha_16(encoded: bytes) -> bool:
    return encoded.startswith(_PNG) and encoded[24:26] == _GREY_ALPHA_16


def _decoded(
    encoded: bytes, max_pixels: int = 0, geometry: Geometry | None = None
) -> Image.Image:
    """As Pillow decodes it, upright; with a geometry, perhaps at a smaller size.

    Of a PNG's 16-bit grey and alpha Pillow keeps the upper bytes only. A pixel is four
    bytes, as one of 8-bit RGBA is, and PNG compresses bytes: a header that says RGBA
    gives all of them, see `_grey_and_alpha`.
    """
    if _is_grey_alpha_16(encoded):
        header = encoded[12:24] + b"\x08\x06" + encoded[26:29]
        check = zlib.crc32(header).to_bytes(4, "big")
        encoded = encoded[:12] + header + check + encoded[33:]
    with _opened(encoded) as image:
        width, height = image.size
        if 0 < max_pixels < width * height:
            raise Unreadable(
                f"it has {height} x {width} pixels, more than config.dataset.max_pixels"
                f"={max_pixels}; raise that, or set it to 0 for no limit"
            )
        if _is_planar_16(image):
            raise Unreadable(
                "a TIFF of 16-bit colour in planes, which Pillow does not read; store "
                "its channels interleaved"
            )
        if geometry is not None and image.format == "JPEG":
            _reduce(image, geometry)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _reduce(image: Image.Image, geometry: Geometry) -> None:
    """Has a JPEG decoded at a half, a quarter or an eighth, but no smaller than used.

    Its blocks of 8 x 8 pixels are then decoded as smaller ones, which takes less time
    than all of them and a resize.
    """
    width, height = image.size
    turned = image.getexif().get(_ORIENTATION, 1) >= 5
    used = geometry.resized((width, height) if turned else (height, width))
    image.draft(None, used if turned else used[::-1])


def _is_planar_16(image: Image.Image) -> bool:
    if image.format != "TIFF" or image.tag_v2.get(_PLANAR) != 2:
        return False
    bits = image.tag_v2.get(_BITS, (1,))
    return len(bits) > 1 and max(bits) > 8


def _grey_and_alpha(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """uint16 [h, w] each, of a PNG that `_decoded` has read by its bytes."""
    high, low, *alpha = (np.asarray(band, np.uint16) for band in image.split())
    return 256 * high + low, 256 * alpha[0] + alpha[1]


def _deep(image: Image.Image, opened: Image.Image) -> np.ndarray | None:
    """Grey of more than 8 bits, [h, w] as it is stored; None for everything else.

    Args:
      image: upright.
      opened: the same as Pillow has opened it, which knows of what format it is.
    """
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16, copy=False)
        if opened.format == "TIFF" and opened.tag_v2.get(_PHOTOMETRIC) == 0:
            return 65535 - values  # 0 is white, which Pillow sees to with 8 bits only
        return values
    if image.mode not in ("I", "F"):
        return None
    values = np.asarray(image)
    if image.mode == "I" and opened.format == "PPM":
        return values.astype(np.uint16)  # which has no more than 16 bits
    return values


def decode_image(
    encoded: bytes, max_pixels: int = MAX_PIXELS, geometry: Geometry | None = None
) -> Image.Image:
    """A PNG, JPEG, BMP, TIFF, WebP ... file as an upright image.

    Args:
      encoded: the file.
      max_pixels: that it may have, `config.dataset.max_pixels`; 0 is no limit.
      geometry: that it is to go through, where it need not have all of its pixels
        before: a large JPEG then comes at a half, a quarter or an eighth of its size.

    Returns:
      Mode "RGB" or "L" (uint8), or "F" (grey float32 in [0, 1]).

    Raises:
      Unreadable: says why.
    """
    image = _decoded(encoded, max_pixels, geometry)
    if _is_grey_alpha_16(encoded):
        return Image.fromarray(_grey_and_alpha(image)[0] / np.float32(65535))
    return _standard(image, image)


def decoder(
    max_pixels: int, geometry: Geometry | None = None
) -> Callable[[bytes], Image.Image]:
    """`decode_image` with a limit, and with a geometry."""
    return functools.partial(decode_image, max_pixels=max_pixels, geometry=geometry)


def of_pillow(image: Image.Image) -> Image.Image:
    """An image that Pillow has opened or made, as `decode_image` gives a file's.

    The given one is left as it is.

    Raises:
      Unreadable: says why.
    """
    with _UNLIMITED, _reading():
        image.load()
        upright = ImageOps.exif_transpose(image)
    return _standard(upright, image)


def _standard(image: Image.Image, opened: Image.Image) -> Image.Image:
    """In one of the modes of `decode_image`; `opened` as in `_deep`."""
    if not all(image.size):
        raise Unreadable("it has no pixels")
    if image.mode in ("L", "RGB"):
        return image
    deep = _deep(image, opened)
    if deep is not None and deep.dtype == np.uint16:
        # Pillow's own conversion to 8 bits saturates at 255.
        return Image.fromarray(deep / np.float32(65535))
    if deep is not None:
        low, high = deep.min(), deep.max()
        if not (low >= 0 and high <= 1):
            raise Unreadable(
                f"32-bit values outside [0, 1], from {low:.6g} to {high:.6g}; store it "
                "as 8 or 16 bits"
            )
        return Image.fromarray(deep.astype(np.float32, copy=False))
    if image.mode in ("1", "LA"):
        return image.convert("L")
    with _reading():
        # By way of RGBA, because a palette may hold transparency.
        through = "RGBA" if image.mode == "P" else "RGB"
        return image.convert(through).convert("RGB")


# ---- Masks


def decode_mask(encoded: bytes, *, ids: bool = False) -> np.ndarray:
    """A mask file, upright, as uint8 [h, w] in {0, 1}; 1 is anomalous.

    Args:
      encoded: the file.
      ids: whether its values, and a palette's indices, are class ids, as `Split`s say:
        then a pixel is anomalous where it is not 0. Otherwise the rule above decides.

    Raises:
      Unreadable: says why.
    """
    return anomalous(mask_values(encoded, ids=ids), ids=ids)


def mask_values(encoded: bytes, *, ids: bool = False) -> np.ndarray:
    """What `anomalous` goes by, of a file: [h, w], grey of 8, 16 or 32 bits, none < 0.

    Args, Raises: as `decode_mask`. Of colour with 16 bits a channel the upper 8 count.
    """
    image = _decoded(encoded)
    if ids and image.mode in ("P", "PA"):
        indices = np.asarray(image)
        return indices if indices.ndim == 2 else indices[..., 0]
    if _is_grey_alpha_16(encoded):
        grey, alpha = _grey_and_alpha(image)
        return _visible(grey[..., None], alpha)
    deep = _deep(image, image)
    if deep is not None:
        if not (deep.min() >= 0 and deep.max() < np.inf):
            raise Unreadable("a mask with values that are negative or not finite")
        return deep
    if image.has_transparency_data:
        with _reading():
            pixels = np.asarray(image.convert("RGBA"))
        return _visible(pixels[..., :3], pixels[..., 3])
    pixels = np.asarray(_standard(image, image))
    return pixels.max(axis=-1) if pixels.ndim == 3 else pixels


def _visible(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Grey [h, w] of a mask of colour [h, w, c] and alpha [h, w]."""
    if alpha.min() == alpha.max():
        return colour.max(axis=-1)
    visible = alpha > 0
    shown = colour[visible]
    if (shown == shown[0]).all():
        return alpha
    return np.where(visible, colour.max(axis=-1), 0)


def anomalous(values: np.ndarray, *, ids: bool = False) -> np.ndarray:
    """uint8 [h, w] in {0, 1} of a mask's values [h, w]; `ids` as in `decode_mask`."""
    half = None if ids else shades_end(values)
    return (values != 0 if half is None else values > half).view(np.uint8)


def shades_end(values: np.ndarray) -> float | None:
    """Half of a mask's range where its values are shades; None where not 0 counts."""
    found = distinct(values)
    top = next((top for top in (1, 255, 65535) if found[-1] <= top), np.inf)
    gaps = np.diff(found, prepend=0)
    # The first gap, of a mask without 0, is to 0.
    close = gaps[found > 0] < top * _CLOSE
    return top / 2 if found[-1] > top / 2 and close.any() else None


def distinct(values: np.ndarray) -> np.ndarray:
    """The values that a mask has, rising, float64."""
    if values.dtype == np.uint8:
        counts = Image.fromarray(values).histogram()  # sorts nothing, copies nothing
        return np.flatnonzero(counts).astype(float)
    return np.unique(values).astype(float)
