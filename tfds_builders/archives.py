"""Where a builder's files come from: an extracted folder, an archive, or a download."""

import contextlib
import dataclasses
import hashlib
import logging
import lzma
import pathlib
import shutil
import stat
import sys
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import requests
from etils import epath
from tensorflow_datasets.core.download import resource

from jaxad import progress
from jaxad.errors import InputError
from tfds_builders import published
from tfds_builders.published import Archive

_LOG = logging.getLogger(f"jaxad.{__name__}")
_LOOK = 1.0  # seconds between two looks at how far a download is
_SUFFIXES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".zip")


@dataclasses.dataclass(frozen=True)
class Found:
    """An extracted data set.

    Attributes:
      root: the folder of the layout's top level.
      origin: what the user gave or TFDS downloaded: the folder, or the archive.
      published: whether it comes from the published archive, byte for byte.
    """

    root: pathlib.Path
    origin: pathlib.Path
    published: bool


def find(
    dl_manager,
    archive: Archive,
    is_root: Callable[[pathlib.Path], bool],
    *,
    may_download: bool = True,
) -> Found:
    """The data set's files: in the manual directory, or else downloaded.

    Args:
      dl_manager: TFDS's download manager.
      archive: the published archive.
      is_root: whether a folder is the top level of the layout.
      may_download: whether the archive is fetched where it is not on this machine.

    Raises:
      InputError: says which file to get from where, and where to put it; NotHere where
        it may not be fetched.
    """
    downloads = pathlib.Path(dl_manager.download_dir)
    manual, named = manual_folder(dl_manager)
    if manual:
        if root := _root(manual, is_root):
            return Found(root, manual, published=False)
        if path := _archive_in(manual, archive, named):
            return _extracted(path, archive, downloads, is_root)
        if named:
            raise InputError(
                f"config.dataset.manual_dir={manual} does not hold the data set.\n"
                f"{archive.instructions('that folder')}"
            )
    fetched = _is_fetched(downloads, archive)
    if not fetched and not may_download:
        raise archive.not_here(downloads)
    try:
        if not fetched:
            _LOG.info("downloading %s, licence %s", archive.url, archive.licence)
            # TFDS's own retries take minutes to find out that there is no network.
            requests.head(archive.url, timeout=20)
        with _told(downloads, archive):
            path = pathlib.Path(dl_manager.download(archive.url))
    except Exception as error:  # of requests, urllib3, TFDS: all of them mean this
        raise InputError(
            f"the data set could not be downloaded ({type(error).__name__}).\n"
            f"{archive.instructions(published.anywhere(downloads))}"
        ) from error
    return _extracted(path, archive, downloads, is_root)


