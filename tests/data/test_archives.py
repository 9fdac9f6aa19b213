"""Archives, opened safely, and where a builder looks for them."""

import dataclasses
import gzip
import hashlib
import io
import stat
import tarfile
import time
import zipfile

import pytest
import trees

from jaxad.errors import InputError
from tfds_builders import archives

PUBLISHED = archives.Archive(
    "set_2020.tar.xz",
    "https://example.invalid/set_2020.tar.xz",
    5_300_000_000,
    "0" * 64,
    "CC BY",
)


@dataclasses.dataclass
class Manager:
    """What the builders use of TFDS's download manager."""

    folder: object
    manual: object = None
    downloaded: object = None

    @property
    def download_dir(self):
        return self.folder

    @property
    def manual_dir(self):
        if self.manual is None:
            raise AssertionError
        return self.manual

    def download(self, url):
        assert url == PUBLISHED.url
        return self.downloaded


def is_root(folder):
    return (folder / "bottle").is_dir()


def find(manager):
    return archives.find(manager, PUBLISHED, is_root)


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz", ".tar.gz", ".zip"])
def test_every_kind_of_archive_is_extracted(tmp_path, suffix):
    tree = trees.mvtec_ad(tmp_path / "tree")
    archive = trees.packed(tree, tmp_path / f"any{suffix}")
    archives.extract(archive, tmp_path / "out")
    files = {
        p.relative_to(tree): p.read_bytes() for p in tree.rglob("*") if p.is_file()
    }
    out = tmp_path / "out"
    assert files == {
        p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()
    }


def tar_with(path, name, kind=tarfile.REGTYPE, link=""):
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, 1 if not link else 0
        archive.addfile(info, io.BytesIO(b"x"))


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../out.png", tarfile.REGTYPE, ""),
        ("a/../../out.png", tarfile.REGTYPE, ""),
        ("/out.png", tarfile.REGTYPE, ""),
        ("C:\\out.png", tarfile.REGTYPE, ""),
        ("a.png", tarfile.SYMTYPE, "/etc/passwd"),
        ("a.png", tarfile.LNKTYPE, "b.png"),
        ("a.png", tarfile.CHRTYPE, ""),
        ("a.png", tarfile.FIFOTYPE, ""),
    ],
)
def test_a_tar_with_anything_unsafe_is_refused_whole(tmp_path, name, kind, link):
    manual = tmp_path / "manual"
    manual.mkdir()
    tar_with(manual / "set_2020.tar", name, kind, link)
    with pytest.raises(InputError, match="set_2020.tar holds .*nothing of it is used"):
        find(Manager(tmp_path / "downloads", manual))
    assert not list((tmp_path / "downloads/extracted").iterdir())
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("name", ["../out.png", "/out.png", "link.png"])
def test_a_zip_with_anything_unsafe_is_refused_whole(tmp_path, name):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(name)
        if name == "link.png":
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match="nothing of it is used"):
        archives.extract(path, tmp_path / "target")
    assert not (tmp_path / "out.png").exists()


