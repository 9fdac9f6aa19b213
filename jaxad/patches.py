"""From feature maps to patch descriptors, as PatchCore does it.

Both variants pool every level over a neighbourhood, bring the deeper levels to the
first level's grid and put the levels side by side. `concat` keeps every channel;
`pooled` averages neighbouring values down to a target width.

References:
  Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022
  (arXiv:2106.08265), section 3.1.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.errors import InputError

# Of windows that differ: so many are summed one by one, which compiles to no gather.
_WINDOWS = 16
# Of values that a group of windows takes: more slices than that compile for seconds.
_SLICES = 64


def concat(levels: Sequence[jax.Array], *, neighbourhood: int = 3) -> jax.Array:
    """Neighbourhood means of all levels on the first level's grid.

    Args:
      levels: feature maps, each [b, h_l, w_l, c_l].
      neighbourhood: side of the square that a patch averages, odd. What lies outside
        the map counts as zero.

    Returns:
      Patch descriptors [b, h_0, w_0, sum c_l]; they and all sums are float32.
    """
    grid = levels[0].shape[1:3]
    pooled = [
        _to_grid(sum(_shifts(level, neighbourhood)) / neighbourhood**2, grid)
        for level in levels
    ]
    return jnp.concatenate(pooled, axis=-1)


def pooled(
    levels: Sequence[jax.Array],
    *,
    neighbourhood: int = 3,
    level_dim: int = 1024,
    target_dim: int = 1024,
) -> jax.Array:
    """Adaptive average pooling of the neighbourhoods to a target width.

    The values of a level's neighbourhood, channel-major, are averaged to `level_dim`;
    the levels, one after the other, are averaged to `target_dim`.

    Args:
      levels: feature maps, each [b, h_l, w_l, c_l].
      neighbourhood: side of the square of a patch, odd; zeros outside the map.
      level_dim: values that every level contributes.
      target_dim: width of the descriptor, at most `len(levels) * level_dim`.

    Returns:
      Patch descriptors [b, h_0, w_0, target_dim]; they and all sums are float32.
    """
    if target_dim > len(levels) * level_dim:
        raise InputError(
            f"config.patches.target_dim={target_dim} is wider than the "
            f"{len(levels)} levels of level_dim={level_dim} that it averages"
        )
    grid = levels[0].shape[1:3]

    def one(level):
        # Pooling acts on channels and resizing on positions, so they commute; pooling
        # first is cheaper.
        return _to_grid(_averages(_shifts(level, neighbourhood), level_dim), grid)

    stacked = jnp.concatenate([one(level) for level in levels], axis=-1)
    return _averages([stacked], target_dim)


def descriptor(fields) -> Callable[[Sequence[jax.Array]], jax.Array]:
    """The variant that `config.patches` names, from levels to [b, h_0, w_0, c]."""
    if fields.descriptor == "concat":
        return functools.partial(concat, neighbourhood=fields.neighbourhood)
    return functools.partial(
        pooled,
        neighbourhood=fields.neighbourhood,
        level_dim=fields.level_dim,
        target_dim=fields.target_dim,
    )


def _shifts(x: jax.Array, side: int) -> list[jax.Array]:
    """The side² shifted copies of x [b, h, w, c], row by row, zeros from outside.

    float32, or sums of bfloat16 levels would be rounded at every term.
    """
    r = side // 2
    h, w = x.shape[1:3]
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (r, r), (r, r), (0, 0)))
    return [x[:, i : i + h, j : j + w] for i in range(side) for j in range(side)]


def _to_grid(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Bilinear, half-pixel centres, no antialiasing: [b, h, w, c] to [b, *grid, c]."""
    if x.shape[1:3] == tuple(grid):
        return x
    shape = (x.shape[0], *grid, x.shape[3])
    return jax.image.resize(
        x, shape, "bilinear", antialias=False, precision=jax.lax.Precision.HIGHEST
    )


def _averages(parts: Sequence[jax.Array], size: int) -> jax.Array:
    """Averages k parts [..., c], channel by channel, over `size` windows.

    Window i spans floor(i·n/size) to ceil((i+1)·n/size) of the n = c·k values, of which
    those of a channel lie side by side; the rule of PyTorch's adaptive_avg_pool1d.
    Neighbouring windows may overlap, and n may be below size.
    """
    c, k = parts[0].shape[-1], len(parts)
    if c * k == size:
        return _side_by_side(parts)
    # The windows of every p channels are the same q ones.
    groups = math.gcd(c, size)
    p, q = c // groups, size // groups
    if q > _WINDOWS:
        return _gathered(_side_by_side(parts), size)
    spans = [(i * p * k // q, -(-(i + 1) * p * k // q)) for i in range(q)]
    if p * k > _SLICES:
        x = _side_by_side(parts)
        x = x.reshape(*x.shape[:-1], groups, p * k)
        return _side_by_side([x[..., start:stop].mean(-1) for start, stop in spans])
    means = []
    for start, stop in spans:
        inside = [parts[i % k][..., i // k :: p] for i in range(start, stop)]
        means.append(sum(inside) / len(inside))
    return _side_by_side(means)


def _gathered(x: jax.Array, size: int) -> jax.Array:
    """`_averages` of x [..., n], with windows of any kind."""
    n = x.shape[-1]
    i = np.arange(size)
    start, stop = i * n // size, -(-(i + 1) * n // size)
    total = 0.0
    for offset in range((stop - start).max()):
        index = start + offset
        inside = (index < stop).astype(np.float32)
        taken = jnp.take(x, np.minimum(index, n - 1), axis=-1)
        total = total + taken * jnp.asarray(inside).reshape((1,) * (x.ndim - 1) + (-1,))
    width = jnp.asarray((stop - start).astype(np.float32))
    return total / width.reshape((1,) * (x.ndim - 1) + (-1,))


def _side_by_side(parts: Sequence[jax.Array]) -> jax.Array:
    """Parts [..., c], channel by channel: [..., c * k]."""
    return jnp.stack(parts, -1).reshape(*parts[0].shape[:-1], -1)
