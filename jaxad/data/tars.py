"""Pictures in a tar, read where they lie: ImageNet as it is downloaded.

`ILSVRC2012_img_train.tar` holds a tar of JPEGs for each class; other tars hold
pictures in folders, as an extracted one would. Neither is compressed, so every picture
is a range of bytes of the one file, and nothing is extracted.
"""

import os
import pathlib
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from jaxad.data import files
from jaxad.errors import InputError

IMAGENET = "ILSVRC2012_img_train.tar"
IMAGENET_VALIDATION = "ILSVRC2012_img_val.tar"


class Picture(NamedTuple):
    """A picture's name, with the folders or the inner tar before it, and its bytes."""

    name: str
    offset: int
    size: int


def find(path: pathlib.Path) -> pathlib.Path | None:
    """The tar that a path names, or ImageNet's in the folder that it names."""
    inside = path / IMAGENET if path.is_dir() else path
    return inside if inside.is_file() and inside.suffix == ".tar" else None


def pictures(path: pathlib.Path) -> list[Picture]:
    """All pictures of a tar and of the tars in it, by name; reads their headers alone.

    Raises:
      InputError: it is no tar, is compressed, or ends before its end.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            found = list(_pictures(tar))
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"config.dataset.path={path} cannot be read as an uncompressed tar "
            f"({error}); fetch it again, or extract it and name the folder"
        ) from None
    end = os.stat(path).st_size
    for picture in found:
        if picture.offset + picture.size > end:
            raise InputError(
                f"config.dataset.path={path} ends in the middle of {picture.name}; "
                "fetch it again"
            )
    return sorted(found)


def read(path: pathlib.Path, picture: Picture) -> bytes:
    """A picture as it is stored; from any thread."""
    with open(path, "rb") as file:
        file.seek(picture.offset)
        return file.read(picture.size)


def _pictures(tar: tarfile.TarFile, folder: str = "", start: int = 0):
    """`start` is where the tar lies in the file."""
    for member in _members(tar):
        name, offset = member.name.removeprefix("./"), start + member.offset_data
        if name.endswith(".tar"):
            with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                yield from _pictures(inner, name.removesuffix(".tar") + "/", offset)
        elif files.is_image(name) and not name.rpartition("/")[2].startswith("."):
            yield Picture(folder + name, offset, member.size)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Its files; forgets them as it goes, which are a million."""
    for member in tar:
        tar.members.clear()
        if member.isfile():
            yield member
