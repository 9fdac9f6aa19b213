"""Small pictures of a page: image, map and mask, inside of it or in files beside it."""

import base64
import dataclasses
import io
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterable

import numpy as np
from PIL import Image

from jaxad.errors import writing
from jaxad.inference import pictures
from jaxad.inference.pictures import Scale
from jaxad.inference.thumbnails import Thumbnail

# Bytes that pictures may take in a page; what is more lies in a folder beside it.
BUDGET = 7_500_000
# Images that are made smaller to fit, at most.
MOST = 2500
_BASE64 = 4 / 3
_LEAST = 48  # pixels of the longest side
_MAP_BYTES = 1000  # about what a map takes


@dataclasses.dataclass(frozen=True)
class Layers:
    """What a page shows of an image: addresses, "" where there is none.

    Attributes:
      width, height: of the image, in pixels of the page.
      image, map, mask: one upon the other.
    """

    width: int
    height: int
    image: str
    map: str
    mask: str


class Album:
    """Where pictures go: into the page, or a folder beside it.

    Args:
      page: the file of the page.
      shown: all thumbnails that it shows.
    """

    def __init__(self, page: pathlib.Path, shown: Iterable[Thumbnail]):
        shown = list(shown)
        self._folder = page.with_name(f"{page.stem}_files")
        self._inside = len(shown) <= MOST
        others = sum(_MAP_BYTES + 2 * len(x.mask or b"") for x in shown)
        left = max(BUDGET / _BASE64 - others, 1)
        self._shrink = min(
            1.0, (left / max(sum(len(x.image) for x in shown), 1)) ** 0.5
        )
        self._count = 0

    def add(self, thumbnail: Thumbnail, scale: Scale) -> Layers:
        """Takes a picture in.

        Raises:
          InputError: a file beside the page cannot be written.
        """
        encoded = thumbnail.image
        with Image.open(io.BytesIO(encoded)) as opened:
            size = opened.size
            if self._inside and self._shrink < 1:
                factor = max(self._shrink, min(1, _LEAST / max(size)))
                small = [max(1, round(side * factor)) for side in size]
                encoded = _webp(opened.resize(small, Image.Resampling.BILINEAR), 45)
        self._count += 1
        mask = thumbnail.mask and self._place(_marked(thumbnail), "-mask.png")
        return Layers(
            *size,
            image=self._place(encoded, ".webp"),
            map=self._place(_heat(thumbnail, scale), "-map.webp"),
            mask=mask or "",
        )

    def _place(self, encoded: bytes, ending: str) -> str:
        if self._inside:
            kind = ending.partition(".")[2]
            return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
        path = self._folder / f"{self._count:06d}{ending}"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded)
        return f"{urllib.parse.quote(self._folder.name)}/{path.name}"


def scale_of(thumbnails: Iterable[Thumbnail], threshold: float | None) -> Scale:
    """The colours of all maps of a category."""
    ranges = [(x.low, x.high) for x in thumbnails]
    return Scale.of(np.array(ranges or [(0.0, 1.0)]), threshold)


def full_pictures(
    folder: pathlib.Path, page: pathlib.Path
) -> dict[tuple[bool, str], str]:
    """Addresses, seen from the page, of the pictures that lie in `maps`.

    By whether they are of a suspect, and by what they have of their images' names.
    """
    found = {}
    for path in sorted((folder / "maps").glob("*.png")):
        if parts := re.fullmatch(r"([a-z_]+)_\d+_(.*)\.png", path.name, re.DOTALL):
            found[parts[1] == "suspect", parts[2]] = address(path, page)
    return found


def address(path: pathlib.Path, page: pathlib.Path) -> str:
    """Of a file, seen from the page."""
    return urllib.parse.quote(os.fsencode(os.path.relpath(path, page.parent)))


def _heat(thumbnail: Thumbnail, scale: Scale) -> bytes:
    """The map's colours, to lie on the image: as much of them as a picture has."""
    colours, cover = pictures.heat(thumbnail.scores(), scale)
    layer = np.dstack([colours, cover * 255]).round().astype(np.uint8)
    return _webp(Image.fromarray(layer), 50)


def _marked(thumbnail: Thumbnail) -> bytes:
    """The mask as a layer: its outline, and a little of its colour inside."""
    with Image.open(io.BytesIO(thumbnail.mask)) as opened:
        region = np.asarray(opened.convert("1"))
    layer = Image.fromarray(pictures.outlined(region), "P")
    layer.putpalette([0, 0, 0, *pictures.TRUE, *pictures.TRUE])
    out = io.BytesIO()
    layer.save(out, "PNG", transparency=bytes([0, 70, 255]), optimize=False)
    return out.getvalue()


def _webp(picture: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=quality, alpha_quality=50, method=2)
    return out.getvalue()
