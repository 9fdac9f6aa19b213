"""What a user hands over to be judged: files, folders, tables, pictures, arrays.

* A path: an image, of whatever suffix; a folder, gone through with all folders in it as
  `jaxad.data.files` does; or a CSV whose column `file` names images relative to it.
* A `PIL.Image.Image`.
* An array, of NumPy or of anything that becomes one: [H, W], or [H, W, C] with 1
  (grey), 3 (colour) or 4 channels (the fourth, alpha, is dropped); several of them
  [b, H, W, C]. Three axes are always one image: grey ones are [b, H, W, 1].
* A list or tuple of these.

Values are those of `jaxad.data.images`: an array of uint8 or uint16 is the PNG that it
would be stored as, bit for bit, so of 16-bit colour the upper 8 bits count. Floats lie
in [0, 1] and keep their precision. Other types (int64, bool ...) have no range to go by
and are refused. Nothing is decoded before it is asked for.
"""

import collections
import dataclasses
import functools
import hashlib
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxad.data import files, images, tables
from jaxad.data.images import Geometry
from jaxad.data.split import Split
from jaxad.errors import InputError

_LOG = logging.getLogger(__name__)

_CHANNELS = (1, 3, 4)
# Decoding holds no lock for most of its time; more threads than this only queue.
_THREADS = min(16, 2 * (os.cpu_count() or 1))

Decoded = Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
      name: as messages and tables name it: of files relative to the folder or CSV.
      decode: gives what `Geometry.image` takes. Raises InputError, which names it.
      path: of its file; None where it comes from memory.
    """

    name: str
    decode: Callable[[], Decoded] = dataclasses.field(repr=False)
    path: pathlib.Path | None = None


class Read(NamedTuple):
    """An item as a detector sees it; or, where it cannot be read, `error`, a sentence.

    Attributes:
      name: of the item.
      image: float32 [H, W, 3] in [0, 1].
      size: (height, width) before it was resized.
    """

    name: str
    image: np.ndarray | None = None
    size: tuple[int, int] | None = None
    error: str | None = None


def items(
    given: Any,
    *,
    without: pathlib.Path | None = None,
    max_pixels: int = images.MAX_PIXELS,
) -> list[Item]:
    """The images that a user has given, in order; those of a folder by name.

    Args:
      given: see above.
      without: a folder that is left out wherever it is come by.
      max_pixels: that the image of a file may have, as `images.decode_image` takes it.

    Raises:
      InputError: there is no image, a path does not exist, or an array is none. A file
        of a list or CSV is not looked at before it is decoded.
    """
    if isinstance(given, str | os.PathLike):
        path = pathlib.Path(given).expanduser()
        if not path.exists():
            raise InputError(
                f"{path} does not exist; name an image, a folder of images, or a CSV "
                "with the column file"
            )
        found = _of_path(path, None, without)
    else:
        found = _of_any(given, "image", without)
    if not found:
        raise InputError("an empty list was given; give at least one image")
    return [
        file(one.path, one.name, max_pixels) if one.path is not None else one
        for one in found
    ]


def read(
    of: Iterable[Item], geometry: Geometry, *, ahead: int = 2 * _THREADS
) -> Iterator[Read]:
    """Decodes in threads, ahead of whoever takes what is read, in order.

    Args:
      of: the items; asked for when their turn comes.
      geometry: how they become a detector's size.
      ahead: so many images, at most, are held before they are taken.
    """
    pool, waiting = ThreadPoolExecutor(_THREADS), collections.deque()
    try:
        for item in of:
            waiting.append(pool.submit(read_one, item, geometry))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def split(of: list[Item], geometry: Geometry) -> Split:
    """Items that are all normal, as a split to fit on."""
    digest = hashlib.sha256()
    for item in of:
        if item.path is not None:
            state = os.stat(item.path) if item.path.exists() else None
            state = state and (state.st_size, state.st_mtime_ns)
            digest.update(repr((item.path, state)).encode())
        else:
            pixels = np.ascontiguousarray(item.decode())
            digest.update(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes())
    return Split(
        name="train",
        filenames=[item.name for item in of],
        labels=np.zeros(len(of), np.int32),
        defect_types=["good"] * len(of),
        has_masks=False,
        geometry=geometry,
        version=f"given/{digest.hexdigest()}/{geometry}",
        read=lambda i: (of[i], None),
        decode=lambda item: item.decode(),
    )


def size(decoded: Decoded) -> tuple[int, int]:
    """(height, width) of what an item's `decode` gave."""
    return decoded.shape[:2] if isinstance(decoded, np.ndarray) else decoded.size[::-1]


