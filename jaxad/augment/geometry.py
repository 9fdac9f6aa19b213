"""Where pixels come from: sampling, rotation, crops."""

import jax
import jax.numpy as jnp


def sample(image: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Bilinear samples at any positions; black outside the image.

    Args:
      image: [H, W, c].
      y, x: positions in pixels, [...], pixel centres at whole numbers.

    Returns:
      [..., c].
    """
    h, w, c = image.shape
    flat = image.reshape(h * w, c)
    y0, x0 = jnp.floor(y), jnp.floor(x)
    total = 0.0
    for row, fy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for column, fx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            index = jnp.where(inside, row * w + column, 0).astype(jnp.int32)
            weight = jnp.where(inside, fy * fx, 0.0)
            total = total + weight[..., None] * jnp.take(flat, index, 0)
    return total


def sample_grid(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Bilinear samples on an axis-parallel grid; the border pixel repeats outside.

    Args:
      image: [H, W, c].
      rows: positions [h] in pixels.
      columns: positions [w] in pixels.

    Returns:
      [h, w, c].
    """
    for axis, position in ((0, rows), (1, columns)):
        last = image.shape[axis] - 1
        position = jnp.clip(position, 0, last)
        low = jnp.floor(position).astype(jnp.int32)
        fraction = jnp.expand_dims(position - low, (1 - axis, 2))
        below = jnp.take(image, low, axis)
        above = jnp.take(image, jnp.minimum(low + 1, last), axis)
        image = below + fraction * (above - below)
    return image


def rotated_positions(
    size: tuple[int, int], angle: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Where each pixel of an image turned by `angle` radians comes from.

    Two arrays [H, W]: y and x in pixels.
    """
    h, w = size
    y = jnp.arange(h)[:, None] - (h - 1) / 2
    x = jnp.arange(w)[None, :] - (w - 1) / 2
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * y - sin * x + (h - 1) / 2, sin * y + cos * x + (w - 1) / 2


def rotate(image: jax.Array, angle: jax.Array) -> jax.Array:
    """Turns the image [H, W, c] about its centre by `angle` radians; black outside."""
    return sample(image, *rotated_positions(image.shape[:2], angle))


def crop_resize(
    image: jax.Array,
    top: jax.Array,
    left: jax.Array,
    height: jax.Array,
    width: jax.Array,
    *,
    size: tuple[int, int] | None = None,
) -> jax.Array:
    """A crop brought to one size, bilinear with half-pixel centres.

    Nothing is smoothed first: a crop that is larger than the result by much aliases.

    Args:
      image: [H, W, c].
      top, left, height, width: the crop in pixels, fractions allowed.
      size: (h, w) of the result; the image's own unless given.

    Returns:
      [h, w, c].
    """
    h, w = size or image.shape[:2]
    rows = top + (jnp.arange(h) + 0.5) * (height / h) - 0.5
    columns = left + (jnp.arange(w) + 0.5) * (width / w) - 0.5
    return sample_grid(image, rows, columns)


def random_corner(
    key: jax.Array, size: tuple[int, int], height: jax.Array, width: jax.Array
) -> jax.Array:
    """Top-left corner of a rectangle placed uniformly inside an image.

    Args:
      key: random key.
      size: (H, W) of the image.
      height, width: of the rectangle in pixels, fractions allowed.

    Returns:
      (top, left), int32 [2].
    """
    u = jax.random.uniform(key, (2,))
    free = jnp.stack([size[0] - height, size[1] - width])
    corner = jnp.floor(u * (free + 1)).astype(jnp.int32)
    return jnp.clip(corner, 0, jnp.maximum(jnp.floor(free).astype(jnp.int32), 0))
