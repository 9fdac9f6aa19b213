import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import patches
from jaxad.errors import InputError

pytestmark = pytest.mark.isa


def naive_mean(x, s):
    """Neighbourhood mean with zeros outside, position by position."""
    b, h, w, c = x.shape
    r = s // 2
    out = np.zeros_like(x)
    for i in range(h):
        for j in range(w):
            for di in range(-r, r + 1):
                for dj in range(-r, r + 1):
                    if 0 <= i + di < h and 0 <= j + dj < w:
                        out[:, i, j] += x[:, i + di, j + dj] / s**2
    return out


def naive_adaptive(values, size):
    """PyTorch's adaptive_avg_pool1d of one vector."""
    n = len(values)
    return np.array(
        [
            np.mean(values[i * n // size : int(np.ceil((i + 1) * n / size))])
            for i in range(size)
        ]
    )


def test_concat_one_level_by_hand():
    level = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)  # [[1, 2], [3, 4]]
    # Every 3x3 neighbourhood of a 2x2 map holds all four values and five zeros.
    np.testing.assert_allclose(
        patches.concat([level])[0, ..., 0], np.full((2, 2), 10 / 9)
    )


def test_concat_upsamples_deeper_levels_between_pixel_centres():
    first = jnp.zeros((1, 4, 4, 2))
    deep = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1) * jnp.ones((1, 2, 1, 1))
    out = patches.concat([first, deep], neighbourhood=1)
    assert out.shape == (1, 4, 4, 3)
    # Centres of the four pixels lie at -0.25, 0.25, 0.75, 1.25 of the two samples.
    np.testing.assert_allclose(out[0, 0, :, 2], [0.0, 1.0, 3.0, 4.0])


@pytest.mark.parametrize("side", [1, 3, 5])
def test_concat_against_naive_mean(side):
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    got = patches.concat([jnp.asarray(x)], neighbourhood=side)
    np.testing.assert_allclose(got, naive_mean(x, side), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", ["concat", "pooled"])
def test_bfloat16_levels_are_summed_in_float32(variant):
    """Sums of bfloat16 stop at 256: to add 1 to it changes nothing."""
    level = np.ones((1, 9, 9, 4), np.float32)
    level[:, 0, 0] = 256
    options = dict(level_dim=4, target_dim=4) if variant == "pooled" else {}

    def describe(dtype):
        levels = [jnp.asarray(level, dtype), jnp.asarray(level[:, :3, :3], dtype)]
        return getattr(patches, variant)(levels, neighbourhood=3, **options)

    got = describe(jnp.bfloat16)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, describe(jnp.float32))


# Windows that are summed slice by slice, or are too long or too many for that.
@pytest.mark.parametrize(
    ("level_dim", "target_dim"), [(7, 9), (12, 8), (18, 17), (1, 1)]
)
def test_pooled_against_naive_windows(level_dim, target_dim):
    """Unfold, pool each level, resize, pool all, in the order of the paper's code."""
    rng = np.random.default_rng(1)
    levels = [
        rng.normal(size=(1, 4, 4, 5)).astype(np.float32),
        rng.normal(size=(1, 2, 2, 8)).astype(np.float32),
    ]

    def unfold(x):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        _, h, w, c = x.shape
        out = np.zeros((1, h, w, c * 9), np.float32)
        for i in range(h):
            for j in range(w):
                block = padded[0, i : i + 3, j : j + 3]  # [3, 3, c]
                out[0, i, j] = block.transpose(2, 0, 1).reshape(-1)  # channel-major
        return out

    def upsample(x):  # 2x2 to 4x4, weights by hand
        weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
        return np.einsum("ih,jw,bhwc->bijc", weights, weights, x)

    blocks = [unfold(levels[0]), upsample(unfold(levels[1]))]
    expected = np.zeros((4, 4, target_dim))
    for i in range(4):
        for j in range(4):
            both = [naive_adaptive(block[0, i, j], level_dim) for block in blocks]
            expected[i, j] = naive_adaptive(np.concatenate(both), target_dim)
    got = patches.pooled(
        [jnp.asarray(x) for x in levels], level_dim=level_dim, target_dim=target_dim
    )
    np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("widths", [(512, 1024), (128, 256), (384, 768)])
def test_pooled_networks_of_the_papers_need_no_gather(widths):
    """TPUs are slow at it, and have it pad the neighbours to whole tiles."""
    levels = [
        jax.ShapeDtypeStruct((1, 4 // (i + 1), 4 // (i + 1), c), np.float32)
        for i, c in enumerate(widths)
    ]
    assert "gather" not in jax.jit(patches.pooled).lower(levels).as_text()


def test_pooled_narrow_level_repeats_values():
    """A level with fewer values than level_dim: windows overlap, as in PyTorch."""
    level = jnp.array([1.0, 3.0]).reshape(1, 1, 1, 2)
    got = patches.pooled([level], neighbourhood=1, level_dim=3, target_dim=3)
    np.testing.assert_allclose(got[0, 0, 0], [1.0, 2.0, 3.0])


def test_pooled_refuses_a_target_wider_than_its_levels():
    with pytest.raises(InputError, match="target_dim=9"):
        patches.pooled([jnp.zeros((1, 2, 2, 4))], level_dim=8, target_dim=9)
