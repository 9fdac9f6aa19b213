import json
import shutil
import threading

import jax
import numpy as np
import pytest

from jaxad import data, features, sharding
from jaxad.errors import InputError, Preempted
from jaxad.passes import Passes
from jaxad.rows import BlockCyclic


class Split:
    """Three grey images; only what `eval_batches` is replaced with reads."""

    filenames = ["a.png", "b.png", "c.png"]

    def __len__(self):
        return 3


def batches(split, batch_size, start=0, *, process=0, processes=1):
    """Batches of two, the last one padded, pixel values 0, 1 and 2."""
    for rows, valid in (((0, 1), (True, True)), ((2, 2), (True, False))):
        yield {
            "index": np.array(rows, np.int32),
            "valid": np.array(valid),
            "image": np.array(rows, np.float32).reshape(2, 1, 1, 1)
            * np.ones((1, 4, 4, 3), np.float32),
        }


@pytest.fixture
def three_images(monkeypatch):
    monkeypatch.setattr(data, "eval_batches", batches)
    return Split()


def test_extract_keeps_the_order_and_drops_the_padding(three_images):
    out = features.extract(lambda x: x[:, :2, :2], three_images, 2, label="")
    assert out.shape == (3, 2, 2, 3) and out.dtype == np.float32
    np.testing.assert_array_equal(out[:, 0, 0, 0], [0, 1, 2])


def test_extract_names_the_image_with_features_that_are_not_finite(three_images):
    def describe(images):
        return np.where(images == 2, np.nan, images)

    with pytest.raises(InputError, match="c.png has features that are not finite"):
        features.extract(describe, three_images, 2, label="")


class Pixels:
    """Eleven random images of 4 x 4 pixels."""

    filenames = [f"{i}.png" for i in range(11)]

    def __init__(self):
        random = np.random.default_rng(0)
        self.images = random.random((11, 4, 4, 3), np.float32)

    def __len__(self):
        return 11

    def __getitem__(self, i):
        return {"index": i, "image": self.images[i], "label": 0}


@jax.jit
def halves(images):
    """[b, 4, 4, 3] -> [b, 2, 2, 3]"""
    return images[:, ::2, ::2] / 2


def in_place(devices, batch_size, **options):
    mesh = sharding.make_mesh(jax.devices()[:devices]) if devices > 1 else None

    def describe(images):
        return halves(sharding.spread(images, mesh) if mesh else images)

    return features.extract_in_place(
        describe, Pixels(), batch_size, mesh=mesh, label="", **options
    )


@pytest.mark.parametrize(
    ("devices", "batch_size"), [(1, 4), (1, 16), (2, 4), (8, 8), (8, 16)]
)
def test_what_stays_on_the_devices_is_what_comes_to_the_host(devices, batch_size):
    want = features.extract(halves, Pixels(), batch_size, label="")
    np.testing.assert_array_equal(want, Pixels().images[:, ::2, ::2] / 2)
    got = in_place(devices, batch_size)
    assert got.shape == (44, 3)
    np.testing.assert_array_equal(got.take(range(44)), want.reshape(44, 3))


def test_what_stays_on_the_devices_never_comes_whole_to_the_host(monkeypatch):
    seen, fetch = [], sharding.fetch

    def counting(x):
        seen.append(x.size)
        return fetch(x)

    monkeypatch.setattr(sharding, "fetch", counting)
    monkeypatch.setattr(BlockCyclic, "take", None)
    in_place(8, 8)
    assert seen == [8, 8]  # whether each image is finite


def test_a_pass_goes_on_with_another_number_of_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_PART", 3 * 4 * 12)  # three images

    def stop():
        raise Preempted("told to stop")

    with pytest.raises(Preempted), Passes(tmp_path, every=1e9) as passes:
        keep = passes.start("features", "key")
        monkeypatch.setattr(keep, "_point", stop)
        in_place(8, 8, keep=keep)
    parts = sorted(path.name for path in (tmp_path / "features").iterdir())
    assert parts == ["000000000", "000000003", "000000006"]
    described = []

    def describe(images):
        described.append(len(images))
        return halves(images)

    with Passes(tmp_path, every=1e9) as passes:
        got = features.extract_in_place(
            describe,
            Pixels(),
            3,
            mesh=None,
            label="",
            keep=passes.start("features", "key"),
        )
    assert described == [3, 3]  # images 6 to 8, of which two were there, and the rest
    want = Pixels().images[:, ::2, ::2].reshape(44, 3) / 2
    np.testing.assert_array_equal(got.take(range(44)), want)


