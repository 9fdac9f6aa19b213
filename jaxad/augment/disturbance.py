"""What a camera and its mounting do to an image between training and test."""

import math

import jax
import jax.numpy as jnp

from jaxad.augment import colour, geometry
from jaxad.augment.blur import gaussian_blur


def disturb(
    key: jax.Array,
    image: jax.Array,
    mask: jax.Array,
    *,
    rotation: float = 10.0,
    translation: float = 0.05,
    brightness: float = 0.1,
    contrast: float = 0.1,
    blur: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Turns, shifts, brightens and blurs a test image; its mask goes with it.

    The robustness protocol of ReConPatch's Table 4, which does not say how much: the
    magnitudes are this project's. Every one is drawn uniformly, 0 leaves it out.

    Args:
      key: random key.
      image: [H, W, 3] in [0, 1].
      mask: 1 where anomalous, 0 where normal, [H, W].
      rotation: at most so many degrees, either way.
      translation: at most so much of the height and of the width, either way.
      brightness, contrast: factors in 1 ± strength.
      blur: standard deviation of the Gaussian in pixels, at most.

    Returns:
      (image [H, W, 3] in [0, 1], mask [H, W]): what moves in from outside repeats the
      border pixel, and is normal.

    References:
      Hyun et al., WACV 2024 (arXiv:2305.16713), table 4.
    """
    key_move, key_colour, key_blur = jax.random.split(key, 3)
    h, w = image.shape[:2]
    u = jax.random.uniform(key_move, (3,), minval=-1.0)
    y, x = geometry.rotated_positions((h, w), jnp.deg2rad(rotation) * u[0])
    y, x = y + translation * h * u[1], x + translation * w * u[2]
    inside = jnp.clip(y, 0, h - 1), jnp.clip(x, 0, w - 1)
    image = geometry.sample(image, *inside)
    moved = geometry.sample(mask.astype(image.dtype)[..., None], y, x)[..., 0]
    image = colour.colour_jitter(
        key_colour,
        image,
        brightness=brightness,
        contrast=contrast,
        saturation=0.0,
        hue=0.0,
    )
    if blur > 0:
        sigma = jax.random.uniform(key_blur, maxval=blur)
        image = gaussian_blur(image, sigma, math.ceil(3 * blur))
    return jnp.clip(image, 0.0, 1.0), (moved >= 0.5).astype(mask.dtype)
