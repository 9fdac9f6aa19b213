"""Synthetic anomalies with their masks.

A generator maps a normal image [H, W, 3] in [0, 1] to `(image, mask)`: the image with
a defect, and a float32 [H, W] mask that is 1 where it lies. A mask may come out empty.
Shapes are static, nothing leaves the device, and `jax.vmap` batches them. What a
generator pastes (`texture`, `source`) is another image of the same shape, chosen by the
caller.

The constants are those of each generator's own paper and code.

References:
  DRAEM: Zavrtanik et al., ICCV 2021 (arXiv:2108.07610), section 3.3.
  CutPaste: Li et al., CVPR 2021 (arXiv:2104.04015), sections 2.2 and 4.1.
  NSA (in `jaxad.augment.nsa`): Schlüter et al., ECCV 2022 (arXiv:2109.15222).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from jaxad.augment import colour, geometry
from jaxad.augment.nsa import nsa as nsa

# -----------------------------------------------------------------------------
# Perlin noise (DRAEM)
# -----------------------------------------------------------------------------


def perlin(
    key: jax.Array,
    image: jax.Array,
    texture: jax.Array | None,
    *,
    lattices: int = 6,
    rotation: float = 90.0,
    threshold: float = 0.5,
    vary: Mapping[str, Any] = MappingProxyType({}),
    max_blend: float = 0.8,
    unchanged: float = 0.5,
    rotate_image: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """A changed texture shows where turned Perlin noise exceeds a threshold.

    x_s = (1 - M) x + M ((1 - beta) texture + beta x), beta uniform in [0, max_blend]
    (DRAEM, eq. 2).

    Args:
      key: random key.
      image: [H, W, 3].
      texture: [H, W, 3], changed by `vary_texture` first; the noise itself if None.
      lattices, rotation: of `turned_perlin_noise`.
      threshold: of the noise.
      vary: what else `vary_texture` takes.
      max_blend: largest share of the image that shines through.
      unchanged: probability that the image comes back as it is, the mask empty.
      rotate_image: probability that the image itself is first turned by up to 90
        degrees either way (0.3 in DRAEM); 0 for objects that always lie the same way.

    Returns:
      Image [H, W, 3] and mask [H, W].
    """
    keys = jax.random.split(key, 6)
    if rotate_image:
        turn, angle = jax.random.split(keys[0])
        turned = geometry.rotate(image, _angle(angle, 90))
        image = jnp.where(jax.random.bernoulli(turn, rotate_image), turned, image)
    noise = turned_perlin_noise(
        keys[1], image.shape[:2], lattices=lattices, rotation=rotation
    )
    if texture is None:
        texture = jnp.broadcast_to(noise[..., None] * 0.5 + 0.25, image.shape)
    else:
        texture = vary_texture(keys[2], texture, **vary)
    beta = jax.random.uniform(keys[3], maxval=max_blend)
    changed = jax.random.bernoulli(keys[4], 1 - unchanged)
    mask = jnp.where(changed, (noise > threshold).astype(image.dtype), 0.0)
    defect = (1 - beta) * texture + beta * image
    return jnp.where(mask[..., None] > 0, defect, image), mask


def turned_perlin_noise(
    key: jax.Array, size: tuple[int, int], *, lattices: int = 6, rotation: float = 90.0
) -> jax.Array:
    """Two-dimensional Perlin noise on a random lattice, turned.

    The lattice has 2^k cells an axis, k uniform in 0..lattices-1 for either; the noise
    is scaled by sqrt(2) and zero where the turned lattice does not reach.

    Args:
      key: random key.
      size: (H, W) in pixels.
      lattices: how many lattices there are, 1 or more.
      rotation: bound of the angle in degrees.

    Returns:
      Noise [H, W], about -1 to 1.
    """
    cells_key, angle_key, gradient_key = jax.random.split(key, 3)
    cells = 2 ** jax.random.randint(cells_key, (2,), 0, lattices)
    # The noise is a function of position: turning the positions turns it exactly.
    y, x = geometry.rotated_positions(size, _angle(angle_key, rotation))
    inside = (y >= 0) & (y <= size[0] - 1) & (x >= 0) & (x <= size[1] - 1)
    y, x = y * cells[0] / size[0], x * cells[1] / size[1]
    side = 2 ** (lattices - 1) + 1
    turns = jax.random.uniform(gradient_key, (side * side,), maxval=2 * jnp.pi)
    gradients = jnp.stack([jnp.cos(turns), jnp.sin(turns)], -1)
    return jnp.where(inside, jnp.sqrt(2.0) * perlin_noise(gradients, side, y, x), 0.0)


def perlin_noise(
    gradients: jax.Array, side: int, y: jax.Array, x: jax.Array
) -> jax.Array:
    """Gradient noise with the fade 6 t^5 - 15 t^4 + 10 t^3.

    Args:
      gradients: (y, x) at the corners of a square lattice, [side * side, 2].
      side: corners an axis.
      y, x: positions in cells, [...].

    Returns:
      Noise [...], zero at every corner.
    """
    y0 = jnp.clip(jnp.floor(y), 0, side - 2)
    x0 = jnp.clip(jnp.floor(x), 0, side - 2)
    corner = (y0 * side + x0).astype(jnp.int32)
    v, u = y - y0, x - x0

    fade_y, fade_x = (t * t * t * (t * (t * 6 - 15) + 10) for t in (v, u))

    def add(i, total):
        """The ramp of a cell's corner, weighted by how near it is."""
        dy, dx = i // 2, i % 2
        gradient = jnp.take(gradients, corner + dy * side + dx, 0)
        ramp = gradient[..., 0] * (v - dy) + gradient[..., 1] * (u - dx)
        near_y, near_x = (
            jnp.where(d == 1, fade, 1 - fade)
            for d, fade in ((dy, fade_y), (dx, fade_x))
        )
        return total + near_y * near_x * ramp

    # What a loop gives is kept; XLA would compute a sum again for every channel that
    # the noise masks.
    return jax.lax.fori_loop(0, 4, add, jnp.zeros_like(y))


