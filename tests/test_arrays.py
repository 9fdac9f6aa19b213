import errno
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import arrays
from jaxad.errors import InputError, Preempted


def tree():
    return {
        "memory_bank": jnp.arange(600.0).reshape(100, 6),
        "params": {"f": {"bias": np.zeros(3, np.float16)}},
        "sha": np.arange(32, dtype=np.uint8),
        "count": np.int32(7),
    }


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_tree_comes_back_as_numpy(tmp_path):
    arrays.save(tmp_path / "detector", tree())
    back = arrays.restore(tmp_path / "detector")
    assert jax.tree.structure(back) == jax.tree.structure(tree())
    for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(tree()), strict=True):
        assert isinstance(got, np.ndarray) and got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_tree_replaces_the_one_before(tmp_path):
    arrays.save(tmp_path / "t", {"x": np.zeros(3)})
    arrays.save(tmp_path / "t", {"y": np.ones(2)})
    assert list(arrays.restore(tmp_path / "t")) == ["y"]
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def full_disk(path, **arrays):
    path.write_bytes(b"PK")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_last_good_tree(tmp_path, monkeypatch):
    arrays.save(tmp_path / "t", {"x": np.zeros(3)})
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full_disk)
        for name in ("t", "new"):
            with pytest.raises(InputError, match=rf"{name} cannot .* \(No space left"):
                arrays.save(tmp_path / name, {"y": np.ones(2)})
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    assert list(arrays.restore(tmp_path / "t")) == ["x"]


@pytest.mark.parametrize("before", [True, False])
def test_a_death_while_saving_leaves_the_old_tree_or_the_new(
    before, tmp_path, monkeypatch
):
    """Killed right before and right after every rename and removal."""
    calls, replace, rmtree = [], os.replace, shutil.rmtree

    def dies(real, at):
        def call(*arguments, **options):
            calls.append(real)
            if len(calls) == at and before:
                raise KeyboardInterrupt
            real(*arguments, **options)
            if len(calls) == at:
                raise KeyboardInterrupt

        return call

    deaths = 0
    for at in range(1, 6):
        arrays.save(tmp_path / "t", {"x": np.zeros(3)})
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dies(replace, at))
            patch.setattr(shutil, "rmtree", dies(rmtree, at))
            try:
                arrays.save(tmp_path / "t", {"y": np.ones(2)})
            except KeyboardInterrupt:
                deaths += 1
        assert list(arrays.restore(tmp_path / "t"))[0] in ("x", "y")
    assert deaths >= 2


def test_a_signal_while_reading_is_no_damage(tmp_path, monkeypatch):
    arrays.save(tmp_path / "tree", {"x": np.arange(3)})

    def stopped(*_, **__):
        raise Preempted("told to stop")

    monkeypatch.setattr(np, "load", stopped)
    with pytest.raises(Preempted):
        arrays.restore(tmp_path / "tree")


def test_missing_tree(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        arrays.restore(tmp_path / "nowhere")


def damage(path: pathlib.Path, how: str):
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "flipped":
        content[len(content) // 2] ^= 0x10
    elif how == "swapped":
        content = content[::-1]
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "flipped", "swapped"])
def test_damaged_array_is_never_returned(tmp_path, how):
    arrays.save(tmp_path / "t", tree())
    (path,) = files(tmp_path / "t")
    damage(path, how)
    with pytest.raises(InputError, match="t/arrays.npz is damaged"):
        arrays.restore(tmp_path / "t")


def test_no_flipped_byte_gets_through(tmp_path):
    """Wherever a byte is hit: the true arrays, or an error."""
    arrays.save(tmp_path / "t", tree())
    (path,) = files(tmp_path / "t")
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            back = arrays.restore(tmp_path / "t")
        except InputError:
            refused += 1
        else:
            jax.tree.map(np.testing.assert_array_equal, back, tree())
    assert refused > 0.8 * len(range(0, len(whole), 7))


def test_tree_without_its_file(tmp_path):
    (tmp_path / "t").mkdir()
    with pytest.raises(InputError, match="damaged or incomplete"):
        arrays.restore(tmp_path / "t")


def test_digest_tells_values_names_shapes_and_types_apart():
    x = np.arange(4, dtype=np.float32)
    trees = [{"a": x}, {"b": x}, {"a": x.reshape(2, 2)}, {"a": x.view(np.int32)}]
    trees.append({"a": x + np.float32(1e-6)})
    assert len({arrays._digest(t).tobytes() for t in trees}) == len(trees)
