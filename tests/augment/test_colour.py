import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxad.augment import colour

pytestmark = pytest.mark.isa

autocontrast, sharpen, colour_jitter = map(
    jax.jit, (colour.autocontrast, colour.sharpen, colour.colour_jitter)
)


@pytest.fixture(scope="module")
def image():
    noise = np.random.default_rng(0).random((24, 20, 3)) ** 2
    return (noise * 200 + 20).astype(np.uint8)


def floats(image):
    return image.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x: colour.posterise(x, 3), lambda x: ImageOps.posterize(x, 3)),
        (lambda x: colour.solarise(x, 100 / 255), lambda x: ImageOps.solarize(x, 100)),
        (colour.equalise, ImageOps.equalize),
    ],
    ids=["posterise", "solarise", "equalise"],
)
def test_equals_pillow(image, ours, theirs):
    expected = np.asarray(theirs(Image.fromarray(image)))
    np.testing.assert_allclose(jax.jit(ours)(floats(image)) * 255, expected, atol=1e-3)


@pytest.mark.parametrize("percent", [0, 7])
def test_autocontrast_equals_pillow_within_its_rounding(image, percent):
    expected = np.asarray(ImageOps.autocontrast(Image.fromarray(image), percent))
    ours = autocontrast(floats(image), percent / 100) * 255
    np.testing.assert_allclose(ours, expected, atol=1.001)


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.5])
def test_sharpen_equals_pillow_within_its_rounding(image, factor):
    expected = ImageEnhance.Sharpness(Image.fromarray(image)).enhance(factor)
    sharpened = np.asarray(sharpen(floats(image), factor))
    ours = np.clip(sharpened * 255, 0, 255)
    # Pillow rounds the smoothed image.
    np.testing.assert_allclose(ours, expected, atol=1 + abs(1 - factor))
    border = np.ones(image.shape[:2], bool)
    border[1:-1, 1:-1] = False
    np.testing.assert_array_equal(sharpened[border], floats(image)[border])


def test_flat_channels_pass(image):
    flat = jnp.full((4, 4, 3), 0.5)
    np.testing.assert_array_equal(jax.jit(colour.equalise)(flat), flat)
    np.testing.assert_array_equal(autocontrast(flat, 0.1), flat)


def test_hsv_equals_colorsys_and_inverts(image):
    pixels = floats(image).reshape(-1, 3)[:40]
    rgb_to_hsv, hsv_to_rgb = jax.jit(colour.rgb_to_hsv), jax.jit(colour.hsv_to_rgb)
    hsv = rgb_to_hsv(pixels)
    expected = [colorsys.rgb_to_hsv(*map(float, p)) for p in pixels]
    np.testing.assert_allclose(hsv, expected, atol=1e-5)
    np.testing.assert_allclose(hsv_to_rgb(hsv), pixels, atol=1e-6)
    black_and_grey = np.zeros_like(pixels)
    black_and_grey[1::2] = 0.4
    np.testing.assert_allclose(hsv_to_rgb(rgb_to_hsv(black_and_grey)), black_and_grey)


def test_jitter_without_strength_is_the_identity(image):
    key = jax.random.key(0)
    none = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    np.testing.assert_allclose(
        colour_jitter(key, floats(image), **none), floats(image), atol=1e-6
    )


def test_jitter_does_to_the_pixels_what_it_says(image):
    x, key = floats(image), jax.random.key(3)
    none = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    grey = np.asarray(colour.luma(x))

    def jittered(**strength):
        return np.asarray(colour_jitter(key, x, **none | strength))

    def ratio(a, b):
        factor = (a / b)[np.abs(b) > 0.02]
        np.testing.assert_allclose(factor, factor[0], rtol=2e-3)
        assert abs(factor[0] - 1) <= 0.4 and abs(factor[0] - 1) > 1e-3

    ratio(jittered(brightness=0.4), np.asarray(x))
    ratio(jittered(contrast=0.4) - grey.mean(), np.asarray(x) - grey.mean())
    ratio(jittered(saturation=0.4) - grey, np.asarray(x) - grey)
    # Hue keeps the sum of the channels and their distance from grey.
    turned = jittered(hue=0.4)
    assert np.abs(turned - x).max() > 0.05
    np.testing.assert_allclose(turned.sum(-1), x.sum(-1), atol=1e-5)
    np.testing.assert_allclose(turned.var(-1), x.var(-1), atol=1e-5)