def flipped(content):
    """Some bytes in the middle are others."""
    half = len(content) // 2
    return (
        content[:half]
        + bytes(255 - b for b in content[half : half + 64])
        + (content[half + 64 :])
    )


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz", ".tar.gz", ".zip"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_archive_leaves_nothing(tmp_path, suffix, damage):
    tree = trees.mvtec_ad(tmp_path / "tree", train=40)
    archive = trees.packed(tree, tmp_path / f"m/set_2020{suffix}")
    content = archive.read_bytes()
    if suffix == ".tar" and damage == "flipped":  # in a header: contents have no check
        with tarfile.open(archive) as opened:
            offset = opened.getmembers()[20].offset
        content = (
            content[:offset]
            + flipped(content[offset:][:512])
            + (content[offset + 512 :])
        )
    elif damage == "flipped":
        content = flipped(content)
    else:
        content = content[: len(content) * 3 // 4]
    archive.write_bytes(content)
    with pytest.raises(
        InputError, match=rf"set_2020{suffix} cannot be extracted \(.+\)"
    ):
        find(Manager(tmp_path / "downloads", archive.parent))
    assert not list((tmp_path / "downloads/extracted").iterdir())


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_tar_that_ends_between_two_files_is_not_whole(tmp_path, suffix):
    whole = trees.packed(trees.mvtec_ad(tmp_path / "tree"), tmp_path / "whole.tar")
    with tarfile.open(whole) as opened:
        offset = opened.getmembers()[-2].offset
    content = whole.read_bytes()[:offset]
    archive = tmp_path / f"cut{suffix}"
    archive.write_bytes(gzip.compress(content) if suffix == ".tar.gz" else content)
    with pytest.raises(InputError, match="cut short"):
        archives.extract(archive, tmp_path / "out")


def test_a_compressed_tar_is_read_to_its_checksum(tmp_path):
    tree = trees.mvtec_ad(tmp_path / "tree")
    archive = trees.packed(tree, tmp_path / "a.tar.gz")
    content = bytearray(archive.read_bytes())
    content[-8] ^= 1  # of gzip's CRC
    archive.write_bytes(content)
    with pytest.raises(InputError, match="CRC check failed"):
        archives.extract(archive, tmp_path / "out")


def test_a_deflated_zip_may_be_damaged_too(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    content[35] = 0xFF  # the first deflated byte: no such block type
    path.write_bytes(content)
    with pytest.raises(InputError, match="a.zip cannot be extracted .*invalid block"):
        archives.extract(path, tmp_path / "out")


def test_an_encrypted_zip_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"secret")
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag of the file
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and of the directory
    path.write_bytes(content)
    with pytest.raises(InputError, match="a.zip cannot be extracted .*encrypted"):
        archives.extract(path, tmp_path / "out")


def test_a_sha256_takes_all_of_a_file_and_shows_its_progress(tmp_path, monkeypatch):
    bars, bar = [], archives.progress.bar
    monkeypatch.setattr(
        archives.progress, "bar", lambda **o: bars.append(bar(**o)) or bars[-1]
    )
    content = bytes(range(251)) * 10_000  # 2.4 blocks
    (tmp_path / "a.tar").write_bytes(content)
    assert archives.sha256(tmp_path / "a.tar") == hashlib.sha256(content).hexdigest()
    assert [bar._line(0.0) for bar in bars] == ["sha256 of a.tar: 3 of 3 MB"]


def test_the_published_size_with_another_content_is_refused(tmp_path):
    tree = trees.mvtec_ad(tmp_path / "tree")
    archive = trees.packed(tree, tmp_path / "manual/set_2020.tar")
    known = dataclasses.replace(PUBLISHED, size=archive.stat().st_size)
    manager = Manager(tmp_path / "downloads", archive.parent)
    with pytest.raises(InputError, match="set_2020.tar is damaged: .*sha256"):
        archives.find(manager, known, is_root)
    assert not (tmp_path / "downloads/extracted").exists()


@pytest.mark.parametrize("depth", ["", "mvtec", "mvtec/"])
def test_the_extracted_folder_is_found(tmp_path, depth):
    root = trees.mvtec_ad(tmp_path / "manual" / depth)
    found = find(Manager(tmp_path / "downloads", tmp_path / "manual"))
    assert found == archives.Found(root, tmp_path / "manual", published=False)


def test_an_archive_is_extracted_once(tmp_path):
    tree = trees.mvtec_ad(tmp_path / "tree")
    archive = trees.packed(tree, tmp_path / "manual/set_2020.zip")
    manager = Manager(tmp_path / "downloads", archive.parent)
    found = find(manager)
    assert (found.root / "bottle/train/good/000.png").exists()
    assert not found.published
    (found.root / "mark").touch()
    assert (find(manager).root / "mark").exists()


def test_two_runs_may_extract_it_at_the_same_time(tmp_path, monkeypatch):
    archive = trees.packed(
        trees.mvtec_ad(tmp_path / "tree"), tmp_path / "m/set_2020.tar"
    )
    manager = Manager(tmp_path / "downloads", archive.parent)
    extract, found = archives.extract, []

    def overtaken(path, target):
        monkeypatch.setattr(archives, "extract", extract)
        found.append(find(manager))  # another run is done while this one extracts
        extract(path, target)

    monkeypatch.setattr(archives, "extract", overtaken)
    assert [find(manager)] == found
    assert [path.name for path in (tmp_path / "downloads/extracted").iterdir()] == [
        found[0].root.name
    ]


def test_the_published_archive_is_known_by_its_sha256(tmp_path):
    tree = trees.mvtec_ad(tmp_path / "tree")
    archive = trees.packed(tree, tmp_path / "manual/set_2020.tar")
    known = dataclasses.replace(PUBLISHED, sha256=archives.sha256(archive))
    manager = Manager(tmp_path / "downloads", archive.parent)
    assert archives.find(manager, known, is_root).published


def test_an_archive_of_something_else_is_refused(tmp_path):
    (tmp_path / "tree/other").mkdir(parents=True)
    archive = trees.packed(tmp_path / "tree", tmp_path / "manual/set_2020.tar")
    with pytest.raises(InputError, match="is not set_2020.tar.xz"):
        find(Manager(tmp_path / "downloads", archive.parent))


def test_a_named_folder_without_the_data_says_what_to_put_there(tmp_path):
    (tmp_path / "manual").mkdir()
    with pytest.raises(InputError) as caught:
        find(Manager(tmp_path / "downloads", tmp_path / "manual"))
    for part in (
        "config.dataset.manual_dir=",
        PUBLISHED.name,
        PUBLISHED.url,
        "5.3 GB",
        "CC BY",
    ):
        assert part in str(caught.value)


def test_archives_by_category_are_refused(tmp_path):
    for category in ("bottle", "grid"):
        tree = trees.mvtec_ad(tmp_path / category, [category])
        trees.packed(tree, tmp_path / f"manual/{category}.tar.xz")
    with pytest.raises(InputError, match="several archives .bottle.tar.xz, grid.tar.x"):
        find(Manager(tmp_path / "downloads", tmp_path / "manual"))


def test_the_folder_that_nobody_named_may_hold_other_archives(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.requests, "head", lambda *_, **__: None)
    tree = trees.mvtec_ad(tmp_path / "tree")
    downloads = tmp_path / "downloads"
    trees.packed(trees.btad(tmp_path / "btad"), downloads / "manual/btad.zip")
    got = trees.packed(tree, tmp_path / "got.tar.xz")
    assert find(Manager(downloads, downloads / "manual", got)).origin == got


def test_without_a_network_the_message_says_what_to_fetch(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError

    monkeypatch.setattr(archives.requests, "head", fail)
    with pytest.raises(InputError) as caught:
        find(Manager(tmp_path / "downloads"))
    for part in (
        "ConnectionError",
        PUBLISHED.url,
        "5.3 GB",
        "CC BY",
        "downloads/manual",
    ):
        assert part in str(caught.value)


def test_a_download_is_extracted(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.requests, "head", lambda *_, **__: None)
    archive = trees.packed(trees.mvtec_ad(tmp_path / "tree"), tmp_path / "got.tar.xz")
    found = find(Manager(tmp_path / "downloads", downloaded=archive))
    assert (found.root / "grid/train/good/002.png").exists()


def test_a_download_tells_how_far_it_is(tmp_path, monkeypatch, caplog):
    """As TFDS writes: into a folder of its own, which is moved in the end."""
    monkeypatch.setattr(archives, "_LOOK", 0.001)
    monkeypatch.setattr(archives.progress, "_EVERY", 0.0)
    monkeypatch.setattr(archives.requests, "head", lambda *_, **__: None)
    caplog.set_level("INFO", "jaxad")
    archive = trees.packed(trees.mvtec_ad(tmp_path / "tree"), tmp_path / "got.tar.xz")
    manager = Manager(tmp_path / "downloads", downloaded=archive)
    part = tmp_path / "downloads/set/set_2020.tar.xz.tmp.0a1b/set_2020.tar.xz"
    line = "download set_2020.tar.xz: 3 of 5300 MB"

    def download(url):
        part.parent.mkdir(parents=True)
        part.write_bytes(bytes(3_000_000))
        for _ in range(10_000):
            if line in caplog.text:
                return archive
            time.sleep(0.001)

    manager.download = download
    find(manager)
    assert line in caplog.text
