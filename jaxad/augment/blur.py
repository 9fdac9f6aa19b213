"""Blurring by a Gaussian whose width is drawn."""

import jax
import jax.numpy as jnp

# The side of the images, in pixels, that widths of blurs are given for.
BLUR_SIDE = 224


def gaussian_blur(image: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Gaussian of a traced width, cut off at a static one; the border pixel repeats.

    Args:
      image: [H, W, c].
      sigma: standard deviation in pixels; 0 leaves the image as it is.
      radius: pixels on either side that count.

    Returns:
      [H, W, c].
    """
    offset = jnp.arange(-radius, radius + 1)
    weight = jnp.exp(-0.5 * (offset / jnp.maximum(sigma, 1e-3)) ** 2)
    weight /= weight.sum()
    for axis in (0, 1):
        pad = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(image, pad, mode="edge")
        image = sum(
            weight[i] * jax.lax.dynamic_slice_in_dim(padded, i, image.shape[axis], axis)
            for i in range(2 * radius + 1)
        )
    return image