def read_one(item: Item, geometry: Geometry) -> Read:
    """Decodes an item and brings it to a detector's size."""
    try:
        decoded = item.decode()
    except InputError as error:
        return Read(item.name, error=str(error))
    height, width = size(decoded)
    try:
        return Read(item.name, geometry.image(decoded), (height, width))
    except (MemoryError, OverflowError, ValueError) as error:
        # A line of pixels, whose shorter side is to become hundreds.
        return Read(
            item.name,
            error=f"{item.name} is {height} x {width} pixels, which cannot be resized "
            f"({error or 'out of memory'}); cut it to a picture",
        )


def _of_any(given: Any, name: str, without: pathlib.Path | None) -> list[Item]:
    if isinstance(given, str | os.PathLike):
        return _of_path(pathlib.Path(given).expanduser(), os.fspath(given), without)
    if isinstance(given, Image.Image):
        return [Item(name, functools.partial(_of_pillow, given, name))]
    if isinstance(given, list | tuple):
        found = []
        for i, one in enumerate(given):
            inside = f"{name} {i}" if name == "image" else f"{name}, {i}"
            found += _of_any(one, inside, without)
        return found
    if not hasattr(given, "__array__"):
        raise InputError(
            f"{name} is of type {type(given).__name__}; give a path, a PIL image, an "
            "array, or a list of them"
        )
    return _of_array(np.asarray(given), name)


# ---- Files


def file(path: pathlib.Path, name: str, max_pixels: int = images.MAX_PIXELS) -> Item:
    """The image in a file, which is read when it is decoded."""
    return Item(name, functools.partial(_of_bytes, path, name, max_pixels), path)


def walk(
    folder: pathlib.Path, without: pathlib.Path | None = None
) -> tuple[list[str], list[str], list[str]]:
    """Names relative to a folder: of images, of what may be images, of other files.

    Folders in it are gone through as well, links followed, none twice. What is hidden
    is left out, and so is the folder `without`. What may be images are pictures of
    other formats, and links that lead nowhere.

    Raises:
      InputError: a folder cannot be read.
    """
    found, lost, others = [], [], []
    for inside in files.walk(folder, [without] if without else [], once=True):
        found += map(inside.path, inside.images)
        lost += map(inside.path, inside.unread)
        for name in inside.broken:
            # One that is named as an image is told of as one that cannot be read.
            (found if files.is_image(name) else lost).append(inside.path(name))
        others += map(inside.path, inside.others)
    return sorted(found), sorted(lost), sorted(others)


def _of_path(
    path: pathlib.Path, name: str | None, without: pathlib.Path | None
) -> list[Item]:
    """Without a name of its own, what is in it is named relative to it."""
    if path.is_dir():
        return _of_folder(path, name or "", without)
    if path.suffix.lower() == ".csv":
        return _of_table(path, os.path.dirname(name or ""))
    return [file(path, name or path.name)]


def _of_folder(
    folder: pathlib.Path, prefix: str, without: pathlib.Path | None
) -> list[Item]:
    found, lost, others = walk(folder, without)
    # Neither formats that are not read nor dangling links are left out without a word.
    strange = _some(lost, "picture that cannot be read", "pictures that cannot be read")
    strange = " and ".join(filter(None, (strange, _some(others, "other file"))))
    if not found:
        raise InputError(
            f"{folder} holds no image{strange and f', only {strange}'}; names of "
            f"images end in {', '.join(images.SUFFIXES)}"
        )
    if strange:
        level = logging.WARNING if lost else logging.INFO
        _LOG.log(level, "%s: %s left out", folder, strange)
    return [file(folder / name, os.path.join(prefix, name)) for name in found]


