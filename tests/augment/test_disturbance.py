import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from jaxad import rng
from jaxad.augment import disturbance
from jaxad.augment.blur import gaussian_blur

STILL = dict(rotation=0.0, translation=0.0, brightness=0.0, contrast=0.0, blur=0.0)


# One program for all bounds but the blur's, which says how far the kernel reaches.
disturb = jax.jit(disturbance.disturb, static_argnames="blur")


def picture():
    image = np.random.default_rng(0).uniform(size=(24, 20, 3)).astype(np.float32)
    mask = np.zeros((24, 20), np.uint8)
    mask[6:12, 8:14] = 1
    return image, mask


def test_nothing_changes_at_zero():
    image, mask = picture()
    got, moved = disturb(jax.random.key(0), image, mask, **STILL)
    np.testing.assert_allclose(got, image, atol=1e-5)
    np.testing.assert_array_equal(moved, mask)
    assert moved.dtype == mask.dtype


def test_mask_goes_with_the_image():
    """A white defect on black stays where its mask is, however it is moved."""
    _, mask = picture()
    image = np.repeat(mask[..., None], 3, axis=2).astype(np.float32)
    move = functools.partial(disturb, **{**STILL, "rotation": 45.0, "translation": 0.1})
    keys = jax.random.split(jax.random.key(1), 8)
    images, masks = jax.vmap(move, in_axes=(0, None, None))(keys, image, mask)
    np.testing.assert_array_equal(images[..., 0] >= 0.5, masks == 1)
    assert len({m.tobytes() for m in np.asarray(masks)}) == 8


def test_what_moves_in_is_the_border_and_normal():
    image, mask = np.full((16, 16, 3), 0.25, np.float32), np.ones((16, 16), np.uint8)
    move = functools.partial(disturb, **{**STILL, "rotation": 45.0})
    got, moved = move(jax.random.key(3), image, mask)
    np.testing.assert_allclose(got, image, atol=1e-6)
    assert 0 < moved.sum() < 256


def test_brightness_scales_the_image():
    image, mask = picture()
    image *= 0.5
    got, _ = disturb(jax.random.key(0), image, mask, **{**STILL, "brightness": 0.3})
    ratio = np.asarray(got) / image
    assert 0.7 <= ratio.min() and ratio.max() <= 1.3 and np.ptp(ratio) < 1e-3
    assert abs(ratio.mean() - 1) > 1e-3


def test_blur_against_scipy():
    image, _ = picture()
    blur = jax.jit(gaussian_blur, static_argnums=2)
    got = blur(image, np.float32(0.8), 3)
    want = scipy.ndimage.gaussian_filter(
        image, (0.8, 0.8, 0), mode="nearest", radius=(3, 3, 0)
    )
    np.testing.assert_allclose(got, want, atol=1e-5)
    sharp = blur(image, np.float32(0.0), 3)
    np.testing.assert_allclose(sharp, image, atol=1e-6)


def test_a_function_of_seed_and_example_alone():
    image, mask = picture()
    keys = rng.per_example(rng.stream(5, "disturb"), jnp.array([3, 9]))
    both = jax.vmap(disturb, in_axes=(0, None, None))(keys, image, mask)
    alone = disturb(keys[1], image, mask)
    for got, want in zip(both, alone, strict=True):
        np.testing.assert_allclose(got[1], want, atol=1e-5)
