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
  NSA: Schlüter et al., ECCV 2022 (arXiv:2109.15222), section 3.
"""

import jax
import jax.numpy as jnp

from jaxad.augment import colour, geometry
from jaxad.augment.poisson import seamless_clone

# -----------------------------------------------------------------------------
# Perlin noise (DRAEM)
# -----------------------------------------------------------------------------

_LATTICES = 6  # 2^0 .. 2^5 cells an axis


def perlin(
    key: jax.Array,
    image: jax.Array,
    texture: jax.Array | None,
    *,
    max_blend: float = 0.8,
    unchanged: float = 0.5,
    rotate_image: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """A changed texture shows where turned Perlin noise exceeds a half.

    x_s = (1 - M) x + M ((1 - beta) texture + beta x), beta uniform in [0, max_blend]
    (DRAEM, eq. 2).

    Args:
      key: random key.
      image: [H, W, 3].
      texture: [H, W, 3], changed by `vary_texture` first; the noise itself if None.
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
    noise = turned_perlin_noise(keys[1], image.shape[:2])
    if texture is None:
        texture = jnp.broadcast_to(noise[..., None] * 0.5 + 0.25, image.shape)
    else:
        texture = vary_texture(keys[2], texture)
    beta = jax.random.uniform(keys[3], maxval=max_blend)
    changed = jax.random.bernoulli(keys[4], 1 - unchanged)
    mask = jnp.where(changed, (noise > 0.5).astype(image.dtype), 0.0)
    defect = (1 - beta) * texture + beta * image
    return jnp.where(mask[..., None] > 0, defect, image), mask


