"""What users hand over: paths, tables, pictures, arrays; and their mistakes."""

import logging
import os
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import trees
from PIL import Image

from jaxad.data import given
from jaxad.data.images import Geometry
from jaxad.errors import InputError

SMALL = Geometry((6, 8))


def names(what, **options):
    return [item.name for item in given.items(what, **options)]


def seen(what, geometry=SMALL):
    """Of one thing that is given, what a detector sees."""
    (item,) = given.items(what)
    return geometry.image(item.decode())


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    for name in ("b.PNG", "a.png", "deep/er/c.jpg", "deep/a.tiff", "Größe 1.bmp"):
        trees.image(root / name)
    for name in (".hidden.png", "._a.png", ".trash/d.png", "deep/.cache/e.png"):
        trees.image(root / name)
    (root / "notes.txt").write_text("by hand")
    (root / "deep/Thumbs.db").touch()
    return root


# ---- Files


def test_a_folder_is_gone_through(folder, caplog):
    with caplog.at_level(logging.INFO, "jaxad"):
        found = given.items(str(folder))
    assert [item.name for item in found] == [
        "Größe 1.bmp", "a.png", "b.PNG", "deep/a.tiff", "deep/er/c.jpg",
    ]  # fmt: skip
    assert [item.path for item in found] == [folder / item.name for item in found]
    assert "2 other files (deep/Thumbs.db, ...) left out" in caplog.text
    assert "deep/a.tiff" not in names(folder, without=folder / "deep")
    assert names(folder / "a.png") == ["a.png"]


def test_links_are_followed_once(folder, tmp_path):
    trees.image(tmp_path / "elsewhere/x.png")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "deep/up").symlink_to(folder)
    assert "link/x.png" in names(folder)
    assert len(names(folder)) == 6


def test_what_cannot_be_read_is_told_of(folder, caplog):
    (folder / "deep/x.heic").touch()
    (folder / "y.dng").touch()
    (folder / "unmounted").symlink_to("/nowhere")
    (folder / "z.png").symlink_to("/nowhere/z.png")
    for name in ("@eaDir/a.png/thumb.jpg", "lost+found/b.png", "__MACOSX/c.png"):
        trees.image(folder / name)
    found = given.items(folder)
    told = "3 pictures that cannot be read (deep/x.heic, ...) and 2 other files"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert told in caplog.text
    # A link that is named as an image is an image that cannot be read.
    assert [item.name for item in found][5:] == ["z.png"]
    with pytest.raises(InputError, match="z.png cannot be read .No such file"):
        found[5].decode()


def test_a_table_names_files_relative_to_it(folder, tmp_path):
    table = folder / "some.CSV"
    absolute = tmp_path / "z.png"
    table.write_text(
        f"\ufefflot,file\n7,deep/a.tiff\n8, b.PNG\n9,missing.png\n9,{absolute}\n"
    )
    found = given.items(table)
    expected = ["deep/a.tiff", "b.PNG", "missing.png", str(absolute)]
    assert [item.name for item in found] == expected
    assert found[0].decode().size == (8, 6)
    with pytest.raises(InputError, match=r"^missing.png cannot be read \(No such file"):
        found[2].decode()


def test_a_list_of_everything(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "deep/t.csv").write_text("file\na.tiff\n")
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    what = ["a.png", "deep/t.csv", "deep", Image.new("L", (2, 2)), pixels, (pixels[0],)]
    assert names(what) == [
        "a.png", "deep/a.tiff", "deep/a.tiff", "deep/er/c.jpg",
        "image 3", "image 4, 0", "image 4, 1", "image 5, 0",
    ]  # fmt: skip
    assert names([pixels[0], pixels[1]]) == names(pixels) == ["image 0", "image 1"]
    assert names(pixels[0]) == ["image"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "no.png", "no.png does not exist; name an image, a folder"),
        (lambda p: "", "does not exist|holds no image"),
        (lambda p: p / "empty", "empty holds no image; names of images end in .png"),
        (lambda p: p / "texts", r"texts holds no image, only 1 other file \(a.txt\);"),
        (lambda p: p / "none.csv", "none.csv lists no image"),
        (
            lambda p: p / "other.csv",
            "other.csv has no column file; its first .* column",
        ),
        (lambda p: p / "gap.csv", "gap.csv, line 3: file is empty"),
        (lambda p: p / "long.csv", "long.csv, line 2: not as many cells as columns"),
        (lambda p: p / "latin.csv", "latin.csv is not in UTF-8"),
    ],
)
def test_mistakes_in_files(make, message, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").touch()
    (tmp_path / "none.csv").write_text("file\n")
    (tmp_path / "other.csv").write_text("path\na.png\n")
    (tmp_path / "gap.csv").write_text("file,lot\na.png,1\n,2\n")
    (tmp_path / "long.csv").write_text("file\na.png,1\n")
    (tmp_path / "latin.csv").write_bytes("file\nGröße.png\n".encode("latin-1"))
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match=message):
        given.items(make(tmp_path))


