"""Splits, and batches of them: order, padding, seeds, shares, threads."""

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest
import trees
from PIL import Image

from jaxad import data
from jaxad.data.images import Geometry
from jaxad.errors import InputError


def make(n=7, broken=(), on_read=lambda i: None, masks=()):
    """A split whose image i has the grey value i everywhere."""

    def read(i):
        on_read(i)
        image = trees.encoded(Image.new("L", (4, 3), i))
        mask = trees.encoded(Image.new("L", (4, 3), 255)) if i in masks else None
        return image[:20] if i in broken else image, mask

    return data.Split(
        name="train",
        filenames=[f"{i}.png" for i in range(n)],
        labels=np.array([int(i in masks) for i in range(n)], np.int32),
        defect_types=["good"] * n,
        has_masks=bool(masks),
        geometry=Geometry((3, 4)),
        version="1",
        read=read,
    )


def indices(batches, count):
    return [batch["index"].tolist() for batch in itertools.islice(batches, count)]


def test_an_item():
    item = make(masks=(2,))[2]
    assert {name: item[name] for name in ("index", "filename", "label")} == {
        "index": 2,
        "filename": "2.png",
        "label": 1,
    }
    assert item["image"].dtype == np.float32
    np.testing.assert_array_equal(
        item["image"], np.full((3, 4, 3), np.float32(2 / 255))
    )
    np.testing.assert_array_equal(item["mask"], np.ones((3, 4), np.uint8))
    with pytest.raises(IndexError):
        make(3)[3]


def test_eval_batches_are_in_order_and_the_last_one_is_padded():
    batches = list(data.eval_batches(make(7, masks=(1,)), 3))
    assert [b["index"].tolist() for b in batches] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert batches[2]["valid"].tolist() == [True, False, False]
    assert all(b["valid"].all() for b in batches[:2])
    assert batches[0]["label"].tolist() == [0, 1, 0]
    assert batches[0]["mask"].max((1, 2)).tolist() == [0, 1, 0]
    np.testing.assert_allclose(batches[1]["image"][:, 0, 0, 0] * 255, [3, 4, 5], 1e-6)
    assert {name: (x.shape, x.dtype.name) for name, x in batches[2].items()} == {
        "index": ((3,), "int32"),
        "image": ((3, 3, 4, 3), "float32"),
        "mask": ((3, 3, 4), "uint8"),
        "label": ((3,), "int32"),
        "valid": ((3,), "bool"),
        "size": ((3, 2), "int32"),
    }
    assert batches[2]["size"].tolist() == [[3, 4]] * 3


def test_eval_batches_that_fit_need_no_padding():
    batches = list(data.eval_batches(make(6), 3))
    assert len(batches) == 2
    assert all(batch["valid"].all() for batch in batches)


def test_train_batches_see_every_image_once_an_epoch_but_the_remainder():
    steps = indices(data.train_batches(make(7), 3, seed=0), 4)
    epochs = [sum(steps[:2], []), sum(steps[2:], [])]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_train_batches_are_a_function_of_seed_and_step():
    split = make(7)
    first = indices(data.train_batches(split, 3, seed=5), 8)
    assert first == indices(data.train_batches(split, 3, seed=5), 8)
    assert first != indices(data.train_batches(split, 3, seed=6), 8)
    assert first[5:] == indices(data.train_batches(split, 3, 5, start_step=5), 3)


def test_textures_come_in_the_order_of_the_images_of_no_epoch():
    split, orders = make(20), set()
    for batch in itertools.islice(data.train_batches(split, 20, 3, textures=split), 6):
        orders.add(tuple(batch["index"].tolist()))
        orders.add(tuple(np.round(255 * batch["texture"][:, 0, 0, 0]).tolist()))
    assert len(orders) == 12


