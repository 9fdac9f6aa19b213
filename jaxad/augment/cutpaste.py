"""Pieces of an image, pasted elsewhere in it: CutPaste and SmoothBlend.

They are generators as `jaxad.augment.anomalies` has them.

References:
  Li et al., CutPaste: Self-Supervised Learning for Anomaly Detection and Localization,
  CVPR 2021 (arXiv:2104.04015), sections 2.2 and 4.1.
  Zou et al., SPot-the-Difference Self-supervised Pre-training for Anomaly Detection and
  Segmentation, ECCV 2022 (arXiv:2207.14315): SmoothBlend.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from jaxad.augment import colour, geometry
from jaxad.augment.blur import BLUR_SIDE, gaussian_blur


def cutpaste(
    key: jax.Array,
    image: jax.Array,
    *,
    patch: Mapping[str, Any] = MappingProxyType({}),
    scar: Mapping[str, Any] = MappingProxyType({}),
    jitter: float = 0.1,
) -> tuple[jax.Array, jax.Array]:
    """`cutpaste_patch` or `cutpaste_scar`, half of the time each.

    Args:
      key, image, jitter: as both take them.
      patch, scar: what else they take.

    Returns:
      Image [H, W, 3] and mask [H, W].
    """
    choice_key, patch_key, scar_key = jax.random.split(key, 3)
    patched = cutpaste_patch(patch_key, image, jitter=jitter, **patch)
    scarred = cutpaste_scar(scar_key, image, jitter=jitter, **scar)
    choice = jax.random.bernoulli(choice_key)
    return jax.tree.map(lambda a, b: jnp.where(choice, a, b), patched, scarred)


def cutpaste_patch(
    key: jax.Array,
    image: jax.Array,
    *,
    area: tuple[float, float] = (0.02, 0.15),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    jitter: float = 0.1,
) -> tuple[jax.Array, jax.Array]:
    """A rectangle of the image, colours jittered, pasted elsewhere in it.

    Args:
      key: random key.
      image: [H, W, 3].
      area: bounds of the rectangle's share of the image, drawn uniformly.
      aspect: bounds of its width over its height, drawn log-uniformly.
      jitter: strengths of `colour.colour_jitter`.

    Returns:
      Image [H, W, 3] and mask [H, W].
    """
    *keys, jitter_key = jax.random.split(key, 5)
    moved, mask = _moved(keys, image, area, aspect)
    moved = _jitter(jitter_key, moved, (jitter,) * 4)
    return jnp.where(mask[..., None] > 0, moved, image), mask


def cutpaste_scar(
    key: jax.Array,
    image: jax.Array,
    *,
    width: tuple[float, float] = (2, 16),
    height: tuple[float, float] = (10, 25),
    rotation: float = 45,
    jitter: float = 0.1,
) -> tuple[jax.Array, jax.Array]:
    """A thin rectangle of the image, colours jittered, turned, pasted elsewhere.

    Args:
      key: random key.
      image: [H, W, 3].
      width, height: bounds of its sides in pixels, drawn uniformly.
      rotation: bound of the angle in degrees.
      jitter: strengths of `colour.colour_jitter`.

    Returns:
      Image [H, W, 3] and mask [H, W].
    """
    width_key, height_key, angle_key, from_key, to_key, jitter_key = jax.random.split(
        key, 6
    )
    wide = jax.random.uniform(width_key, minval=width[0], maxval=width[1])
    high = jax.random.uniform(height_key, minval=height[0], maxval=height[1])
    bound = jnp.deg2rad(rotation)
    angle = jax.random.uniform(angle_key, minval=-bound, maxval=bound)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # The turned scar's bounding box stays inside the image.
    box = (high * cos + wide * jnp.abs(sin), wide * cos + high * jnp.abs(sin))
    to_top, to_left = geometry.random_corner(to_key, image.shape[:2], *box)
    from_top, from_left = geometry.random_corner(from_key, image.shape[:2], high, wide)
    y = jnp.arange(image.shape[0])[:, None] - (to_top + (box[0] - 1) / 2)
    x = jnp.arange(image.shape[1])[None, :] - (to_left + (box[1] - 1) / 2)
    along, across = cos * y - sin * x, sin * y + cos * x
    inside = (jnp.abs(along) <= high / 2) & (jnp.abs(across) <= wide / 2)
    rows = jnp.round(along + from_top + (high - 1) / 2)
    columns = jnp.round(across + from_left + (wide - 1) / 2)
    rows = jnp.clip(rows, 0, image.shape[0] - 1).astype(jnp.int32)
    columns = jnp.clip(columns, 0, image.shape[1] - 1).astype(jnp.int32)
    flat = image.reshape(-1, image.shape[2])
    index = rows * image.shape[1] + columns
    scar = _jitter(jitter_key, jnp.take(flat, index, 0), (jitter,) * 4)
    return jnp.where(inside[..., None], scar, image), inside.astype(image.dtype)


def smooth_blend(
    key: jax.Array,
    image: jax.Array,
    *,
    area: tuple[float, float] = (0.02, 0.15),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    jitter: Sequence[float] = (0.4, 0.4, 0.4, 0.1),
    blur: tuple[float, float] = (2.0, 6.0),
    literal: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """A rectangle of the image, colours jittered, blended into another place of it.

    x' = (1 - alpha) x + alpha u, where u is the patch on black and alpha the blurred
    mask of the patch (SPot-the-Difference, section 3.1). The paper's constants are not
    known; the defaults are CutPaste's shapes and the usual jitter (ours).

    Blurred, alpha is above 0 around the patch as well, where u is black: as written the
    formula draws a dark ring. Unless `literal`, alpha is 0 outside the patch (ours);
    along its border it then is one half at most, where the whole side is straight.

    Args:
      key: random key.
      image: [H, W, 3].
      area: bounds of the rectangle's share of the image, drawn uniformly.
      aspect: bounds of its width over its height, drawn log-uniformly.
      jitter: strengths of `colour_jitter`: brightness, contrast, saturation, hue.
      blur: bounds of the deviation of the Gaussian over the mask, drawn uniformly, in
        pixels of an image whose shorter side has 224; in proportion where it has more
        or fewer. The Gaussian is cut off at two of its largest deviations.
      literal: the formula as it is written, with the ring.

    Returns:
      Image [H, W, 3], clipped to [0, 1], and the patch's mask [H, W].
    """
    *keys, jitter_key, blur_key = jax.random.split(key, 6)
    moved, mask = _moved(keys, image, area, aspect)
    patch = _jitter(jitter_key, moved, jitter) * mask[..., None]
    unit = min(image.shape[:2]) / BLUR_SIDE
    sigma = unit * jax.random.uniform(blur_key, minval=blur[0], maxval=blur[1])
    radius = max(1, math.ceil(2 * blur[1] * unit))
    alpha = gaussian_blur(mask[..., None], sigma, radius)
    if not literal:
        alpha = alpha * mask[..., None]
    return jnp.clip((1 - alpha) * image + alpha * patch, 0, 1), mask


def _moved(keys, image, area, aspect):
    """The image shifted, and the mask [H, W] of where a random piece of it now lies."""
    h, w = image.shape[:2]
    area_key, aspect_key, from_key, to_key = keys
    pixels = h * w * jax.random.uniform(area_key, minval=area[0], maxval=area[1])
    low, high = jnp.log(jnp.asarray(aspect))
    ratio = jnp.exp(jax.random.uniform(aspect_key, minval=low, maxval=high))
    height = jnp.clip(jnp.round(jnp.sqrt(pixels / ratio)), 1, h).astype(jnp.int32)
    width = jnp.clip(jnp.round(jnp.sqrt(pixels * ratio)), 1, w).astype(jnp.int32)
    top, left = geometry.random_corner(to_key, (h, w), height, width)
    from_top, from_left = geometry.random_corner(from_key, (h, w), height, width)
    shift = (top - from_top, left - from_left)
    y, x = jnp.arange(h) - top, jnp.arange(w) - left
    rows, columns = (y >= 0) & (y < height), (x >= 0) & (x < width)
    mask = (rows[:, None] & columns[None, :]).astype(image.dtype)
    return jnp.roll(image, shift, (0, 1)), mask


def _jitter(key, image, strengths):
    brightness, contrast, saturation, hue = strengths
    jittered = colour.colour_jitter(
        key,
        image,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
    )
    return jnp.clip(jittered, 0, 1)
