"""Weak views of a normal image, for contrastive learning."""

import jax
import jax.numpy as jnp

from jaxad.augment import colour, geometry


def random_resized_crop(
    key: jax.Array,
    image: jax.Array,
    *,
    scale: tuple[float, float] = (0.8, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """A random crop, brought back to the image's size (bilinear).

    Args:
      key: random key.
      image: [H, W, 3].
      scale: bounds of the crop's share of the area, drawn uniformly.
      ratio: bounds of the crop's width over its height, drawn log-uniformly. A side
        that would leave the image is cut to it.

    Returns:
      [H, W, 3].
    """
    h, w = image.shape[:2]
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = h * w * jax.random.uniform(area_key, minval=scale[0], maxval=scale[1])
    low, high = jnp.log(jnp.asarray(ratio))
    aspect = jnp.exp(jax.random.uniform(ratio_key, minval=low, maxval=high))
    height = jnp.minimum(jnp.sqrt(area / aspect), h)
    width = jnp.minimum(jnp.sqrt(area * aspect), w)
    u = jax.random.uniform(place_key, (2,))
    return geometry.crop_resize(
        image, u[0] * (h - height), u[1] * (w - width), height, width
    )


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors the image [H, W, 3] left to right with probability 0.5."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def weak_view(
    key: jax.Array,
    image: jax.Array,
    *,
    scale: tuple[float, float] = (0.8, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    jitter: float = 0.1,
    flip: bool = False,
) -> jax.Array:
    """A view that keeps what is normal normal: crop, colour jitter, perhaps a flip.

    Args:
      key: random key.
      image: [H, W, 3].
      scale, ratio: of `random_resized_crop`.
      jitter: all four strengths of `colour_jitter`.
      flip: mirror half of the views; for categories that are symmetric.

    Returns:
      [H, W, 3], clipped to [0, 1].
    """
    crop_key, jitter_key, flip_key = jax.random.split(key, 3)
    image = random_resized_crop(crop_key, image, scale=scale, ratio=ratio)
    if flip:
        image = random_flip(flip_key, image)
    image = colour.colour_jitter(
        jitter_key,
        image,
        brightness=jitter,
        contrast=jitter,
        saturation=jitter,
        hue=jitter,
    )
    return jnp.clip(image, 0, 1)
