"""The doctor on data with every fault, and on sound data."""

import pathlib
import shutil

import numpy as np
import pytest
import trees
from PIL import Image

from jaxad import config as config_lib
from jaxad.errors import InputError
from jaxad.run import doctor

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path):
    config = config_lib.base().dataset
    config.name, config.path = "folder", str(tmp_path / "bottle")
    config.image_size = (6, 8)
    trees.mvtec_ad(tmp_path, ["bottle"], train=4)
    return config


@pytest.fixture
def folder(config):
    return pathlib.Path(config.path)


def found(config):
    return {
        (f.severity, f.split, f.kind, f.file)
        for f in doctor.check(config, pathlib.Path(config.path).name)
    }


def test_sound_data_have_no_findings(config):
    assert found(config) == set()
    doctor.require_sound(config, "bottle")


def test_unreadable_images(config, folder):
    good = (folder / "train/good/000.png").read_bytes()
    (folder / "train/good/000.png").write_bytes(b"")
    (folder / "train/good/001.png").write_bytes(good[: len(good) // 2])
    (folder / "test/good/000.png").write_text("<html>not found</html>")
    assert found(config) == {
        ("error", "train", "unreadable image", "train/good/000.png"),
        ("error", "train", "unreadable image", "train/good/001.png"),
        ("error", "test", "unreadable image", "test/good/000.png"),
    }
    details = [f.detail for f in doctor.check(config, "bottle")]
    assert "the file is empty" in details


def test_masks(config, folder):
    truth = folder / "ground_truth/bent"
    for i in range(2, 8):
        trees.image(folder / f"test/bent/{i:03}.png", mark=100 + i)
    (truth / "000_mask.png").unlink()
    trees.mask(truth / "001_mask.png", size=(6, 10))
    trees.mask(truth / "002_mask.png", value=0)
    ramp = np.arange(48, dtype=np.uint8).reshape(6, 8)
    trees.save(truth / "003_mask.png", Image.fromarray(ramp))
    (truth / "004_mask.png").write_bytes(b"")
    trees.mask(truth / "005_mask.png", value=1)  # 0 and 1 are fine too
    trees.mask(truth / "006_mask.png")
    trees.mask(truth / "007_mask.png")
    trees.mask(truth / "999_mask.png")
    assert found(config) == {
        ("error", "test", "anomalous image without mask", "test/bent/000.png"),
        ("error", "test", "mask of another size", "test/bent/001.png"),
        ("warning", "test", "empty mask of an anomalous image", "test/bent/002.png"),
        (
            "warning",
            "test",
            "mask with other values than 0 and 255",
            "test/bent/003.png",
        ),
        (
            "warning",
            "test",
            "mask of nearly all of its image, perhaps inverted",
            "test/bent/003.png",
        ),
        ("warning", "test", "anomalous images without an anomalous pixel", "test"),
        ("error", "test", "unreadable mask", "test/bent/004.png"),
        (
            "warning",
            "test",
            "mask without image",
            "ground_truth/bent/999_mask.png",
        ),
    }
    details = {f.kind: f.detail for f in doctor.check(config, "bottle")}
    assert details["mask of another size"] == "6 x 10, image 6 x 8"
    assert details["mask with other values than 0 and 255"] == (
        "0, 1, 2, 3, ...; anomalous where not 0"
    )
    # One has no mask, and one an empty mask.
    assert details["anomalous images without an anomalous pixel"].startswith("2 of 8 ")


def test_data_without_any_mask_are_fine(config, folder):
    for path in (folder / "ground_truth/bent").iterdir():
        path.unlink()
    assert found(config) == set()


def test_duplicates_are_found_by_content(config, folder):
    trees.image(folder / "train/good/copy.bmp", mark=1)  # of 001.png
    trees.image(folder / "test/good/leak.tiff", mark=2)  # of train's 002.png
    assert found(config) == {
        ("warning", "train", "duplicate image", "train/good/copy.bmp"),
        ("error", "test", "image of train in test", "test/good/leak.tiff"),
    }
    details = {f.kind: f.detail for f in doctor.check(config, "bottle")}
    assert details["image of train in test"] == "same as train/good/002.png"


@pytest.mark.parametrize("where", ["test/good", "train/good"])
def test_the_same_pixels_cannot_be_normal_and_anomalous(config, folder, where):
    trees.image(folder / where / "bent too.png", mark=100)  # of test/bent/000.png
    split = where.partition("/")[0]
    told = {(f.severity, f.split, f.kind) for f in doctor.check(config, "bottle")}
    assert ("error", "test", doctor._TWO_LABELS) in told
    details = {f.detail for f in doctor.check(config, "bottle")}
    assert f"same as {split}/good/bent too.png" in details


def test_what_is_left_out_is_found(config, folder):
    trees.image(folder / "val/000.png", mark=200)
    trees.image(folder / "val/001.png", mark=201)
    (folder / "train/good/x.heic").touch()
    (folder / "test/good/y.png").symlink_to("/nowhere")
    assert found(config) == {
        ("warning", "train", "image outside of train and test", "val/"),
        (
            "warning",
            "train",
            "picture of a format that is not read",
            "train/good/x.heic",
        ),
        ("error", "test", "link that leads nowhere", "test/good/y.png"),
    }
    with pytest.raises(
        InputError, match="y.png: link that leads nowhere; .*jaxad.chec"
    ):
        doctor.require_sound(config, "bottle")


def test_without_a_check_what_is_left_out_is_still_told_of(config, folder, caplog):
    (folder / "train/good/x.heic").touch()
    (folder / "test/good/y.png").symlink_to("/nowhere")
    (folder / "train/good/000.png").write_bytes(b"")
    config.check = False
    doctor.require_sound(config, "bottle")
    assert "link that leads nowhere: test/good/y.png" in caplog.text
    assert "picture of a format that is not read: train/good/x.heic" in caplog.text
    assert "000.png" not in caplog.text


def test_no_test_images_at_all(config, folder):
    shutil.rmtree(folder / "test")
    shutil.rmtree(folder / "ground_truth")
    assert found(config) == {("warning", "test", "no image", "test")}


def test_several_masks_of_one_image(config, folder):
    mask = folder / "ground_truth/bent/000_mask.png"
    inside = folder / "ground_truth/bent/000"
    inside.mkdir()
    mask.rename(inside / "a.png")
    trees.mask(inside / "b.png", 0)
    assert found(config) == set()
    trees.mask(inside / "c.png", size=(5, 8))
    (finding,) = doctor.check(config, "bottle")
    assert (finding.severity, finding.file) == ("error", "test/bent/000.png")
    assert "5 x 8" in finding.detail


def test_a_published_split_may_hold_an_image_twice(tmp_path, monkeypatch):
    root = trees.mvtec_ad(tmp_path / "tree", ["bottle"])
    trees.image(root / "bottle/test/good/leak.png", mark=2)
    config = config_lib.base().dataset
    config.name, config.manual_dir = "mvtec_ad", str(root)
    config.data_dir, config.image_size = str(tmp_path / "prepared"), (6, 8)
    (finding,) = doctor.check(config, "bottle")
    assert (finding.severity, finding.kind) == ("warning", "image of train in test")


def test_labels(config, folder):
    trees.image(folder / "train/dented/0.png", mark=77)
    for path in (folder / "test/bent").glob("*.png"):
        path.unlink()
    for path in (folder / "ground_truth/bent").glob("*.png"):
        path.unlink()
    assert found(config) == {
        ("error", "train", "anomalous image in train", "train/dented/0.png"),
        ("warning", "test", "no anomalous image", "test"),
    }


def test_a_training_split_without_normal_images(config, folder):
    for path in (folder / "train/good").glob("*.png"):
        path.unlink()
    trees.image(folder / "train/dented/0.png", mark=77)
    assert ("error", "train", "no normal image", "train") in found(config)


def test_sizes_and_depths_unlike_the_others(config, folder):
    trees.image(folder / "train/good/wide.png", size=(6, 9))
    trees.image(folder / "test/good/grey.png", 90, mark=1)
    assert found(config) == {
        ("warning", "train", "mixed sizes", "train/good/wide.png"),
        ("warning", "test", "mixed colours or depths", "test/good/grey.png"),
    }


def test_dark_16_bit_images(config, folder):
    values = np.full((6, 8), 4095, np.uint16)
    trees.save(folder / "train/good/camera.tif", Image.fromarray(values))
    kinds = {f.kind: f.detail for f in doctor.check(config, "bottle")}
    assert kinds["dark 16-bit image"] == "brightest value 4095 of 65535"


@pytest.mark.parametrize(
    ("peak", "told"), [(2**10, True), (2**14 - 1, True), (2**14 + 1, False)]
)
def test_14_bits_in_16_are_dark(config, folder, peak, told):
    values = np.full((6, 8), peak, np.uint16)
    trees.save(folder / "train/good/camera.png", Image.fromarray(values))
    kinds = {f.kind for f in doctor.check(config, "bottle")}
    assert ("dark 16-bit image" in kinds) == told


def test_masks_are_looked_at_in_the_size_of_the_run(config):
    config.image_size = (1, 1)  # of which the left half is no more than half
    at = "24 pixels, of which none is left at 1 x 1"
    assert [(f.file, f.kind, f.detail) for f in doctor.check(config, "bottle")] == [
        (
            "test",
            "anomalous images without an anomalous pixel",
            "2 of 2 at 1 x 1; pixel metrics take all of them for normal",
        ),
        ("test/bent/000.png", "mask emptied by resizing", at),
        ("test/bent/001.png", "mask emptied by resizing", at),
    ]


@pytest.mark.parametrize(
    ("size", "resize", "becomes"),
    [
        ((14, 16), "resize", None),  # exactly four times the pixels
        ((14, 17), "resize", "7 x 8"),
        ((14, 17), "pad", "7 x 8"),
        ((14, 170), "pad", "1 x 8"),
        ((14, 170), "resize_crop", None),  # half its sides, and then cut
        ((16, 170), "resize_crop", "7 x 74"),
    ],
)
def test_images_that_shrink_are_told_of(config, folder, caplog, size, resize, becomes):
    config.image_size, config.resize, config.resize_to = (7, 8), resize, 7
    # Most images are of this size; the test images do not count.
    trees.image(folder / "train/good/large.png", size=(600, 600))
    for i in range(5):
        trees.image(folder / f"train/good/more{i}.png", size=size, mark=100 + i)
    caplog.set_level("INFO", "jaxad")
    doctor.check(config, "bottle")
    told = [line.getMessage() for line in caplog.records]
    wanted = f"bottle: {size[0]} x {size[1]} becomes {becomes}; small defects need a "
    wanted += "larger config.dataset.image_size"
    assert told == ([wanted] if becomes else [])


def test_pages_and_frames_that_are_not_looked_at(config, folder):
    first, second = (Image.new("RGB", (8, 6), (v, 0, 0)) for v in (10, 200))
    more = {"save_all": True, "append_images": [second, first]}
    trees.save(folder / "train/good/pages.tif", first, **more)
    trees.save(folder / "ground_truth/bent/000_mask.gif", first, **more)
    (folder / "ground_truth/bent/000_mask.png").unlink()
    kinds = {(f.kind, f.file): f.detail for f in doctor.check(config, "bottle")}
    of = "of which further pages or frames are not looked at"
    assert kinds[f"image {of}", "train/good/pages.tif"] == "3 of them"
    assert kinds[f"mask {of}", "test/bent/000.png"] == "3 of them"


def test_an_image_of_too_many_pixels(config):
    config.max_pixels = 47
    details = {f.detail for f in doctor.check(config, "bottle")}
    assert details == {
        "it has 6 x 8 pixels, more than config.dataset.max_pixels=47; raise that, or "
        "set it to 0 for no limit"
    }
    config.max_pixels = 48
    assert found(config) == set()


def test_a_dark_16_bit_image_with_alpha(config, folder):
    pixels = np.full((6, 8, 2), 4095)
    (folder / "train/good/camera.png").write_bytes(trees.png16(pixels))
    kinds = {f.kind: f.detail for f in doctor.check(config, "bottle")}
    assert kinds["dark 16-bit image"] == "brightest value 4095 of 65535"
    assert not any("8 bits" in kind for kind in kinds)


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_is_told_of_for_each_file(config, folder, channels):
    for i in range(3):
        pixels = np.full((6, 8, channels), 1000 * i)
        (folder / f"train/good/00{i}.png").write_bytes(trees.png16(pixels))
    mask = np.full((6, 8, channels), 0xFFFF)
    (folder / "ground_truth/bent/000_mask.png").write_bytes(trees.png16(mask))
    told = {(f.kind, f.file) for f in doctor.check(config, "bottle")}
    assert {file for kind, file in told if kind.startswith("16-bit colour is")} == {
        f"train/good/00{i}.png" for i in range(3)
    }
    kind = "16-bit colour mask is read with 8 bits a channel"
    assert (kind, "test/bent/000.png") in told


def test_a_run_stops_at_errors_and_says_how_to_see_them(config, folder):
    for i in range(3):
        (folder / f"train/good/{i:03}.png").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        doctor.require_sound(config, "bottle")
    for part in ("bottle: train/good/000.png", "jaxad.check lists", "check=False"):
        assert part in str(caught.value)


def test_a_run_tells_of_warnings_and_goes_on(config, folder, caplog):
    trees.image(folder / "train/good/copy.png", mark=1)
    doctor.require_sound(config, "bottle")
    assert "duplicate image (same as train/good/001.png)" in caplog.text


def test_the_table_cuts_long_lists_short():
    findings = [
        doctor.Finding("error", "train", f"{i}.png", "unreadable image", "truncated")
        for i in range(12)
    ]
    lines = doctor.table(findings).splitlines()
    assert len(lines) == 11
    assert lines[0].split() == [
        *("error", "train", "unreadable", "image", "(truncated):", "0.png"),
    ]
    assert lines[-1].split() == "error unreadable image: 2 more".split()


@pytest.mark.parametrize(("broken", "status"), [(False, 0), (True, 1), (None, 2)])
def test_the_command_has_a_status_for_scripts(config, folder, server, broken, status):
    if broken:
        (folder / "train/good/000.png").write_bytes(b"")
    path = "nowhere" if broken is None else folder
    done = server.call("check", "--config", f"patchcore_folder:path={path}")
    assert done.returncode == status, done.stderr
    if broken is None:
        assert "path='nowhere' does not exist" in done.stderr
        assert "Traceback" not in done.stderr
    elif broken:
        assert "bottle: errors 1, warnings 0" in done.stdout
        assert "train/good/000.png" in done.stdout
    else:
        assert "bottle: errors 0, warnings 0" in done.stdout
