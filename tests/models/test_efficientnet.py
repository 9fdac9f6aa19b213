import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxad import models
from jaxad.models import layers

pytestmark = pytest.mark.isa

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
# ImageNet's classes of what the pictures show.
TOP_1 = {"chelsea": 285, "coffee": 967}  # Egyptian cat, espresso


@pytest.fixture(scope="module")
def network():
    return models.load("efficientnet_lite0")


def test_real_weights_name_what_the_pictures_show_as_pytorch_does(network):
    module, variables = network
    pictures = [
        np.asarray(Image.open(FIXTURES / f"{name}.jpg"), np.float32) for name in TOP_1
    ]
    images = (np.stack(pictures) - 127) / 128
    logits, _ = jax.jit(module.apply)(variables, images)
    assert logits.shape == (2, 1000)
    assert np.argmax(logits, -1).tolist() == list(TOP_1.values())
    expected = np.load(FIXTURES / "efficientnet_lite0_logits.npy")
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_taps_have_the_stated_shapes_on_an_odd_size(network):
    module, variables = network
    images = jax.ShapeDtypeStruct((2, 97, 130, 3), jnp.float32)
    _, taps = jax.eval_shape(module.apply, variables, images)
    assert {name: taps[name].shape for name in ("stem", "blocks.2", "blocks.4")} == {
        "stem": (2, 49, 65, 32),
        "blocks.2": (2, 13, 17, 40),
        "blocks.4": (2, 7, 9, 112),
    }
    assert taps["layer3"].shape == taps["blocks.4"].shape
    assert set(models.spec("efficientnet_lite0").taps) <= set(taps)


@pytest.mark.parametrize(
    "shape, size, strides",
    (
        ((9, 12), 3, 1),
        ((9, 12), 3, 2),
        ((9, 12), 5, 1),
        ((8, 11), 5, 2),
        ((2, 2), 5, 1),  # most of the kernel sees padding alone
        ((5, 7), 1, 2),  # and three pixels of four nothing
        ((7, 8), 2, 3),
    ),
)
def test_depthwise_forms_agree(shape, size, strides):
    """With the gradients that training needs."""
    random = np.random.RandomState(0)
    x = random.randn(2, *shape, 6).astype(np.float32)
    kernel = random.randn(size, size, 1, 6).astype(np.float32)
    options = dict(strides=strides, padding=((1, 2), (2, 2)))

    def outcome(form):
        def loss(x, kernel):
            found = form(x, kernel, **options)
            return (found**2).sum(), found

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, kernel)

    forms = layers.depthwise_shifted, layers.depthwise_grouped
    (ours, shifted), (theirs, grouped) = map(outcome, forms)
    np.testing.assert_allclose(shifted, grouped, atol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("groups, width", ((2, 80), (6, 24)))
def test_grouped_forms_agree(groups, width):
    random = np.random.RandomState(0)
    x = random.randn(2, 6, 8, width * groups).astype(np.float32)
    kernel = random.randn(3, 3, width, 5 * groups).astype(np.float32)
    options = dict(strides=2, padding=((1, 1), (1, 1)), groups=groups)
    merged, grouped = (
        jax.jit(functools.partial(form, **options))(x, kernel)
        for form in (layers.grouped_merged, layers._convolve)
    )
    np.testing.assert_allclose(merged, grouped, atol=1e-4)


@pytest.mark.parametrize("side, strides", ((1, 1), (2, 1), (4, 2), (3, 2)))
def test_maps_smaller_than_the_kernel_are_one_product(side, strides):
    """With the gradients that training needs."""
    random = np.random.RandomState(0)
    x = random.randn(2, side, side + 1, 5).astype(np.float32)
    kernel = random.randn(3, 3, 5, 7).astype(np.float32)
    options = dict(strides=strides, padding=((1, 1), (1, 1)))

    def outcome(form):
        def loss(x, kernel):
            found = form(x, kernel)
            return (found**2).sum(), found

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, kernel)

    ours = outcome(lambda x, k: layers.conv(x, k, strides=strides, padding=1))
    unrolled = outcome(lambda x, k: layers.unrolled(x, k, **options))
    theirs = outcome(lambda x, k: layers._convolve(x, k, groups=1, **options))
    for one in (ours, unrolled):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
            one,
            theirs,
        )


def test_depthwise_gradients_by_hand():
    x = np.arange(1, 5, dtype=np.float32).reshape(1, 2, 2, 1)
    kernel = np.arange(1, 10, dtype=np.float32).reshape(3, 3, 1, 1)
    options = dict(strides=1, padding=((1, 1), (1, 1)))
    form = functools.partial(layers.depthwise_shifted, **options)
    dy = np.zeros((1, 2, 2, 1), np.float32)
    dy[0, 0, 1] = 10.0  # of the pixel above on the right
    dx, dk = jax.jit(lambda *given: jax.vjp(form, *given[:2])[1](given[2]))(
        x, kernel, dy
    )
    np.testing.assert_array_equal(dx[0, :, :, 0], [[40, 50], [70, 80]])
    np.testing.assert_array_equal(dk[:, :, 0, 0], [[0, 0, 0], [10, 20, 0], [30, 40, 0]])


def test_depthwise_by_hand():
    x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[0, 1] = 10.0  # the row above
    kernel[1, 2] = 1.0  # the column to the right
    got = layers.conv(x, kernel, padding="SAME", groups=1)
    options = dict(strides=1, padding=((1, 1), (1, 1)))
    shifted = functools.partial(layers.depthwise_shifted, **options)
    depthwise = jax.jit(shifted)(x, kernel)
    np.testing.assert_array_equal(got, depthwise)
    np.testing.assert_array_equal(
        got[0, :, :, 0], [[1, 2, 0], [4, 15, 20], [37, 48, 50]]
    )


def test_same_padding_puts_the_odd_pixel_below_and_right():
    x = np.ones((1, 4, 4, 2), np.float32)
    kernel = np.ones((3, 3, 1, 2), np.float32)
    got = layers.conv(x, kernel, strides=2, padding="SAME", groups=2)
    np.testing.assert_array_equal(got[0, :, :, 0], [[9, 6], [6, 4]])


def test_one_by_one_convolution_is_the_general_one():
    random = np.random.RandomState(1)
    x = random.randn(2, 7, 5, 8).astype(np.float32)
    kernel = random.randn(1, 1, 8, 4).astype(np.float32)
    for strides in (1, 2):
        general = jax.lax.conv_general_dilated(
            x,
            kernel,
            (strides,) * 2,
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        np.testing.assert_allclose(
            layers.conv(x, kernel, strides=strides), general, atol=1e-5
        )
