"""What is found of a category of own images, and what of that is left out, and why."""

import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from jaxad.data import files
from jaxad.data.split import Note
from jaxad.errors import InputError

# Reasons.
_UNREAD = "picture of a format that is not read"
_BROKEN = "link that leads nowhere"
_CIRCULAR = "link to a folder that it lies in"


class Item(NamedTuple):
    """`image` is a path, and so are its masks, of which there may be none."""

    image: str
    label: int
    defect_type: str
    masks: tuple[str, ...] = ()


class Listing:
    """What is found of a category.

    Attributes:
      root: what names are relative to.
      items: by split; under "" are those of which some will test.
      notes: by split; what belongs to neither is noted with "train".
    """

    def __init__(self, root: pathlib.Path):
        self.root = str(root)
        self.items: dict[str, list[Item]] = {"train": [], "test": [], "": []}
        self.notes: dict[str, list[Note]] = {"train": [], "test": []}

    def note(self, split: str, path: str, kind: str, detail="", grave=False) -> None:
        """Notes something about the file at a path; see `Note`."""
        file = relative(path, self.root)
        self.notes[split or "train"].append(Note(file, kind, detail, grave))

    def tell(
        self,
        split: str,
        root: str,
        folder: files.Folder,
        names: Sequence[str],
        kind: str,
        grave: bool = False,
    ) -> None:
        """Notes files of one folder: one by its name, several by their number.

        Args:
          split, kind, grave: as for `note`.
          root: where the walk to the folder began.
          folder: of the files.
          names: of the files.
        """
        if len(names) == 1:
            path = f"{root}{os.sep}{folder.path(names[0])}"
            self.note(split, path, kind, grave=grave)
        elif names:
            place = relative(os.path.join(root, folder.name), self.root)
            detail = counted(names)
            self.notes[split or "train"].append(Note(f"{place}/", kind, detail, grave))

    def tell_of_strangers(self, split: str, root: str, folder: files.Folder) -> None:
        """Notes what looks like images in a folder, and cannot be read."""
        self.tell(split, root, folder, folder.unread, _UNREAD)
        self.tell(split, root, folder, folder.broken, _BROKEN, grave=True)
        self.tell(split, root, folder, folder.circular, _CIRCULAR)


def digest(items: list[Item]) -> str:
    """Of names, labels, sizes and times of the files.

    Of one mask, or none, it is what earlier versions gave: runs go on.
    """
    found = hashlib.sha256()
    for item in items:
        paths = item.image, *(item.masks or ("",))
        row = (*item[:3], *paths[1:], *map(_stat, paths))
        found.update(repr(row).encode())
    return found.hexdigest()


def _stat(path: str) -> tuple[int, int] | None:
    if not path:
        return None
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns


def relative(path: str, root: str) -> str:
    """As os.path.relpath, which is slow, has it."""
    if path.startswith(root + os.sep):
        return path[len(root) + 1 :]
    return os.path.relpath(path, root)


def counted(names: Sequence[str]) -> str:
    """Some names for a message."""
    return names[0] if len(names) == 1 else f"{len(names)}, such as {names[0]}"