@contextlib.contextmanager
def _told(downloads: pathlib.Path, archive: Archive) -> Iterator[None]:
    """Tells how far a download is where TFDS's own bars are not seen.

    TFDS says nothing by itself, but writes to a folder `NAME.tmp.NUMBER` until all is
    there: what lies in it is looked at.
    """
    ended = threading.Event()

    def watch():
        total, what = archive.size // 10**6, f"download {archive.name}"
        with progress.bar(total=total, unit="MB", desc=what) as bar:
            while not ended.wait(_LOOK):
                there = 0
                with contextlib.suppress(OSError):  # it is moved when all is there
                    there = sum(
                        path.stat().st_size for path in downloads.rglob("*.tmp.*/*")
                    )
                bar.update(max(there // 10**6 - bar.n, 0))

    watcher = threading.Thread(target=watch, daemon=True)
    if not sys.stderr.isatty():
        watcher.start()
    try:
        yield
    finally:
        ended.set()
        if watcher.ident is not None:
            watcher.join()


def _is_fetched(downloads: pathlib.Path, archive: Archive) -> bool:
    """Whether TFDS has downloaded the archive before."""
    name = resource.get_dl_fname(archive.url, archive.sha256)
    # In a folder of the data set; right there in earlier versions.
    paths = (*downloads.glob(name), *downloads.glob(f"*/{name}"))
    return any(resource.is_locally_cached(epath.Path(path)) for path in paths)


def manual_folder(dl_manager) -> tuple[pathlib.Path | None, bool]:
    """The manual directory, if anything is in it, and whether a person named it.

    The other is where TFDS looks unasked, and may hold any data set's files.
    """
    try:
        manual = pathlib.Path(dl_manager.manual_dir)
    except AssertionError:  # TFDS's word for one that is missing or empty
        return None, False
    unasked = pathlib.Path(dl_manager.download_dir) / "manual"
    return manual, manual.resolve() != unasked.resolve()


def _root(folder: pathlib.Path, is_root) -> pathlib.Path | None:
    """The top level of the layout: this folder, or one right inside it."""
    if is_root(folder):
        return folder
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return next(filter(is_root, inside), None)


def _archive_in(
    folder: pathlib.Path, archive: Archive, named: bool
) -> pathlib.Path | None:
    """The archive of the published name, packed in whatever way.

    In a folder that a person named also the only one, whatever its name.
    """
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(_SUFFIXES))
    stem = archive.name.split(".")[0]
    of_name = [path for path in paths if path.name.split(".")[0] == stem]
    if of_name or not named:
        return next(iter(of_name), None)
    if len(paths) > 1:  # such as MVTec AD's, which come by category as well
        raise InputError(
            f"config.dataset.manual_dir={folder} holds several archives "
            f"({', '.join(path.name for path in paths)}), none of them {archive.name}; "
            "extract those of this data set into one folder, and name that"
        )
    return next(iter(paths), None)


def _extracted(
    path: pathlib.Path, archive: Archive, downloads: pathlib.Path, is_root
) -> Found:
    """An archive's files, extracted the first time."""
    status = path.stat()
    stem = archive.name.split(".")[0]
    target = downloads / "extracted" / f"{stem}-{status.st_size}-{status.st_mtime_ns}"
    digest_file = target / ".sha256"
    if not target.exists():
        digest = sha256(path)
        if digest != archive.sha256:
            if status.st_size == archive.size:
                raise InputError(
                    f"{path} is damaged: it has the size of the published archive, but "
                    f"its sha256 is {digest}, not {archive.sha256}; get it anew from "
                    f"{archive.url}"
                )
            _LOG.warning(
                "%s is not the published archive: its sha256 is %s, not %s",
                path,
                digest,
                archive.sha256,
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
        try:
            extract(path, temporary)
            (temporary / digest_file.name).write_text(digest)
            try:
                temporary.rename(target)
            except OSError:
                if not target.exists():  # or else another run was faster
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    root = _root(target, is_root)
    if root is None:
        raise InputError(f"{path} is not {archive.name}: its folders are others")
    return Found(root, path, published=digest_file.read_text() == archive.sha256)


def sha256(path: pathlib.Path) -> str:
    """Of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    blocks = -(-path.stat().st_size // 2**20)
    with (
        path.open("rb") as file,
        progress.bar(total=blocks, unit="MB", desc=f"sha256 of {path.name}") as bar,
    ):
        while block := file.read(2**20):
            digest.update(block)
            bar.update()
    return digest.hexdigest()


def listing(files: Iterable[tuple[str, pathlib.Path]]) -> str:
    """A digest of files' splits, names, sizes and times; reads none of them."""
    digest = hashlib.sha256()
    for split, path in files:
        status = path.stat()
        row = (split, str(path), status.st_size, status.st_mtime_ns)
        digest.update(repr(row).encode())
    return digest.hexdigest()


def extract(path: pathlib.Path, target: pathlib.Path) -> None:
    """Extracts the plain files of a .tar, .tar.xz, .tar.gz or .zip into a folder.

    Raises:
      InputError: the archive is damaged, cut short or encrypted, or holds anything but
        plain files and folders with names that stay inside the target.
    """
    try:
        with (
            _members(path) as members,
            progress.bar(total=None, unit="file", desc=f"extract {path.name}") as bar,
        ):
            for name, opened in members:
                bar.update()
                destination = target.joinpath(*name.parts)
                destination.parent.mkdir(parents=True, exist_ok=True)
                with opened() as source, destination.open("wb") as file:
                    shutil.copyfileobj(source, file)
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise InputError(f"{path} cannot be extracted ({reason})") from error


# RuntimeError is zipfile's word for encryption, and for a compression unknown to it.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
)


class _TarInfo(tarfile.TarInfo):
    """A header, where only a block of zeros ends the archive.

    `tarfile` takes a damaged header, and the end of the file, for the end as well.
    """

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(tarfile.BLOCKSIZE):
                raise
            raise tarfile.ReadError(
                f"damaged or cut short: {error} where a file or the end is due"
            ) from error


Member = tuple[pathlib.PurePosixPath, Callable[[], BinaryIO]]


@contextlib.contextmanager
def _members(path: pathlib.Path) -> Iterator[Iterator[Member]]:
    """Names of the plain files of an archive, each with what opens it."""
    if path.suffix == ".zip" or zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield (
                (_inside(path, info.filename), lambda info=info: archive.open(info))
                for info in archive.infolist()
                if _plain(path, info.filename, *_zip_kind(info))
            )
        return
    with tarfile.open(path, tarinfo=_TarInfo) as archive:
        yield (
            (_inside(path, info.name), lambda info=info: archive.extractfile(info))
            for info in archive
            if _plain(path, info.name, info.isdir(), info.isreg())
        )
        while archive.fileobj.read(2**20):
            pass  # gzip and xz compare their checksums at the very end


def _zip_kind(info: zipfile.ZipInfo) -> tuple[bool, bool]:
    """Whether a member is a folder, and whether it is a plain file."""
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where no Unix packed it
    return info.is_dir(), kind in (0, stat.S_IFREG)


def _plain(path: pathlib.Path, name: str, folder: bool, plain: bool) -> bool:
    if folder or plain:
        return not folder
    raise InputError(
        f"{path} holds {name!r}, which is neither a file nor a folder; no archive of "
        "images needs that, so nothing of it is used"
    )


def _inside(path: pathlib.Path, name: str) -> pathlib.PurePosixPath:
    inside = pathlib.PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\\" in name or ":" in name:
        raise InputError(
            f"{path} holds {name!r}, which would lie outside the folder that it is "
            "extracted to; nothing of it is used"
        )
    return inside