def vary_texture(
    key: jax.Array,
    texture: jax.Array,
    *,
    changes: int = 3,
    gamma: tuple[float, float] = (0.5, 2.0),
    gain: tuple[float, float] = (0.8, 1.2),
    offset: tuple[float, float] = (-30.0, 30.0),
    sharpness: tuple[float, float] = (0.0, 3.0),
    hue: tuple[float, float] = (-50.0, 50.0),
    saturation: tuple[float, float] = (-50.0, 50.0),
    solarise: tuple[float, float] = (32.0, 128.0),
    bits: tuple[int, int] = (1, 8),
    cutoff: tuple[float, float] = (0.0, 0.2),
    rotation: float = 45.0,
) -> jax.Array:
    """Some of DRAEM's ten changes of a texture, [H, W, 3] -> [H, W, 3] in [0, 1].

    Those chosen act in this fixed order, not in the order they are drawn: a batch then
    costs each change once.

    Args:
      key: random key.
      texture: [H, W, 3].
      changes: how many of the ten, which also are inversion and equalisation.
      gamma: bounds of the exponent, drawn for each channel; all are drawn uniformly.
      gain, offset: bounds of a factor, and of what is then added, in grey levels of
        255.
      sharpness: bounds of the factor, 1 is the texture itself.
      hue, saturation: bounds of what is added, in steps of 1/255.
      solarise: bounds of the grey level, of 255, that half of the draws invert from.
      bits: bounds of those that a channel keeps, both included.
      cutoff: bounds of the share that autocontrast cuts off.
      rotation: bound of the angle in degrees.
    """
    choice_key, key = jax.random.split(key)
    chosen = jax.random.permutation(choice_key, 10) < changes
    # One draw for all: every further one costs compilation.
    draws = iter(jax.random.uniform(key, (13,)))

    def uniform(low, high, unit=1.0):
        return (low + (high - low) * next(draws)) / unit

    exponents = jnp.stack([uniform(*gamma) for _ in range(3)]).reshape(1, 1, 3)
    factor, added = uniform(*gain), uniform(*offset, 255)
    sharp = uniform(*sharpness)
    turned, saturated = uniform(*hue, 255), uniform(*saturation, 255)
    threshold = jnp.where(next(draws) < 0.5, uniform(*solarise, 255), jnp.inf)
    kept = jnp.floor(uniform(bits[0], bits[1] + 1)).astype(jnp.int32)
    cut = uniform(*cutoff)
    angle = jnp.deg2rad(rotation) * (2 * next(draws) - 1)
    functions = (
        # First, since XLA would compute what it turns once for each of four corners.
        lambda x: geometry.rotate(x, angle),
        lambda x: x**exponents,
        lambda x: x * factor + added,
        lambda x: colour.sharpen(x, sharp),
        lambda x: colour.shift_hue_saturation(x, turned, saturated),
        lambda x: colour.solarise(x, threshold),
        lambda x: colour.posterise(x, kept),
        lambda x: 1 - x,
        lambda x: colour.autocontrast(x, cut),
        colour.equalise,
    )
    for is_chosen, change in zip(chosen, functions, strict=True):
        texture = jnp.where(is_chosen, jnp.clip(change(texture), 0, 1), texture)
    return texture


# -----------------------------------------------------------------------------
# CutPaste
# -----------------------------------------------------------------------------


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
    h, w = image.shape[:2]
    area_key, aspect_key, from_key, to_key, jitter_key = jax.random.split(key, 5)
    pixels = h * w * jax.random.uniform(area_key, minval=area[0], maxval=area[1])
    low, high = jnp.log(jnp.asarray(aspect))
    ratio = jnp.exp(jax.random.uniform(aspect_key, minval=low, maxval=high))
    height = jnp.clip(jnp.round(jnp.sqrt(pixels / ratio)), 1, h).astype(jnp.int32)
    width = jnp.clip(jnp.round(jnp.sqrt(pixels * ratio)), 1, w).astype(jnp.int32)
    top, left = geometry.random_corner(to_key, (h, w), height, width)
    from_top, from_left = geometry.random_corner(from_key, (h, w), height, width)
    shift = (top - from_top, left - from_left)
    moved = _jitter(jitter_key, jnp.roll(image, shift, (0, 1)), jitter)
    mask = _rectangle(image, top, left, height, width)
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
    angle = _angle(angle_key, rotation)
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
    scar = _jitter(jitter_key, jnp.take(flat, index, 0), jitter)
    return jnp.where(inside[..., None], scar, image), inside.astype(image.dtype)


# -----------------------------------------------------------------------------
# Helpers
# -----------------------------------------------------------------------------


def _angle(key, degrees):
    """Uniform in ± degrees, in radians."""
    bound = jnp.deg2rad(degrees)
    return jax.random.uniform(key, minval=-bound, maxval=bound)


def _rectangle(image, top, left, height, width):
    y, x = jnp.arange(image.shape[0]) - top, jnp.arange(image.shape[1]) - left
    rows, columns = (y >= 0) & (y < height), (x >= 0) & (x < width)
    return (rows[:, None] & columns[None, :]).astype(image.dtype)


def _jitter(key, image, strength):
    jittered = colour.colour_jitter(
        key,
        image,
        brightness=strength,
        contrast=strength,
        saturation=strength,
        hue=strength,
    )
    return jnp.clip(jittered, 0, 1)
