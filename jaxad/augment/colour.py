"""Colour operations.

The tone operations follow Pillow's `ImageOps` and `ImageEnhance` level by level, so
that generators written with them keep their statistics.
"""

import jax
import jax.numpy as jnp

# Luma weights of ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


def luma(image: jax.Array) -> jax.Array:
    """Brightness of each pixel: [..., 3] -> [..., 1]."""
    return sum(weight * image[..., i : i + 1] for i, weight in enumerate(_LUMA))


def colour_jitter(
    key: jax.Array,
    image: jax.Array,
    *,
    brightness: float = 0.1,
    contrast: float = 0.1,
    saturation: float = 0.1,
    hue: float = 0.1,
) -> jax.Array:
    """Random brightness, contrast, saturation and hue.

    Each factor is uniform in 1 ± strength; hue turns the colours about the grey axis by
    up to `hue` of a full circle. All four are linear, so a pixel costs one 3x3 product.

    Args:
      key: random key.
      image: [H, W, 3].
      brightness, contrast, saturation, hue: strengths; 0 leaves the image as it is.

    Returns:
      [H, W, 3], not clipped.
    """
    u = jax.random.uniform(key, (4,), minval=-1.0)
    bright, contrasted, saturated = (
        1 + strength * u[i]
        for i, strength in enumerate((brightness, contrast, saturation))
    )
    angle = 2 * jnp.pi * hue * u[3]
    identity, luma_of = jnp.eye(3), jnp.tile(jnp.asarray(_LUMA), (3, 1))
    saturate = saturated * identity + (1 - saturated) * luma_of
    matrix = jnp.matmul(
        _turn_about_grey(angle), saturate, precision=jax.lax.Precision.HIGHEST
    )
    grey = luma(image).mean()
    mixed = sum(image[..., i : i + 1] * matrix[:, i].reshape(1, 1, 3) for i in range(3))
    return bright * (contrasted * mixed + (1 - contrasted) * grey)


def _turn_about_grey(angle: jax.Array) -> jax.Array:
    """Rotation of colour space about the axis (1, 1, 1): [3, 3] (Rodrigues)."""
    third = jnp.full((3, 3), 1 / 3)
    cross = jnp.asarray([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / jnp.sqrt(3.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * jnp.eye(3) + (1 - cos) * third + sin * cross


def rgb_to_hsv(image: jax.Array) -> jax.Array:
    """Hue, saturation and value, all in [0, 1]: [..., 3] -> [..., 3]."""
    r, g, b = image[..., 0], image[..., 1], image[..., 2]
    value = image.max(-1)
    chroma = value - image.min(-1)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    hue = jnp.where(
        value == r,
        (g - b) / safe,
        jnp.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4),
    )
    # A remainder costs a CPU more than all the rest.
    hue = jnp.where(hue < 0, hue + 6, hue)
    saturation = jnp.where(value > 0, chroma / jnp.where(value > 0, value, 1.0), 0.0)
    return jnp.stack([hue / 6, saturation, value], -1)


def hsv_to_rgb(hsv: jax.Array) -> jax.Array:
    """Inverse of `rgb_to_hsv`."""
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]

    def channel(n):
        k = n + 6 * hue
        k = jnp.where(k >= 6, k - 6, k)
        return value - value * saturation * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], -1)


def shift_hue_saturation(
    image: jax.Array, hue: jax.Array, saturation: jax.Array
) -> jax.Array:
    """Adds to hue (a circle) and saturation (clipped), both in [0, 1]."""
    h, s, v = jnp.moveaxis(rgb_to_hsv(image), -1, 0)
    s = jnp.clip(s + saturation, 0, 1)
    h = h + hue
    return hsv_to_rgb(jnp.stack([h - jnp.floor(h), s, v], -1))


def solarise(image: jax.Array, threshold: jax.Array) -> jax.Array:
    """Inverts values from `threshold` on (`ImageOps.solarize`)."""
    return jnp.where(image < threshold, image, 1 - image)


def posterise(image: jax.Array, bits: jax.Array) -> jax.Array:
    """Keeps the highest `bits` of 8 (`ImageOps.posterize`); `bits` may be traced."""
    step = 2.0 ** (8 - bits)
    return jnp.floor(jnp.round(image * 255) / step) * step / 255


def sharpen(image: jax.Array, factor: jax.Array) -> jax.Array:
    """`ImageEnhance.Sharpness`: 0 smooths, 1 leaves, above 1 sharpens; not clipped.

    Pixels at the border stay as they are, as Pillow's filters leave them.
    """
    rows = image[:-2] + image[1:-1] + image[2:]
    box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    inner = image[1:-1, 1:-1]
    smooth = (box + 4 * inner) / 13
    detail = jnp.pad(inner - smooth, ((1, 1), (1, 1), (0, 0)))
    return image + (factor - 1) * detail


def autocontrast(image: jax.Array, cutoff: jax.Array) -> jax.Array:
    """Stretches every channel to [0, 1], `cutoff` of its pixels lost at either end.

    `ImageOps.autocontrast`, with `cutoff` in [0, 0.5).
    """

    def channel(x):
        below = jnp.cumsum(_histogram(_levels(x)))
        lost = cutoff * x.size
        low = (below <= lost).sum() / 255
        high = (256 - (x.size - below <= lost).sum()) / 255
        stretched = (x - low) / jnp.where(high > low, high - low, 1.0)
        return jnp.where(high > low, jnp.clip(stretched, 0, 1), x)

    return jax.vmap(channel, -1, -1)(image)


def equalise(image: jax.Array) -> jax.Array:
    """Flattens every channel's histogram of 256 levels (`ImageOps.equalize`)."""

    def channel(x):
        levels = _levels(x)
        counts = _histogram(levels)
        before = jnp.cumsum(counts) - counts
        step = (x.size - counts[levels.max()]) // 255
        table = (before + step // 2) // jnp.maximum(step, 1)
        table = jnp.minimum(table, 255).astype(x.dtype) / 255
        return jnp.where(step > 0, table[levels], x)

    return jax.vmap(channel, -1, -1)(image)


def _levels(x: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(x * 255), 0, 255).astype(jnp.int32)


def _histogram(levels: jax.Array) -> jax.Array:
    return jnp.bincount(levels.ravel(), length=256)
