import errno
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxad import checkpoint
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
    checkpoint.save_tree(tmp_path / "detector", tree())
    back = checkpoint.restore_tree(tmp_path / "detector")
    assert jax.tree.structure(back) == jax.tree.structure(tree())
    for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(tree()), strict=True):
        assert isinstance(got, np.ndarray) and got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_tree_replaces_the_one_before(tmp_path):
    checkpoint.save_tree(tmp_path / "t", {"x": np.zeros(3)})
    checkpoint.save_tree(tmp_path / "t", {"y": np.ones(2)})
    assert list(checkpoint.restore_tree(tmp_path / "t")) == ["y"]
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def full_disk(path, **arrays):
    path.write_bytes(b"PK")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_last_good_tree(tmp_path, monkeypatch):
    checkpoint.save_tree(tmp_path / "t", {"x": np.zeros(3)})
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full_disk)
        for name in ("t", "new"):
            with pytest.raises(InputError, match=rf"{name} cannot .* \(No space left"):
                checkpoint.save_tree(tmp_path / name, {"y": np.ones(2)})
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    assert list(checkpoint.restore_tree(tmp_path / "t")) == ["x"]


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
        checkpoint.save_tree(tmp_path / "t", {"x": np.zeros(3)})
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dies(replace, at))
            patch.setattr(shutil, "rmtree", dies(rmtree, at))
            try:
                checkpoint.save_tree(tmp_path / "t", {"y": np.ones(2)})
            except KeyboardInterrupt:
                deaths += 1
        assert list(checkpoint.restore_tree(tmp_path / "t"))[0] in ("x", "y")
    assert deaths >= 2


def test_a_signal_while_reading_is_no_damage(tmp_path, monkeypatch):
    checkpoint.save_tree(tmp_path / "tree", {"x": np.arange(3)})

    def stopped(*_, **__):
        raise Preempted("told to stop")

    monkeypatch.setattr(np, "load", stopped)
    with pytest.raises(Preempted):
        checkpoint.restore_tree(tmp_path / "tree")


def test_missing_tree(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        checkpoint.restore_tree(tmp_path / "nowhere")


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
    checkpoint.save_tree(tmp_path / "t", tree())
    (path,) = files(tmp_path / "t")
    damage(path, how)
    with pytest.raises(InputError, match="t/arrays.npz is damaged"):
        checkpoint.restore_tree(tmp_path / "t")


def test_no_flipped_byte_gets_through(tmp_path):
    """Wherever a byte is hit: the true arrays, or an error."""
    checkpoint.save_tree(tmp_path / "t", tree())
    (path,) = files(tmp_path / "t")
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            back = checkpoint.restore_tree(tmp_path / "t")
        except InputError:
            refused += 1
        else:
            jax.tree.map(np.testing.assert_array_equal, back, tree())
    assert refused > 0.8 * len(range(0, len(whole), 7))


def test_tree_without_its_file(tmp_path):
    (tmp_path / "t").mkdir()
    with pytest.raises(InputError, match="damaged or incomplete"):
        checkpoint.restore_tree(tmp_path / "t")


def test_digest_tells_values_names_shapes_and_types_apart():
    x = np.arange(4, dtype=np.float32)
    trees = [{"a": x}, {"b": x}, {"a": x.reshape(2, 2)}, {"a": x.view(np.int32)}]
    trees.append({"a": x + np.float32(1e-6)})
    assert len({checkpoint._digest(t).tobytes() for t in trees}) == len(trees)


def state(value):
    params = {"w": jnp.full((64, 64), float(value)), "step": jnp.int32(value)}
    return {"params": params, "opt": optax.adam(1e-3).init(params)}


def test_checkpoints_keep_the_latest_and_their_types(tmp_path):
    like = jax.eval_shape(lambda: state(0.0))
    with checkpoint.Checkpoints(tmp_path / "stage", keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (2, 4, 6):
            checkpoints.save(step, state(step))
    assert {"4", "6"} == {p.name for p in (tmp_path / "stage").iterdir() if p.is_dir()}
    with checkpoint.Checkpoints(tmp_path / "stage") as checkpoints:
        assert checkpoints.latest_step() == 6
        back = checkpoints.restore(6, like)
    assert jax.tree.structure(back) == jax.tree.structure(state(6))
    jax.tree.map(np.testing.assert_array_equal, back, state(6))


def test_save_copies_before_the_buffers_are_donated(tmp_path):
    spoil = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    like = jax.eval_shape(lambda: state(3.0))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        live = jax.jit(lambda: state(3.0))()
        checkpoints.save(1, live)
        jax.block_until_ready(spoil(live))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        jax.tree.map(
            np.testing.assert_array_equal, checkpoints.restore(1, like), state(3.0)
        )


# Orbax's reader leaves a coroutine behind when a file is damaged.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_checkpoint_names_its_folder(tmp_path):
    like = jax.eval_shape(lambda: state(3.0))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state(5.0))
    largest = max(files(tmp_path / "5"), key=lambda p: p.stat().st_size)
    damage(largest, "truncated")
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(InputError, match=r"5 is damaged, or of another config"):
            checkpoints.restore(5, like)


REFUSED = """
    import resource, sys
    import numpy as np
    from jaxad.checkpoint import Checkpoints
    from jaxad.errors import InputError

    noise = np.random.default_rng(0).random((1000, 1000), np.float32)
    with Checkpoints(sys.argv[1]) as checkpoints:
        checkpoints.save(1, {"w": noise[:100]})
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))
    try:
        with Checkpoints(sys.argv[1]) as checkpoints:
            checkpoints.save(2, {"w": noise})
            checkpoints.save(3, {"w": noise})  # waits for the one before
    except InputError as error:
        print(error)
"""


def test_a_checkpoint_that_the_system_refuses_to_write(tmp_path):
    """As on a full disk: a sentence, and the one before it is whole.

    In a process of its own, since orbax leaves threads and coroutines behind.
    """
    code = textwrap.dedent(REFUSED)
    command = [sys.executable, "-c", code, str(tmp_path / "stage")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120)
    assert re.search(r"stage cannot be written \(File too large\); make", done.stdout)
    with checkpoint.Checkpoints(tmp_path / "stage") as checkpoints:
        assert checkpoints.latest_step() == 1
        back = checkpoints.restore(1, {"w": jax.ShapeDtypeStruct((100, 1000), "f4")})
    noise = np.random.default_rng(0).random((1000, 1000), np.float32)
    np.testing.assert_array_equal(back["w"], noise[:100])


def test_checkpoint_of_another_shape(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.ones((4, 3))})
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for like in ({"w": jnp.ones((4, 5))}, {"v": jnp.ones((4, 3))}):
            with pytest.raises(InputError, match="another config"):
                checkpoints.restore(1, jax.eval_shape(lambda like=like: like))