def turned_perlin_noise(key: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Two-dimensional Perlin noise on a random lattice, turned by up to 90 degrees.

    The lattice has 2^k cells an axis, k uniform in 0..5 for either; the noise is scaled
    by sqrt(2) and zero where the turned lattice does not reach.

    Args:
      key: random key.
      size: (H, W) in pixels.

    Returns:
      Noise [H, W], about -1 to 1.
    """
    cells_key, angle_key, gradient_key = jax.random.split(key, 3)
    cells = 2 ** jax.random.randint(cells_key, (2,), 0, _LATTICES)
    # The noise is a function of position: turning the positions turns it exactly.
    y, x = geometry.rotated_positions(size, _angle(angle_key, 90))
    inside = (y >= 0) & (y <= size[0] - 1) & (x >= 0) & (x <= size[1] - 1)
    y, x = y * cells[0] / size[0], x * cells[1] / size[1]
    side = 2 ** (_LATTICES - 1) + 1
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

    def ramp(dy, dx):
        gradient = jnp.take(gradients, corner + dy * side + dx, 0)
        return gradient[..., 0] * (v - dy) + gradient[..., 1] * (u - dx)

    fade_y, fade_x = (t * t * t * (t * (t * 6 - 15) + 10) for t in (v, u))
    top = ramp(0, 0) + fade_x * (ramp(0, 1) - ramp(0, 0))
    bottom = ramp(1, 0) + fade_x * (ramp(1, 1) - ramp(1, 0))
    return top + fade_y * (bottom - top)


def vary_texture(key: jax.Array, texture: jax.Array) -> jax.Array:
    """Three of DRAEM's ten changes of a texture, [H, W, 3] -> [H, W, 3] in [0, 1].

    The chosen three act in this fixed order, not in the order they are drawn: a batch
    then costs each change once.
    """
    choice_key, key = jax.random.split(key)
    chosen = jax.random.permutation(choice_key, 10) < 3
    keys = jax.random.split(key, 10)

    def uniform(i, low, high, shape=()):
        return jax.random.uniform(keys[i], shape, minval=low, maxval=high)

    shift = uniform(3, -50 / 255, 50 / 255, (2,))
    threshold = jnp.where(
        uniform(9, 0, 1) < 0.5, uniform(4, 32 / 255, 128 / 255), jnp.inf
    )
    changes = (
        lambda x: x ** uniform(0, 0.5, 2.0, (1, 1, 3)),
        lambda x: (
            x * uniform(1, 0.8, 1.2)
            + jax.random.uniform(
                jax.random.fold_in(keys[1], 1), minval=-30 / 255, maxval=30 / 255
            )
        ),
        lambda x: colour.sharpen(x, uniform(2, 0.0, 3.0)),
        lambda x: colour.shift_hue_saturation(x, shift[0], shift[1]),
        lambda x: colour.solarise(x, threshold),
        lambda x: colour.posterise(x, jax.random.randint(keys[5], (), 1, 9)),
        lambda x: 1 - x,
        lambda x: colour.autocontrast(x, uniform(6, 0.0, 0.2)),
        colour.equalise,
        lambda x: geometry.rotate(x, _angle(keys[8], 45)),
    )
    for is_chosen, change in zip(chosen, changes, strict=True):
        texture = jnp.where(is_chosen, jnp.clip(change(texture), 0, 1), texture)
    return texture


# -----------------------------------------------------------------------------
# CutPaste
# -----------------------------------------------------------------------------


def cutpaste(
    key: jax.Array, image: jax.Array, *, jitter: float = 0.1
) -> tuple[jax.Array, jax.Array]:
    """`cutpaste_patch` or `cutpaste_scar`, half of the time each."""
    choice_key, patch_key, scar_key = jax.random.split(key, 3)
    patch = cutpaste_patch(patch_key, image, jitter=jitter)
    scar = cutpaste_scar(scar_key, image, jitter=jitter)
    choice = jax.random.bernoulli(choice_key)
    return jax.tree.map(lambda a, b: jnp.where(choice, a, b), patch, scar)


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
    top, left = _place(to_key, image, height, width)
    from_top, from_left = _place(from_key, image, height, width)
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
    to_top, to_left = _place(to_key, image, *box)
    from_top, from_left = _place(from_key, image, high, wide)
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
# Natural synthetic anomalies (NSA): random seamless patches
# -----------------------------------------------------------------------------


def nsa(
    key: jax.Array,
    image: jax.Array,
    source: jax.Array,
    *,
    half_height: tuple[float, float] = (0.03, 0.4),
    half_width: tuple[float, float] = (0.03, 0.4),
    resize: tuple[float, float] = (0.7, 1.3),
    patches: int = 3,
) -> tuple[jax.Array, jax.Array]:
    """Rectangles of another normal image, resized and seamlessly cloned.

    A half side is `low + Gamma(2, 0.05)` of the image's, at most `high`; a patch is
    resized by N(1, 0.5) clipped to `resize`. One patch is certain, each further one as
    likely as not. The mask is where the intensity changed by more than one grey level,
    after a 5x5 median.

    Args:
      key: random key.
      image: [H, W, 3].
      source: [H, W, 3], where the patches come from.
      half_height, half_width: bounds of the half sides as shares of the image's.
      resize: bounds of the factor.
      patches: at most so many.

    Returns:
      Image [H, W, 3], clipped to [0, 1], and mask [H, W].
    """
    sides = image.shape[:2]
    bounds = (half_height, half_width)
    limit = tuple(
        min(side, int(2 * high * resize[1] * side) + 1)
        for side, (_, high) in zip(sides, bounds, strict=True)
    )

    def clone(number, blended):
        keys = jax.random.split(jax.random.fold_in(key, number), 5)
        centre = jax.random.uniform(keys[0], (2,))
        # Gamma(2) is the sum of two exponentials.
        gamma = 0.05 * jax.random.exponential(keys[1], (2, 2)).sum(0)
        scale = jnp.clip(1 + 0.5 * jax.random.normal(keys[2]), *resize)
        starts, lengths, sizes = [], [], []
        for axis, side in enumerate(sides):
            low, high = bounds[axis]
            half = jnp.minimum(low + gamma[axis], high)
            start = jnp.maximum(centre[axis] - half, 0) * side
            length = jnp.minimum(centre[axis] + half, 1) * side - start
            size = jnp.clip(jnp.round(scale * length), 3, limit[axis])
            starts.append(start)
            lengths.append(length)
            sizes.append(size.astype(jnp.int32))
        corner = _place(keys[3], image, *sizes)
        # Where in the source each pixel of the image comes from, half-pixel centres.
        rows, columns = (
            starts[axis]
            + (jnp.arange(side) - corner[axis] + 0.5) * (lengths[axis] / sizes[axis])
            - 0.5
            for axis, side in enumerate(sides)
        )
        patch = geometry.sample_grid(source, rows, columns)
        cloned = seamless_clone(blended, patch, *corner, *sizes, max_size=limit)
        used = (number == 0) | jax.random.bernoulli(keys[4])
        return jnp.where(used, jnp.clip(cloned, 0, 1), blended)

    blended = jax.lax.fori_loop(0, patches, clone, image)
    changed = jnp.abs(blended - image).mean(-1) > 1 / 255
    return blended, _median(changed.astype(image.dtype))


# -----------------------------------------------------------------------------
# Helpers
# -----------------------------------------------------------------------------


def _angle(key, degrees):
    """Uniform in ± degrees, in radians."""
    bound = jnp.deg2rad(degrees)
    return jax.random.uniform(key, minval=-bound, maxval=bound)


def _place(key, image, height, width):
    """Top-left corner, int32, of a rectangle placed uniformly inside the image."""
    u = jax.random.uniform(key, (2,))
    free = jnp.stack([image.shape[0] - height, image.shape[1] - width])
    corner = jnp.floor(u * (free + 1)).astype(jnp.int32)
    return jnp.clip(corner, 0, jnp.maximum(jnp.floor(free).astype(jnp.int32), 0))


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


def _median(mask):
    """5x5 median of a mask [H, W] of zeros and ones; the border repeats."""
    padded = jnp.pad(mask, 2, mode="edge")
    rows = sum(padded[i : i + mask.shape[0]] for i in range(5))
    count = sum(rows[:, i : i + mask.shape[1]] for i in range(5))
    return (count > 12).astype(mask.dtype)
