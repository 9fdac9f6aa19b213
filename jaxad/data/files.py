"""The files below a folder: every one found, none of them read.

Left out are hidden names, which begin with a dot; the folders that file servers and
desktops put between other people's files, such as `@eaDir` and `lost+found`; and the
folders of our own runs and predictions, which hold pictures too.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxad.data import images
from jaxad.errors import InputError

# In lower case.
_CLUTTER = frozenset(
    (
        "@eadir",
        "@recycle",
        "@tmp",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "__macosx",
        "__pycache__",
        "lost+found",
        "system volume information",
    )
)
# Pictures all, of which `images.SUFFIXES` are read.
_PICTURES = tuple(
    (
        ".apng .arw .avif .bmp .cr2 .cr3 .dcm .dib .dng .emf .eps .exr .fit .fits .fts "
        ".gif .hdr .heic .heif .icns .ico .j2c .j2k .jfif .jif .jp2 .jpc .jpe .jpeg "
        ".jpf .jpg .jpx .jxl .nef .nrw .orf .pam .pbm .pcx .pef .pfm .pgm .png .pnm "
        ".ppm .psd .qoi .raf .ras .raw .rw2 .sgi .svg .tga .tif .tiff .webp .wmf .xbm "
        ".xpm"
    ).split()
)


class Folder(NamedTuple):
    """What lies right in one folder, by name.

    Attributes:
      name: relative to where the walk began, with slashes; "" is that folder itself.
      images: named as images that are read.
      unread: named as pictures of other formats.
      broken: links that lead nowhere, whatever they are named.
      circular: links to a folder that was gone through on the way here.
      others: files of any other name.
    """

    name: str
    images: list[str]
    unread: list[str]
    broken: list[str]
    circular: list[str]
    others: list[str]

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.name.split("/")) if self.name else ()

    def path(self, name: str) -> str:
        """Of a file in it, relative to where the walk began."""
        return f"{self.name}/{name}" if self.name else name


def is_image(name: str) -> bool:
    """Whether it is named as an image that is read."""
    return name.lower().endswith(images.SUFFIXES)


def is_picture(name: str) -> bool:
    """Whether it is named as an image, of whatever format."""
    return name.lower().endswith((*images.SUFFIXES, *_PICTURES))


def walk(
    root: str | os.PathLike,
    without: Iterable[str | os.PathLike] = (),
    *,
    once: bool = False,
) -> Iterator[Folder]:
    """A folder and all folders in it, links followed.

    Args:
      root: where to begin.
      without: folders that are left out wherever they are come by.
      once: goes but once through a folder that several links lead to.

    Raises:
      InputError: a folder cannot be read.
    """
    seen = {os.path.realpath(folder) for folder in without}
    if os.path.realpath(root) not in seen:
        yield from _walk(os.fspath(root), "", seen, once)


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders right in one, as `walk` would go through them, by name."""
    with _scanned(folder) as entries:
        found = [entry.name for entry in entries if _kind(entry) == "folder"]
    return [folder / name for name in sorted(found)]


def state(folder: pathlib.Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of all files right in a folder, which tell it from another
    of that name."""
    return tuple(
        (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
    )


def _walk(folder: str, name: str, seen: set[str], once: bool) -> Iterator[Folder]:
    """`seen` are folders not to go through, links resolved."""
    if not once:
        seen = set(seen)
    seen.add(os.path.realpath(folder))
    found, inside = Folder(name, [], [], [], [], []), []
    with _scanned(folder) as entries:
        for entry in entries:
            kind = _kind(entry)
            if kind == "folder":
                inside.append(entry.name)
            elif kind:
                getattr(found, kind).append(entry.name)
    if name and _is_ours(folder, found.others):
        return
    for names in found[1:]:
        names.sort()
    below = []
    for one in sorted(inside):
        path = os.path.join(folder, one)
        if os.path.realpath(path) not in seen:
            below.append((path, found.path(one)))
        elif os.path.islink(path):
            found.circular.append(one)
    yield found
    for path, name in below:
        if not once or os.path.realpath(path) not in seen:
            yield from _walk(path, name, seen, once)


def _is_ours(folder: str, names: list[str]) -> bool:
    """Whether a run or predictions have been written there."""
    for name in ("config.json", "predictions.json"):
        if name in names:
            try:
                text = pathlib.Path(folder, name).read_text(encoding="utf-8")
                if "detector" in json.loads(text):
                    return True
            except (OSError, ValueError, TypeError):  # somebody else's
                continue
    return False


def _scanned(folder: str | os.PathLike):
    try:
        return os.scandir(folder)
    except OSError as error:
        raise InputError(
            f"{os.fspath(folder)} cannot be read ({error.strerror}); mend or move it"
        ) from None


def _kind(entry: os.DirEntry) -> str:
    """Which list of `Folder` a name belongs to; or "folder", or "" for none."""
    name = entry.name
    if name.startswith("."):
        return ""
    try:
        if entry.is_dir():
            return "" if name.casefold() in _CLUTTER else "folder"
        if not entry.is_file() and entry.is_symlink():
            return "broken"
    except OSError:  # such as of a link to itself
        return "broken"
    if is_image(name):
        return "images"
    return "unread" if is_picture(name) else "others"
