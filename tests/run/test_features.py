import errno
import json
import os
import shutil
import threading

import jax
import numpy as np
import pytest

from jaxad.devices import sharding
from jaxad.devices.rows import Sharded
from jaxad.errors import InputError, Preempted
from jaxad.run import cache, features, keys
from jaxad.run.passes import Passes


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


def test_extract_keeps_the_order_and_drops_the_padding():
    out = features.extract(halves, Pixels(), 4, label="")
    assert out.shape == (11, 2, 2, 3) and out.dtype == np.float32
    np.testing.assert_array_equal(out, Pixels().images[:, ::2, ::2] / 2)


@pytest.mark.parametrize("devices", [1, 8])
def test_the_image_with_features_that_are_not_finite_is_named(devices):
    split = Pixels()
    split.images[7, 0, 0, 1] = np.nan
    with pytest.raises(InputError, match="7.png has features that are not finite"):
        in_place(devices, 8, split=split)
    with pytest.raises(InputError, match="7.png has features that are not finite"):
        features.extract(halves, split, 8, label="")


def test_turns():
    """Eleven images on two devices: 0 to 5, and 6 to 10."""
    found = features._turns(11, batch_size=8, devices=2)
    assert found.tolist() == [[0, 1, 2, 3, 6, 7, 8, 9], [4, 5, 11, 11, 10, 11, 11, 11]]
    alone = features._turns(3, batch_size=2, devices=1)
    assert alone.tolist() == [[0, 1], [2, 3]]  # 3 is none


def in_place(devices, batch_size, split=None, **options):
    mesh = sharding.make_mesh(jax.devices()[:devices]) if devices > 1 else None

    def describe(images):
        return halves(sharding.spread(images, mesh) if mesh else images)

    return features.extract_in_place(
        describe, split or Pixels(), batch_size, mesh=mesh, label="", **options
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
    monkeypatch.setattr(Sharded, "take", None)
    in_place(8, 8)
    assert seen == [8, 8]  # whether each image is finite


def test_a_pass_goes_on_with_another_number_of_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_PART_BYTES", 3 * 4 * 12)  # three images

    def stop():
        raise Preempted("told to stop")

    with pytest.raises(Preempted), Passes(tmp_path, every=1e9) as passes:
        keep = passes.start("features", "key")
        monkeypatch.setattr(keep, "_point", stop)
        in_place(2, 4, keep=keep)  # images 0, 1, 6 and 7 in the first turn
    parts = sorted(path.name for path in (tmp_path / "features").iterdir())
    assert parts == ["000000000", "000000003"]
    described = []

    def describe(images):
        described.append(len(images))
        return halves(images)

    with Passes(tmp_path, every=1e9) as passes:
        got = features.extract_in_place(
            describe,
            Pixels(),
            2,
            mesh=None,
            label="",
            keep=passes.start("features", "key"),
        )
    assert described == [2] * 4  # 2 3, 4 5, 8 9 and 10
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
    first = cache.cached(tmp_path, {"size": 1}, compute(ARRAY))
    np.testing.assert_array_equal(first, ARRAY)
    np.testing.assert_array_equal(cache.cached(tmp_path, {"size": 1}, never), ARRAY)


def test_cache_tells_keys_apart(tmp_path):
    cache.cached(tmp_path, {"size": 1}, compute(ARRAY))
    other = cache.cached(tmp_path, {"size": 2}, compute(ARRAY + 1))
    np.testing.assert_array_equal(other, ARRAY + 1)


def test_cache_leaves_nothing_of_a_failed_computation(tmp_path):
    def fail(empty):
        empty((2, 2, 2, 3))[:] = 7
        raise InputError("no")

    with pytest.raises(InputError):
        cache.cached(tmp_path, {"size": 1}, fail)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_leaves_is_replaced(tmp_path):
    (tmp_path / f".{keys.digest({'size': 1})}.tmp").mkdir()
    (tmp_path / f".{keys.digest({'size': 1})}.lock").touch()
    found = cache.cached(tmp_path, {"size": 1}, compute(ARRAY))
    np.testing.assert_array_equal(found, ARRAY)
    assert len(list(tmp_path.iterdir())) == 1


def test_who_waits_for_another_run_can_be_stopped(tmp_path):
    def stop():
        raise Preempted("told to stop")

    def meanwhile(empty):
        with pytest.raises(Preempted):
            cache.cached(tmp_path, {"size": 1}, never, stop)
        return compute(ARRAY)(empty)

    found = cache.cached(tmp_path, {"size": 1}, meanwhile)
    np.testing.assert_array_equal(found, ARRAY)


def test_two_runs_compute_an_entry_once(tmp_path):
    began, go_on, found = threading.Event(), threading.Event(), []

    def slowly(empty):
        began.set()
        assert go_on.wait(30)
        return compute(ARRAY)(empty)

    def run(how):
        found.append(cache.cached(tmp_path, {"size": 1}, how))

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
    cache.cached(tmp_path, {"size": 1}, compute(ARRAY))
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
    again = cache.cached(tmp_path, {"size": 1}, compute(ARRAY))
    np.testing.assert_array_equal(again, ARRAY)
    assert "damaged" in caplog.text


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EACCES])
@pytest.mark.parametrize("checked", [False, True])
def test_an_entry_that_cannot_be_read_is_no_damaged_one(
    tmp_path, monkeypatch, error, checked
):
    cache.cached(tmp_path, {"size": 1}, compute(ARRAY))
    if checked:
        cache.cached(tmp_path, {"size": 1}, never)
    else:
        cache._checked.clear()

    def refuse(*_, **__):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(np, "load", refuse)
    sentence = f"cannot be read .{os.strerror(error)}.; .*another config.feature_cache"
    with pytest.raises(InputError, match=sentence):
        cache.cached(tmp_path, {"size": 1}, never)
    monkeypatch.undo()
    found = cache.cached(tmp_path, {"size": 1}, never)
    np.testing.assert_array_equal(found, ARRAY)


def test_a_damaged_entry_that_cannot_be_removed_is_told(tmp_path, monkeypatch):
    cache.cached(tmp_path, {"size": 1}, compute(ARRAY))
    (entry,) = tmp_path.iterdir()
    (entry / "key.json").write_text("[]")

    def refuse(path, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(InputError, match="cannot be written .Permission denied"):
        cache.cached(tmp_path, {"size": 1}, never)


def test_who_finds_damage_leaves_what_another_run_makes_anew_meanwhile(
    tmp_path, monkeypatch
):
    """The other has mended the entry while this one still sums the damaged array."""
    cache.cached(tmp_path, {"size": 1}, compute(ARRAY))
    (entry,) = tmp_path.iterdir()
    file = entry / "features.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\7")
    sha256, made = cache._sha256, []

    def other_run(array):
        monkeypatch.setattr(cache, "_sha256", sha256)
        found = sha256(array)
        made.append(cache.cached(tmp_path, {"size": 1}, compute(ARRAY)))
        made.append(entry.stat().st_ino)
        return found

    monkeypatch.setattr(cache, "_sha256", other_run)
    again = cache.cached(tmp_path, {"size": 1}, never)
    np.testing.assert_array_equal(again, ARRAY)
    assert len(made) == 2 and entry.stat().st_ino == made[1]
