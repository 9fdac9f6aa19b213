import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.models import layers, winograd


def general(x, kernel, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_by_hand():
    x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[0, 1] = 10.0  # the row above
    kernel[1, 2] = 2.0  # the column to the right
    got = winograd.convolve(x, kernel, ((1, 1), (1, 1)))
    np.testing.assert_array_equal(
        got[0, :, :, 0], [[2, 4, 0], [8, 20, 20], [44, 56, 50]]
    )


@pytest.mark.parametrize(
    "height, width, padding",
    [
        (6, 8, ((1, 1), (1, 1))),
        (7, 5, ((1, 1), (1, 1))),
        (5, 8, ((0, 0), (0, 0))),
        (3, 4, ((0, 1), (2, 0))),
        (1, 1, ((1, 1), (1, 1))),
    ],
)
def test_equals_the_convolution(height, width, padding):
    random = np.random.RandomState(height)
    x = random.randn(2, height, width, 5).astype(np.float32)
    kernel = random.randn(3, 3, 5, 7).astype(np.float32)
    got = winograd.convolve(x, kernel, padding)
    want = general(x, kernel, padding)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_an_image_is_the_same_in_a_block_and_alone(monkeypatch):
    random = np.random.RandomState(0)
    x = random.randn(6, 4, 4, 8).astype(np.float32)
    kernel = random.randn(3, 3, 8, 8).astype(np.float32)
    padding = ((1, 1), (1, 1))
    image_bytes = 16 * 4 * 8 * 4
    together = winograd.convolve(x, kernel, padding)
    for images in (0, 4):  # blocks of one, and of three
        monkeypatch.setattr(winograd, "_BLOCK_BYTES", images * image_bytes)
        blocks = winograd.convolve(x, kernel, padding)
        np.testing.assert_allclose(blocks, together, atol=1e-6)


def test_only_frozen_kernels_take_this_form():
    x, kernel = jnp.zeros((1, 8, 8, 64)), jnp.zeros((3, 3, 64, 64))

    def flops(**options):
        convolve = jax.jit(lambda x, kernel: layers.conv(x, kernel, **options))
        return convolve.lower(x, kernel).compile().cost_analysis()["flops"]

    products = 2 * 9 * 64 * 64 * 8 * 8
    assert flops(padding=1, frozen=True) < 0.6 * products < flops(padding=1)
    strided = dict(padding=1, strides=2)
    assert flops(**strided, frozen=True) == flops(**strided)


def test_bfloat16_rounds_factors_and_result_alone():
    random = np.random.RandomState(0)
    x = jnp.asarray(random.randn(2, 8, 8, 64), jnp.bfloat16)
    kernel = jnp.asarray(random.randn(3, 3, 64, 16) / 24, jnp.bfloat16)
    got = winograd.convolve(x, kernel, ((1, 1), (1, 1)))
    assert got.dtype == jnp.bfloat16
    want = general(x.astype(jnp.float32), kernel.astype(jnp.float32), ((1, 1), (1, 1)))
    error = np.asarray(got, np.float32) - want
    # Rounding to 8 bits errs by 0.4 * 2^-8 in the mean square, once for the result and
    # for both factors, whose products are 1.5 times as large as the definition's.
    expected = 2**-8 * 0.4 * np.sqrt(1 + 2 * 1.5**2)
    assert np.sqrt(np.mean(error**2)) < 1.3 * expected * np.std(want)


def test_matmul_in_bfloat16():
    x = jnp.full((2, 1001), 1, jnp.bfloat16)  # sums of bfloat16 would stop at 256
    kernel = jnp.ones((1001, 3), jnp.bfloat16)
    got = jax.jit(layers.matmul)(x, kernel)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.astype(np.float32), np.full((2, 3), 1000.0))
    slope = jax.grad(lambda x: layers.matmul(x, kernel).sum().astype(np.float32))(x)
    assert slope.dtype == jnp.bfloat16
    np.testing.assert_array_equal(slope.astype(np.float32), np.full((2, 1001), 3.0))
