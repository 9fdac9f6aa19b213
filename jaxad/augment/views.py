"""Views of an image, for contrastive learning."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxad.augment import colour, geometry
from jaxad.augment.blur import BLUR_SIDE, gaussian_blur


def random_resized_crop(
    key: jax.Array,
    image: jax.Array,
    *,
    scale: tuple[float, float] = (0.8, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    size: tuple[int, int] | None = None,
) -> jax.Array:
    """A random crop, brought to one size (bilinear).

    Args:
      key: random key.
      image: [H, W, 3].
      scale: bounds of the crop's share of the area, drawn uniformly.
      ratio: bounds of the crop's width over its height, drawn log-uniformly. A side
        that would leave the image is cut to it.
      size: (h, w) of the result; the image's own unless given.

    Returns:
      [h, w, 3].
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
        image, u[0] * (h - height), u[1] * (w - width), height, width, size=size
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
    return recoloured(jitter_key, image, jitter=jitter)


def recoloured(key: jax.Array, image: jax.Array, *, jitter: float = 0.1) -> jax.Array:
    """`weak_view` with everything where it was: the colours alone change."""
    image = colour.colour_jitter(
        key, image, brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter
    )
    return jnp.clip(image, 0, 1)


def global_view(
    key: jax.Array,
    image: jax.Array,
    *,
    size: tuple[int, int] | None = None,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    jitter: Sequence[float] = (0.4, 0.4, 0.4, 0.1),
    jittered: float = 0.8,
    grey: float = 0.2,
    blur: tuple[float, float] = (0.1, 2.0),
    blurred: float = 0.5,
    flipped: float = 0.5,
) -> jax.Array:
    """A view in which the image changes as a whole; by default MoCo v2's, SimSiam's.

    Crop, colour jitter, grey, blur and flip, in this order.

    Args:
      key: random key.
      image: [H, W, 3].
      size: (h, w) of the view; the image's own unless given.
      scale, ratio: of `random_resized_crop`.
      jitter: strengths of `colour_jitter`: brightness, contrast, saturation, hue.
      jittered, grey, blurred, flipped: how probable each change is.
      blur: bounds of the Gaussian's deviation, drawn uniformly, in pixels of an image
        whose shorter side has 224; in proportion where it has more or fewer.

    Returns:
      [h, w, 3], clipped to [0, 1].

    References:
      Chen et al., Improved Baselines with Momentum Contrastive Learning, 2020
      (arXiv:2003.04297); the constants are those of its code.
    """
    crop_key, jitter_key, blur_key, choice_key = jax.random.split(key, 4)
    chosen = jax.random.uniform(choice_key, (4,))
    image = random_resized_crop(crop_key, image, scale=scale, ratio=ratio, size=size)
    if jittered > 0:
        bright, contrast, saturation, hue = jitter
        changed = colour.colour_jitter(
            jitter_key,
            image,
            brightness=bright,
            contrast=contrast,
            saturation=saturation,
            hue=hue,
        )
        image = jnp.where(chosen[0] < jittered, jnp.clip(changed, 0, 1), image)
    if grey > 0:
        image = jnp.where(chosen[1] < grey, colour.luma(image), image)
    if blurred > 0:
        unit = min(image.shape[:2]) / BLUR_SIDE
        sigma = unit * jax.random.uniform(blur_key, minval=blur[0], maxval=blur[1])
        radius = max(1, math.ceil(3 * blur[1] * unit))
        image = jnp.where(
            chosen[2] < blurred, gaussian_blur(image, sigma, radius), image
        )
    if flipped > 0:
        image = jnp.where(chosen[3] < flipped, image[:, ::-1], image)
    return jnp.clip(image, 0, 1)