def _some(names: list[str], one: str, many: str = "") -> str:
    """How many there are, and the first of them; "" where there is none."""
    if len(names) < 2:
        return f"1 {one} ({names[0]})" if names else ""
    return f"{len(names)} {many or f'{one}s'} ({names[0]}, ...)"


def _of_table(table: pathlib.Path, prefix: str) -> list[Item]:
    rows = tables.rows(table, ("file",))
    if not rows:
        raise InputError(f"{table} lists no image; it has no line after the first")
    found = []
    for line, row in rows:
        if not (name := row["file"]):
            raise InputError(f"{table}, line {line}: file is empty; name an image")
        path = pathlib.Path(tables.path(table, name) or table.parent / name)
        found.append(file(path, os.path.join(prefix, name)))
    return found


def _of_bytes(path: pathlib.Path, name: str, max_pixels: int) -> Image.Image:
    try:
        encoded = path.read_bytes()
        image, frames = images.decode_image(encoded, max_pixels), images.frames(encoded)
    except OSError as error:
        reason = error.strerror or error
    except images.Unreadable as error:
        reason = error
    else:
        if frames > 1:
            _tell_of_frames(path, name, frames)
        return image
    raise InputError(f"{name} cannot be read ({reason}); mend or remove it")


@functools.cache  # a file may be decoded more than once
def _tell_of_frames(path: pathlib.Path, name: str, frames: int) -> None:
    _LOG.warning("%s: only the first of %d pages or frames is looked at", name, frames)


# ---- Memory


def _of_pillow(image: Image.Image, name: str) -> Image.Image:
    try:
        return images.of_pillow(image)
    except images.Unreadable as error:
        raise InputError(f"{name} cannot be used ({error})") from None


def _of_array(array: np.ndarray, name: str) -> list[Item]:
    """Items of an array; raises InputError where its type or shape is no image's."""
    what = f"{name} is an array of {array.dtype} {list(array.shape)}"
    if array.dtype.name == "bfloat16":  # JAX's, which NumPy takes for no number
        array = array.astype(np.float32)
    whole = array.dtype.kind == "u" and array.dtype.itemsize <= 2
    if not whole and array.dtype.kind != "f":
        raise InputError(
            f"{what}; images are uint8 (0 to 255), uint16 (0 to 65535) or float (0 to "
            "1), so convert it to one of them"
        )
    if array.ndim == 2:
        array = array[..., None]
    layout = (
        "an image is [H, W] or [H, W, C] with 1, 3 or 4 channels, several are "
        "[b, H, W, C]"
    )
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise InputError(f"{what}; {layout}, none of them empty")
    if array.shape[-1] not in _CHANNELS:
        hint = ", so move the channels to the end"
        if array.shape[-3] not in _CHANNELS:
            hint = ", grey ones [b, H, W, 1]"
        raise InputError(f"{what}; {layout}{hint}")
    if array.ndim == 3:
        return [Item(name, functools.partial(_of_pixels, array, name))]
    separator = " " if name == "image" else ", "
    names = [f"{name}{separator}{i}" for i in range(len(array))]
    return [
        Item(each, functools.partial(_of_pixels, pixels, each))
        for each, pixels in zip(names, array, strict=True)
    ]


def _of_pixels(pixels: np.ndarray, name: str) -> Decoded:
    """uint8, uint16 or float [h, w, c] as the file would be decoded."""
    grey = pixels.shape[-1] == 1
    pixels = pixels[..., 0] if grey else pixels[..., :3]
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            values = "NaN" if np.isnan(low) else f"values from {low:.4g} to {high:.4g}"
            raise InputError(
                f"{name}, {pixels.dtype} {list(pixels.shape)}, has {values}; floats "
                "must lie in [0, 1]"
            )
        pixels = np.ascontiguousarray(pixels, np.float32)
        return Image.fromarray(pixels) if grey else pixels
    if pixels.dtype.itemsize == 2:
        if grey:
            return Image.fromarray(pixels.astype(np.float32) / 65535)
        pixels = (pixels >> 8).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels))
