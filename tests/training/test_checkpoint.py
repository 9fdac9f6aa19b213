import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxad.errors import InputError
from jaxad.training import checkpoint


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
    written = [p for p in (tmp_path / "5").rglob("*") if p.is_file()]
    largest = max(written, key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(InputError, match=r"5 is damaged, or of another config"):
            checkpoints.restore(5, like)


REFUSED = """
    import resource, sys
    import numpy as np
    from jaxad.training.checkpoint import Checkpoints
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
