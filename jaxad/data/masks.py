"""Which mask belongs to which image, by their names.

Masks lie in a folder of masks, and there below folders named as those of their images,
or below none. The name of a mask is

* its image's, with or without `_mask`, whatever the suffix;
* or anything at all, in a folder that has the image's name: so MVTec LOCO keeps several
  masks of an image.

Names are equal where they look it: `ä` is one letter or two, depending on the system
that wrote it (Unicode's NFC and NFD). Case does not count for folders.
"""

import collections
import os
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

_MARK = "_mask"


class Image(NamedTuple):
    """`path` is relative, with slashes; of images that one mask may belong to, those of
    the lowest `rank` are meant."""

    path: str
    rank: int


class Mask(NamedTuple):
    """`path` is relative, as images' are.

    Attributes:
      above: the folders above the folder of masks. Its images lie below them too.
      below: those between the folder of masks and the file.
    """

    path: str
    above: tuple[str, ...]
    below: tuple[str, ...]


class Pairs(NamedTuple):
    """What belongs together.

    Attributes:
      of: from an image to its masks.
      merged: images whose masks are several, other than in a folder of the image's.
      unused: masks of no image.
      unclear: masks, each with the images of which any may be meant.
    """

    of: dict[str, list[str]]
    merged: list[str]
    unused: list[str]
    unclear: list[tuple[str, list[str]]]


def pair(images: Sequence[Image], masks: Sequence[Mask]) -> Pairs:
    """Finds the image of every mask."""
    if not masks:
        return Pairs({}, [], [], [])
    known = _Known(images)
    # Where images themselves are called "..._mask", the reading that pairs more holds.
    marked = any(stem.endswith(_MARK) for stem in known.by_stem)
    found = [
        _pair(known, masks, bare) for bare in ((False, True) if marked else (True,))
    ]
    return max(found, key=lambda pairs: len(pairs.of))


def named_as_masks(names: Sequence[str]) -> list[str]:
    """Of the files of one folder those whose name is another's with `_mask`."""
    marked = {name: _stem(name) for name in names if _MARK in name.lower()}
    marked = {name: _bare(stem) for name, stem in marked.items() if _bare(stem) != stem}
    if not marked:
        return []
    stems = set(map(_stem, names))
    return [name for name, bare in marked.items() if bare in stems]


class _Known:
    """Images by the stem of their name."""

    def __init__(self, images: Sequence[Image]):
        self.by_stem: dict[str, list[Image]] = collections.defaultdict(list)
        for image in images:
            self.by_stem[_stem(image.path)].append(image)

    def meant(self, stem: str, mask: Mask, below: tuple[str, ...]) -> list[Image]:
        """The images of a name that lie below folders named as the mask's."""
        above = _folded(mask.above)
        found = []
        for image in self.by_stem.get(stem, ()):
            folders = _folded(image.path.split("/")[:-1])
            if folders[: len(above)] == above and _in_order(
                below, folders[len(above) :]
            ):
                found.append(image)
        if len(found) > 1:
            lowest = min(image.rank for image in found)
            found = [image for image in found if image.rank == lowest]
        if len(found) > 1:
            name = os.path.basename(mask.path)
            same = [one for one in found if os.path.basename(one.path) == name]
            found = same or found
        return found


def _pair(known: _Known, masks: Sequence[Mask], bare_first: bool) -> Pairs:
    pairs = Pairs(collections.defaultdict(list), [], [], [])
    loose = set()
    for mask in masks:
        stem, below = _stem(mask.path), _folded(mask.below)
        first, second = (_bare(stem), stem) if bare_first else (stem, _bare(stem))
        meant = known.meant(first, mask, below) or known.meant(second, mask, below)
        named = bool(meant)
        if not meant and below:
            meant = known.meant(_normal(mask.below[-1]), mask, below[:-1])
        if not meant:
            pairs.unused.append(mask.path)
        elif len(meant) > 1:
            pairs.unclear.append((mask.path, [image.path for image in meant]))
        else:
            image = meant[0].path
            pairs.of[image].append(mask.path)
            if named and len(pairs.of[image]) > 1:
                loose.add(image)
    pairs.merged.extend(sorted(loose))
    return pairs


def _in_order(some: tuple[str, ...], folders: tuple[str, ...]) -> bool:
    """Whether all of some are among the folders, in that order."""
    rest = iter(folders)
    return all(one in rest for one in some)


def _bare(stem: str) -> str:
    return stem[: -len(_MARK)] if stem.lower().endswith(_MARK) else stem


def _stem(path: str) -> str:
    return _normal(os.path.splitext(os.path.basename(path))[0])


def _folded(folders: Sequence[str]) -> tuple[str, ...]:
    return tuple(_normal(folder).casefold() for folder in folders)


def _normal(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)
