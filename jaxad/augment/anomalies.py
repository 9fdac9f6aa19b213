"""Synthetic anomalies with their masks.

A generator maps a normal image [H, W, 3] in [0, 1] to `(image, mask)`: the image with
a defect, and a float32 [H, W] mask that is 1 where it lies. A mask may come out empty.
Shapes are static, nothing leaves the device, and `jax.vmap` batches them. What a
generator pastes (`texture`, `source`) is another image of the same shape, chosen by the
caller.

The constants are those of each generator's own paper and code.

References:
  DRAEM: Zavrtanik et al., ICCV 2021 (arXiv:2108.07610), section 3.3.
  CutPaste, SmoothBlend: in `jaxad.augment.cutpaste`.
  NSA: in `jaxad.augment.nsa`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from jaxad.augment import colour, geometry
from jaxad.augment.cutpaste import cutpaste as cutpaste
from jaxad.augment.cutpaste import cutpaste_patch as cutpaste_patch
from jaxad.augment.cutpaste import cutpaste_scar as cutpaste_scar
from jaxad.augment.cutpaste import smooth_blend as smooth_blend
from jaxad.augment.nsa import nsa as nsa


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


def _angle(key, degrees):
    """Uniform in ± degrees, in radians."""
    bound = jnp.deg2rad(degrees)
    return jax.random.uniform(key, minval=-bound, maxval=bound)
