"""Decoded images that runs share."""

import dataclasses
import logging
import os
import shutil
import signal

import numpy as np
import pytest
import runs
import trees
from PIL import Image

from jaxad import config as config_lib
from jaxad import data
from jaxad.devices import locks, processes
from jaxad.errors import InputError, Preempted
from jaxad.run import cache, decoded, dry_run, experiment

SIZES = {"resize": 0, "resize_crop": 24, "pad": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One picture of every kind that there is a rule for, and a mask."""
    root = tmp_path_factory.mktemp("decoded") / "cap"
    random = np.random.default_rng(0)
    colour = random.integers(0, 256, (40, 33, 4)).astype(np.uint8)
    deep = random.integers(0, 2**16, (40, 33)).astype(np.uint16)
    for name, pixels in {
        "colour": colour[..., :3],
        "alpha": colour,
        "grey": colour[..., 0],
        "deep": deep,
    }.items():
        trees.save(root / f"train/good/{name}.png", Image.fromarray(pixels))
    trees.save(root / "train/good/photo.jpg", Image.fromarray(colour[..., :3]))
    for name in ("plain", "masked"):
        trees.save(root / f"test/{name}/0.png", Image.fromarray(colour[..., :3]))
    mask = np.zeros((40, 33), np.uint8)
    mask[10:30, 5:20] = 255
    trees.save(root / "ground_truth/masked/0_mask.png", Image.fromarray(mask))
    return root


def load(folder, name="train", policy="resize"):
    config = config_lib.base().dataset
    config.update(name="folder", path=str(folder), category="all", resize=policy)
    config.update(image_size=(20, 24), resize_to=SIZES[policy])
    (category,) = data.categories(config)
    return data.load(config, category, name)


def unread(split):
    """The split, of which no image can be read any more."""

    def never(i):
        raise AssertionError(f"{split.filenames[i]} was read")

    return dataclasses.replace(split, read=never)


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("policy", SIZES)
def test_an_image_is_the_same_bits(folder, tmp_path, policy):
    for name in ("train", "test"):
        split = load(folder, name, policy)
        kept = decoded.kept(split, str(tmp_path), name)
        for i, file in enumerate(split.filenames):
            assert (kept.kept(i) is None) == ("deep" in file)
            assert_same(kept[i], split[i])
        backwards = np.arange(len(split))[::-1]
        for one in (kept.take(backwards), data.joined([split, kept]).take(backwards)):
            assert_same(one[0] | {"index": 0}, kept[len(split) - 1] | {"index": 0})


def test_nothing_is_decoded_or_even_read_again(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = decoded.kept(load(folder), str(tmp_path), "cap")
    again = decoded.kept(unread(load(folder)), str(tmp_path), "cap")
    told = f"cap: 4 of 5 images come decoded from {tmp_path}"
    assert caplog.messages == [told, told]
    for i in range(4):
        if again.kept(i):
            assert_same(again[i], first[i])


def test_a_stopped_run_goes_on_with_the_next_part(folder, tmp_path, monkeypatch):
    """Of five images, two an entry, the signal comes in the second entry."""
    monkeypatch.setattr(decoded, "_PART", 2)
    split, read = load(folder), []

    def reading(i):
        read.append(i)
        if i == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return split.read(i)

    watched = dataclasses.replace(split, read=reading)
    with pytest.raises(Preempted, match=f"what is decoded is kept in {tmp_path}"):
        decoded.kept(watched, str(tmp_path), "cap")
    assert sorted(read) == [0, 1, 2, 3] and len(list(tmp_path.iterdir())) == 2
    kept = decoded.kept(watched, str(tmp_path), "cap")
    assert sorted(read) == [0, 1, 2, 3, 4] and len(list(tmp_path.iterdir())) == 3
    for i in range(5):
        assert_same(kept[i], split[i])


def test_a_large_split_has_larger_entries_and_not_more(folder, tmp_path, monkeypatch):
    """Each is an open file: of five images, one an entry at least, there are three."""
    monkeypatch.setattr(decoded, "_PART", 1)
    monkeypatch.setattr(decoded, "_OPEN", 4)
    split = load(folder)
    kept = decoded.kept(split, str(tmp_path), "cap")
    assert len(list(tmp_path.iterdir())) == 3
    for i in range(5):
        assert_same(kept[i], split[i])


def test_who_waits_for_another_run_that_decodes_can_be_stopped(folder, tmp_path):
    decoded.kept(load(folder), str(tmp_path), "cap")
    (entry,) = tmp_path.iterdir()
    shutil.rmtree(entry)
    with locks.locked(entry, lambda: None), pytest.raises(Preempted):
        with processes.stoppable():
            signal.raise_signal(signal.SIGTERM)
            decoded.kept(unread(load(folder)), str(tmp_path), "cap")


def test_an_entry_is_checked_once_a_process(folder, tmp_path, monkeypatch):
    split, sums, sha256 = load(folder), [], cache._sha256
    decoded.kept(split, str(tmp_path), "cap")

    def counting(array):
        sums.append(len(array))
        return sha256(array)

    monkeypatch.setattr(cache, "_sha256", counting)
    for _ in range(3):
        decoded.kept(split, str(tmp_path), "cap")
    assert sums == [5]
    (entry,) = tmp_path.iterdir()
    content = (entry / "images.npy").read_bytes()
    (entry / "images.npy").unlink()
    (entry / "images.npy").write_bytes(content[:-9] + b"\7" + content[-8:])
    os.utime(entry / "images.npy", (1, 1))  # another time than a moment ago
    kept = decoded.kept(split, str(tmp_path), "cap")
    assert_same(kept[4], split[4])


@pytest.mark.parametrize("damage", ["flip", "half", "other", "left"])
def test_what_is_not_whole_is_never_taken(folder, tmp_path, damage, caplog):
    split = load(folder)
    decoded.kept(split, str(tmp_path), "cap")
    (entry,) = tmp_path.iterdir()
    content = (entry / "images.npy").read_bytes()
    if damage == "flip":
        (entry / "images.npy").write_bytes(content[:-9] + b"\7" + content[-8:])
    elif damage == "half":
        (entry / "images.npy").write_bytes(content[: len(content) // 2])
    elif damage == "other":  # the pixels of other images
        (entry / "key.json").write_text((entry / "key.json").read_text() + " ")
        split = dataclasses.replace(split, version=f"{split.version} ")
    else:  # of a run that was killed
        entry.rename(tmp_path / f".{entry.name}.tmp")
    again = decoded.kept(split, str(tmp_path), "cap")
    for i in range(len(split)):
        assert_same(again[i], split[i])
    assert ("damaged" in caplog.text) == (damage in ("flip", "half"))


def test_an_image_that_cannot_be_read_is_named_and_nothing_is_left(folder, tmp_path):
    def broken(i):
        return b"", None

    split = dataclasses.replace(load(folder), read=broken)
    with pytest.raises(InputError, match="alpha.png cannot be read"):
        decoded.kept(split, str(tmp_path), "cap")
    assert not list(tmp_path.iterdir())
    file = tmp_path / "file"
    file.touch()
    place = r"file cannot be written \(.*\); .* choose another config.dataset.cache"
    with pytest.raises(InputError, match=place):
        decoded.kept(load(folder), str(file), "cap")


def test_a_run_scores_the_same(tmp_path, one_device):
    images = runs.category(tmp_path / "cap", train=6, test=2)
    fields = {"threshold.calibration": "none"}
    scores = []
    for name, place in (("without", ""), ("first", "kept"), ("second", "kept")):
        made = runs.config(images, **fields)
        made.dataset.cache = str(tmp_path / place) if place else ""
        experiment.run(made, str(tmp_path / name))
        scores.append((tmp_path / name / "cap/scores.csv").read_bytes())
    assert scores[0] == scores[1] == scores[2]
    kept = tmp_path / "kept"
    assert len(list(kept.iterdir())) == 2  # train and test
    # What only counts images, or compares their versions, decodes none.
    shutil.rmtree(kept)
    assert dry_run._images(made) == [6]
    experiment.run(made, str(tmp_path / "second"))  # is finished
    (tmp_path / "second/results.json").unlink()
    experiment.run(made, str(tmp_path / "second"))  # its category is
    assert not kept.exists()
