import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxad.models import layers, winograd

pytestmark = pytest.mark.isa


# Called as they are, each operation would be a program of its own.
convolve = jax.jit(winograd.convolve, static_argnums=2)


@functools.partial(jax.jit, static_argnums=2)
def general(x, kernel, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_by_hand():
    x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[0, 1] = 10.0  # the row above
    kernel[1, 2] = 2.0  # the column to the right
    got = convolve(x, kernel, ((1, 1), (1, 1)))
    np.testing.assert_array_equal(
        got[0, :, :, 0], [[2, 4, 0], [8, 20, 20], [44, 56, 50]]
    )


# Absolute values of what transforms tiles, kernels and back (eq. 9 to 13).
TILE = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]])
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0, 1]])
BACK = np.array([[1, 1, 1, 0], [0, 1, 1, 1]])


def exact(x, kernel, padding):
    """The definition in float64, and the largest error of the fast form in float32.

    Of n additions and products one after the other, whatever their order, the error is
    at most n u / (1 - n u) of the absolute values' sum, u = 2^-24 (Higham, Accuracy and
    Stability of Numerical Algorithms, section 3.1). A tile's transform adds once along
    either axis, a kernel's and the one back add twice.
    """
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = x.shape[1] - 2, x.shape[2] - 2
    even = np.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view
    seen = windows(x, (3, 3), (1, 2))
    want = np.einsum("bhwcpq,pqcd->bhwd", seen, kernel)

    tiles = np.abs(windows(even, (4, 4), (1, 2))[:, ::2, ::2])
    tiles = np.einsum("ip,jq,bhwcpq->bhwcij", TILE, TILE, tiles)
    kernels = np.einsum("ip,jq,pqcd->ijcd", KERNEL, KERNEL, np.abs(kernel))
    sums = np.einsum("bhwcij,ijcd->bhwijd", tiles, kernels)
    sums = np.einsum("pi,qj,bhwijd->bhpwqd", BACK, BACK, sums)
    b, rows, _, columns, _, d = sums.shape
    sums = sums.reshape(b, 2 * rows, 2 * columns, d)[:, :height, :width]
    n = (x.shape[3] + 2 * 1 + 2 * 2 + 2 * 2) * 2.0**-24
    return want, n / (1 - n) * sums


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
    got = convolve(x, kernel, padding)
    want, error = exact(x, kernel, padding)
    like = jax.eval_shape(lambda: general(x, kernel, padding))
    assert got.shape == like.shape == want.shape
    assert (np.abs(got - want) <= error).all()


def test_an_image_has_the_same_digits_in_a_block_and_alone(monkeypatch):
    random = np.random.RandomState(0)
    x = random.randn(6, 4, 4, 8).astype(np.float32)
    kernel = random.randn(3, 3, 8, 8).astype(np.float32)
    padding = ((1, 1), (1, 1))
    want, error = exact(x, kernel, padding)
    image_bytes = 16 * 4 * 8 * 4
    for images in (0, 4, 6):  # blocks of one, of three, and all together
        monkeypatch.setattr(winograd, "_BLOCK_BYTES", images * image_bytes)
        blocked = jax.jit(lambda x, kernel: winograd.convolve(x, kernel, padding))
        got = blocked(x, kernel)
        assert (np.abs(got - want) <= error).all()
    for i in range(6):
        alone = convolve(x[i : i + 1], kernel, padding)
        assert (np.abs(alone - want[i : i + 1]) <= error[i : i + 1]).all()


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
    got = convolve(x, kernel, ((1, 1), (1, 1)))
    assert got.dtype == jnp.bfloat16
    want = general(x.astype(jnp.float32), kernel.astype(jnp.float32), ((1, 1), (1, 1)))
    error = np.asarray(got, np.float32) - want
    # Rounding to 8 bits errs by 0.4 * 2^-8 in the mean square, once for the result and
    # for both factors, whose products are 1.5 times as large as the definition's.
    expected = 2**-8 * 0.4 * np.sqrt(1 + 2 * 1.5**2)
    assert np.sqrt(np.mean(error**2)) < 1.3 * expected * np.std(want)


def test_a_program_for_any_number_of_images():
    random = np.random.RandomState(0)
    x = random.randn(3, 5, 6, 4).astype(np.float32)
    kernel = random.randn(3, 3, 4, 2).astype(np.float32)
    padding = ((1, 1), (0, 1))
    convolve = jax.jit(lambda x: winograd.convolve(x, kernel, padding))
    (b,) = export.symbolic_shape("b")
    program = export.export(convolve)(jax.ShapeDtypeStruct((b, 5, 6, 4), np.float32))
    want, error = exact(x, kernel, padding)
    assert (np.abs(program.call(x) - want) <= error).all()


def test_matmul_in_bfloat16():
    x = jnp.full((2, 1001), 1, jnp.bfloat16)  # sums of bfloat16 would stop at 256
    kernel = jnp.ones((1001, 3), jnp.bfloat16)
    got = jax.jit(layers.matmul)(x, kernel)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.astype(np.float32), np.full((2, 3), 1000.0))
    slope = jax.grad(lambda x: layers.matmul(x, kernel).sum().astype(np.float32))(x)
    assert slope.dtype == jnp.bfloat16
    np.testing.assert_array_equal(slope.astype(np.float32), np.full((2, 1001), 3.0))