def compute(array):
    def fill(empty):
        out = empty(array.shape)
        out[:] = array
        return out

    return fill


def never(empty):
    raise AssertionError("computed although it is in the cache")


ARRAY = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)


def test_cache_computes_once(tmp_path):
    first = features.cached(tmp_path, {"size": 1}, compute(ARRAY))
    np.testing.assert_array_equal(first, ARRAY)
    np.testing.assert_array_equal(features.cached(tmp_path, {"size": 1}, never), ARRAY)


def test_cache_tells_keys_apart(tmp_path):
    features.cached(tmp_path, {"size": 1}, compute(ARRAY))
    other = features.cached(tmp_path, {"size": 2}, compute(ARRAY + 1))
    np.testing.assert_array_equal(other, ARRAY + 1)


def test_cache_leaves_nothing_of_a_failed_computation(tmp_path):
    def fail(empty):
        empty((2, 2, 2, 3))[:] = 7
        raise InputError("no")

    with pytest.raises(InputError):
        features.cached(tmp_path, {"size": 1}, fail)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_leaves_is_replaced(tmp_path):
    (tmp_path / f".{features.digest({'size': 1})}.tmp").mkdir()
    (tmp_path / f".{features.digest({'size': 1})}.lock").touch()
    found = features.cached(tmp_path, {"size": 1}, compute(ARRAY))
    np.testing.assert_array_equal(found, ARRAY)
    assert len(list(tmp_path.iterdir())) == 1


def test_who_waits_for_another_run_can_be_stopped(tmp_path):
    def stop():
        raise Preempted("told to stop")

    def meanwhile(empty):
        with pytest.raises(Preempted):
            features.cached(tmp_path, {"size": 1}, never, stop)
        return compute(ARRAY)(empty)

    found = features.cached(tmp_path, {"size": 1}, meanwhile)
    np.testing.assert_array_equal(found, ARRAY)


def test_two_runs_compute_an_entry_once(tmp_path):
    began, go_on, found = threading.Event(), threading.Event(), []

    def slowly(empty):
        began.set()
        assert go_on.wait(30)
        return compute(ARRAY)(empty)

    def run(how):
        found.append(features.cached(tmp_path, {"size": 1}, how))

    first = threading.Thread(target=run, args=(slowly,))
    first.start()
    assert began.wait(30)
    second = threading.Thread(target=run, args=(never,))
    second.start()
    second.join(0.2)
    assert not found  # it waits
    go_on.set()
    first.join(30)
    second.join(30)
    assert [array.tolist() for array in found] == [ARRAY.tolist()] * 2
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "damage",
    ["flip", "truncate", "key", "no key", "list", "shape", "type", "empty", "a file"],
)
def test_cache_computes_a_damaged_entry_again(tmp_path, damage, caplog):
    features.cached(tmp_path, {"size": 1}, compute(ARRAY))
    (entry,) = tmp_path.iterdir()
    file = entry / "features.npy"
    content = file.read_bytes()
    if damage == "flip":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncate":
        file.write_bytes(content[:-40])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "shape":
        file.write_bytes(content.replace(b"(2, 2, 2, 3)", b"(2, 2, 3, 2)"))
    elif damage == "type":
        file.write_bytes(content.replace(b"<f4", b"<i4"))
    elif damage == "a file":
        shutil.rmtree(entry)
        entry.write_text("")
    else:
        key = json.loads((entry / "key.json").read_text())
        values = {"key": key | {"key": {"size": 2}}, "no key": {}, "list": []}
        (entry / "key.json").write_text(json.dumps(values[damage]))
    again = features.cached(tmp_path, {"size": 1}, compute(ARRAY))
    np.testing.assert_array_equal(again, ARRAY)
    assert "damaged" in caplog.text