def test_a_broken_file_is_named(tmp_path):
    whole = trees.encoded(Image.new("RGB", (40, 40), (1, 2, 3)))
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "none.png").touch()
    for name, reason in (("half", ""), ("text", "no"), ("none", "the file is empty")):
        (item,) = given.items(tmp_path / f"{name}.png")
        with pytest.raises(InputError, match=rf"^{name}.png cannot .*{reason}.*; mend"):
            item.decode()


def test_pages_that_are_not_looked_at_are_told_of_once(tmp_path, caplog):
    pages = [Image.new("RGB", (4, 4), (i, 2, 3)) for i in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "b.tif")
    for item in 2 * given.items(tmp_path):
        item.decode()
    assert caplog.messages == [
        "a.tif: only the first of 3 pages or frames is looked at"
    ]


# ---- Memory


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_bytes_are_the_png_they_would_be_stored_as(channels, tmp_path):
    shape = (13, 9) if channels is None else (13, 9, channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    stored = pixels[..., 0] if channels == 1 else pixels
    Image.fromarray(stored).save(tmp_path / "a.png")
    for geometry in (
        SMALL,
        Geometry((6, 8), "pad"),
        Geometry((4, 4), "resize_crop", 5),
    ):
        expected = seen(tmp_path / "a.png", geometry)
        for one in (pixels, np.asfortranarray(pixels), jnp.asarray(pixels)):
            np.testing.assert_array_equal(seen(one, geometry), expected)
        np.testing.assert_array_equal(seen(Image.fromarray(stored), geometry), expected)


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_16_bits_are_the_png_they_would_be_stored_as(channels, tmp_path):
    shape = (13, 9) if channels is None else (13, 9, channels)
    pixels = np.random.default_rng(0).integers(0, 2**16, shape).astype(np.uint16)
    if channels in (3, 4):
        (tmp_path / "a.png").write_bytes(trees.png16(pixels))
    else:
        Image.fromarray(pixels.reshape(13, 9)).save(tmp_path / "a.png")
    expected = seen(tmp_path / "a.png")
    for one in (pixels, pixels.astype(">u2")):
        np.testing.assert_array_equal(seen(one), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_keep_their_precision(dtype):
    colour = np.random.default_rng(0).random((5, 7, 4)).astype(dtype)
    colour[..., 3] = np.nan  # alpha does not count
    whole = Geometry((5, 7))
    want = colour[..., :3].astype(np.float32)
    np.testing.assert_array_equal(seen(colour, whole), want)
    grey = seen(colour[..., 0], whole)
    np.testing.assert_array_equal(grey, np.repeat(want[..., :1], 3, axis=-1))
    batch = given.items(np.stack([want, 1 - want]))
    np.testing.assert_array_equal(whole.image(batch[1].decode()), 1 - want)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ([], "an empty list was given"),
        ([[], ()], "an empty list was given"),
        (7, "image is of type int; give a path, a PIL image, an array"),
        ([None], "image 0 is of type NoneType"),
        (np.zeros((4, 4), bool), "image is an array of bool .4, 4.; images are uint8"),
        (np.zeros((4, 4), np.int64), "array of int64 .4, 4.; images are uint8 .0 to"),
        (np.zeros((4, 4), np.uint32), "array of uint32"),
        (np.array(["a"]), "array of <U1"),
        (np.zeros((0, 4, 4, 3), np.uint8), "uint8 .0, 4, 4, 3.; .* none of them empty"),
        (np.zeros((4, 0), np.uint8), "uint8 .4, 0.; .* none of them empty"),
        (np.zeros(4, np.uint8), "uint8 .4.; an image is"),
        (np.uint8(3), r"uint8 \[\]; an image is"),
        (np.zeros((1, 1, 4, 4, 3), np.uint8), "uint8 .1, 1, 4, 4, 3.; an image is"),
        (np.zeros((9, 5, 6), np.uint8), r"\[9, 5, 6\]; .*, grey ones \[b, H, W, 1\]"),
        (np.zeros((3, 5, 6), np.uint8), r"\[3, 5, 6\]; .*, so move the channels to"),
        (np.zeros((2, 3, 5, 6), np.float32), r"\[2, 3, 5, 6\]; .* move the channels"),
        ([np.zeros((5, 6, 2), np.uint8)], r"image 0 is an array of uint8 \[5, 6, 2\]"),
    ],
)
def test_mistakes_in_memory(what, message):
    with pytest.raises(InputError, match=message):
        given.items(what)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, r"image 1, float32 \[4, 5, 3\], has values from 0 to 1.5; floats must"),
        (-0.25, "has values from -0.25 to 0"),
        (np.nan, "image 1, .* has NaN; floats must lie"),
        (np.inf, "has values from 0 to inf"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_floats_outside(value, message, channels):
    batch = np.zeros((2, 4, 5, channels), np.float32)
    batch[1, 2, 3, 0] = value
    first, second = given.items(batch)
    first.decode()
    if channels == 1:
        message = message.replace(", 3", "")
    with pytest.raises(InputError, match=message):
        second.decode()


def test_bfloat16_is_read_as_the_floats_it_holds():
    batch = np.full((1, 4, 5, 3), 0.5, ml_dtypes.bfloat16)
    (item,) = given.items(batch)
    np.testing.assert_array_equal(item.decode(), np.full((4, 5, 3), 0.5, np.float32))
    (item,) = given.items(batch * ml_dtypes.bfloat16(3))
    with pytest.raises(InputError, match="has values from 1.5 to 1.5; floats must lie"):
        item.decode()


def test_a_pillow_image_that_cannot_be_used():
    (item,) = given.items(Image.new("La", (2, 2)))
    with pytest.raises(InputError, match=r"^image cannot be used \(.*La to"):
        item.decode()


# ---- Reading


def test_reading_gives_what_can_be_read_in_order(folder, tmp_path):
    (folder / "b.PNG").write_text("broken")
    trees.image(folder / "strip.png", size=(1, 3000))
    found = list(given.read(given.items(folder), Geometry((4, 5))))
    assert [one.name for one in found] == names(folder)
    broken = [one for one in found if one.error]
    assert [one.name for one in broken] == ["b.PNG"]
    assert broken[0].image is broken[0].size is None
    assert broken[0].error.startswith("b.PNG cannot be read (")
    assert found[-1].size == (1, 3000) and found[-1].image.shape == (4, 5, 3)


def test_a_line_of_pixels_that_cannot_be_resized(tmp_path):
    trees.image(tmp_path / "line.png", size=(1, 60000))
    geometry = Geometry((50_000, 50_000), "resize_crop", 50_000)
    (found,) = given.read(given.items(tmp_path), geometry)
    assert "line.png is 1 x 60000 pixels, which cannot be resized" in found.error


def test_ten_thousand_are_read_in_bounded_memory():
    lock, held, most = threading.Lock(), 0, 0

    def decode(i):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        time.sleep(0.0001 * (i % 3))  # not done in the order in which they begin
        return Image.new("L", (1, 1), i % 256)

    found = (given.Item(str(i), lambda i=i: decode(i), None) for i in range(10_000))
    for i, one in enumerate(given.read(found, Geometry((1, 1)), ahead=40)):
        assert one.name == str(i) and one.image[0, 0, 0] == np.float32(i % 256 / 255)
        with lock:
            held -= 1
    assert i == 9_999 and 1 < most <= 40


def test_reading_that_is_left_ends_its_threads():
    before = threading.active_count()
    reading = given.read(given.items(np.zeros((50, 2, 2, 3), np.uint8)), SMALL)
    next(reading)
    reading.close()
    assert threading.active_count() == before


def test_nothing_slow_is_imported():
    code = (
        "import sys; import jaxad.data; from jaxad.data import given, images;"
        "slow = {'grain', 'jax', 'orbax', 'tensorflow_datasets', 'scipy'};"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