def test_training_decodes_what_fits_into_memory_once(monkeypatch):
    def reads(steps):
        rows = []
        batches = data.train_batches(make(6, on_read=rows.append), 3, seed=0)
        values = [
            batch["image"][:, 0, 0, 0] for batch in itertools.islice(batches, steps)
        ]
        return len(rows), np.round(255 * np.array(values))

    few, kept = reads(40)
    assert few <= 2 * 6  # an image asked for again while it is read is read again
    monkeypatch.setattr("jaxad.data.batches._KEEP_BYTES", 6 * 3 * 4 * 13 - 1)
    many, read = reads(40)
    assert many >= 40 * 3
    np.testing.assert_array_equal(kept, read)


def test_batches_of_the_images_that_are_named():
    images = np.array([[6, 0, 0], [2, 3, 4]])
    batches = list(data.batches_of(make(7), images))
    assert indices(batches, 3) == images.tolist()
    assert all(batch["valid"].all() for batch in batches)
    assert not list(data.batches_of(make(7), images[:0]))


@pytest.mark.parametrize("kind", ["eval", "train", "named"])
def test_processes_read_contiguous_shares_of_the_same_batches(kind):
    def read(**share):
        if kind == "named":
            images = np.array([[3, 9, 0, 7], [1, 1, 8, 2]])
            return data.batches_of(make(10), images, **share)
        if kind == "eval":
            return itertools.islice(data.eval_batches(make(10), 4, **share), 3)
        return itertools.islice(data.train_batches(make(10), 4, 0, 1, **share), 3)

    shares = [read(process=process, processes=2) for process in (0, 1)]
    for whole, *parts in zip(read(), *shares, strict=True):
        for name in whole:
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(joined, whole[name])


def test_batches_that_cannot_be():
    with pytest.raises(InputError, match="batch of 8 images is larger than the train"):
        data.train_batches(make(7), 8, seed=0)
    with pytest.raises(InputError, match="batch of 4 images cannot be shared evenly"):
        data.eval_batches(make(7), 4, processes=3)


def test_decoding_runs_ahead_of_the_consumer():
    ahead = threading.Event()
    split = make(20, on_read=lambda i: ahead.set() if i == 7 else None)
    batches = data.eval_batches(split, 4)
    next(batches)
    assert ahead.wait(timeout=60)  # the second batch, without being asked for
    assert [b["index"][0] for b in batches] == [4, 8, 12, 16]


def test_the_order_does_not_depend_on_which_image_is_decoded_first():
    split = make(12, on_read=lambda i: time.sleep(0.02 * (i % 3 == 0)))
    assert (
        indices(data.eval_batches(split, 4), 3) == np.arange(12).reshape(3, 4).tolist()
    )


def test_an_unreadable_image_is_named():
    batches = data.eval_batches(make(7, broken=(4,)), 3)
    next(batches)
    with pytest.raises(InputError, match="4.png cannot be read"):
        next(batches)


def test_a_file_that_has_gone_is_named():
    def gone(i):
        raise FileNotFoundError(2, "No such file or directory")

    with pytest.raises(InputError, match="0.png cannot be read .*No such file"):
        make(on_read=gone)[0]


def test_a_mask_of_another_size_is_named():
    split = make()
    mask = trees.encoded(Image.new("L", (3, 4)))
    other = dataclasses.replace(split, read=lambda i: (split.read(i)[0], mask))
    with pytest.raises(
        InputError, match="1.png is 3 x 4 pixels, but its mask is 4 x 3"
    ):
        other[1]


def test_take_and_normal_choose_rows():
    split = make(6, masks=(0, 3))
    normal = split.normal()
    assert normal.filenames == ["1.png", "2.png", "4.png", "5.png"]
    assert normal.labels.tolist() == [0, 0, 0, 0]
    assert normal[2]["image"][0, 0, 0] == np.float32(4 / 255)
    assert normal.version != split.version
    assert split.take(range(6)) is split
    assert split.take([5, 1]).filenames == ["5.png", "1.png"]
