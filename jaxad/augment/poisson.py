"""Seamless cloning of a rectangle, solved exactly on device."""

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST
# OpenCV leaves out the mask's border pixel, takes the next ring as boundary values, and
# uses the patch's gradients only where three erosions leave the mask.
_RING, _EROSION = 1, 3


def seamless_clone(
    image: jax.Array,
    patch: jax.Array,
    top: jax.Array,
    left: jax.Array,
    height: jax.Array,
    width: jax.Array,
    *,
    max_size: tuple[int, int] | None = None,
) -> jax.Array:
    """Puts a rectangle of `patch` into `image`: its gradients, without a seam.

    Equals `cv2.seamlessClone` with `NORMAL_CLONE` and a rectangular mask before its
    cut to whole grey levels. With v the guiding gradients, which are the patch's inside
    the eroded mask and the image's around it, the result f solves div grad f = div v
    inside the rectangle, and f = image on its border.

    Pasting the eroded rectangle satisfies that equation everywhere but along the four
    edges, where the paste jumps. So f is the paste plus the smooth function whose
    Laplacian cancels the four jumps. For one edge that function is a sine series along
    the edge times a closed form across it, and opposite edges share their series: the
    exact solution costs two matrix products a channel, and nothing iterates.

    Args:
      image: [H, W, c], what is written on.
      patch: [H, W, c], in the image's coordinates.
      top, left, height, width: the rectangle in whole pixels, int32 and possibly
        traced, inside the image. Sides below 9 leave nothing after erosion, and the
        image comes back.
      max_size: static upper bounds of height and width, to save work; the image's own
        size unless given.

    Returns:
      [H, W, c], changed inside the rectangle only; not clipped.

    References:
      Pérez, Gangnet, Blake, Poisson image editing, SIGGRAPH 2003, eqs. 3 and 9.
    """
    max_height, max_width = max_size or image.shape[:2]
    jump = patch - image
    # Coordinates inside the rectangle: 0 and m + 1 (n + 1) are its boundary values.
    i = jnp.arange(image.shape[0]) - (top + _RING)
    j = jnp.arange(image.shape[1]) - (left + _RING)
    m = jnp.maximum(height - 2 * _RING - 2, 1)
    n = jnp.maximum(width - 2 * _RING - 2, 1)
    rows = (i >= _EROSION) & (i <= m + 1 - _EROSION)
    columns = (j >= _EROSION) & (j <= n + 1 - _EROSION)
    pasted = (rows[:, None] & columns[None, :])[..., None]

    # The jumps: the paste's at its first line, and at the first line beyond its last.
    first_row, first_column = top + _RING + _EROSION, left + _RING + _EROSION
    across = jnp.stack([jump[first_row], jump[first_row + m + 2 - 2 * _EROSION]])
    down = jnp.stack(
        [jump[:, first_column], jump[:, first_column + n + 2 - 2 * _EROSION]]
    )
    across = jnp.where(pasted.any(0)[None], across, 0.0)
    down = jnp.where(pasted.any(1)[None], down, 0.0)
    smooth = _cancel(across, i, j, m, n, max_width)
    smooth += _cancel(down, j, i, n, m, max_height).transpose(1, 0, 2)
    inside = ((i >= 1) & (i <= m))[:, None] & ((j >= 1) & (j <= n))[None, :]
    return jnp.where(pasted, patch, image) + jnp.where(inside[..., None], smooth, 0.0)


def _cancel(jumps, i, j, m, n, terms):
    """The function, zero on the boundary, whose Laplacian cancels two opposite jumps.

    Expanded along the edges in sin(pi k j / (n + 1)), a unit jump between the lines
    a - 1 and a is answered across them by a piecewise hyperbolic profile,

      i <  a:  cosh(mu (m + 3/2 - a)) sinh(mu i) / (cosh(mu / 2) sinh(mu (m + 1)))
      i >= a: -cosh(mu (a - 1/2)) sinh(mu (m + 1 - i)) / (the same),

    with cosh(mu) = 2 - cos(pi k / (n + 1)).

    Args:
      jumps: along the first and the last edge, [2, A, c]; zero outside them.
      i: place of each pixel across the edges, [D]; the interior is 1..m.
      j: place of each pixel along them, [A]; the interior is 1..n.
      m, n: interior size across and along.
      terms: static bound of n.

    Returns:
      [D, A, c]; meaningful in the interior only.
    """
    k = jnp.arange(1, terms + 1)
    # The phase is reduced in whole numbers: as a float it would lose four digits.
    phase = jnp.clip(j, 0, n + 1)[:, None] * k[None, :] % (2 * (n + 1))
    basis = jnp.where((k <= n)[None, :], jnp.sin(phase * (jnp.pi / (n + 1))), 0.0)
    series = jnp.einsum("eac,ak->eck", jumps, basis, precision=_HIGHEST) * 2 / (n + 1)

    # cosh(mu) - 1 = 2 sinh(mu / 2)^2 = 2 sin(pi k / (2 (n + 1)))^2.
    mu = 2 * jnp.arcsinh(jnp.sin(jnp.minimum(k, n) * (jnp.pi / 2) / (n + 1)))
    mu = mu[None, :]
    i = jnp.clip(i, 0, m + 1)[:, None]
    near, far = -jnp.expm1(-2 * mu * i), -jnp.expm1(-2 * mu * (m + 1 - i))
    scale = 1 / ((1 + jnp.exp(-mu)) * -jnp.expm1(-2 * mu * (m + 1)))

    def profile(i, a, near, far):
        # The formula above with every exponent negative.
        before = (1 + jnp.exp(-mu * (2 * (m + 1 - a) + 1))) * near
        after = (1 + jnp.exp(-mu * (2 * a - 1))) * far
        fall = jnp.exp(-mu * (jnp.abs(i - a + 0.5) + 0.5))
        return scale * fall * jnp.where(i < a, before, -after)

    first = profile(i, _EROSION, near, far)
    last = profile(m + 1 - i, _EROSION, far, near)
    weighted = jnp.einsum(
        "eck,edk->cdk", series, jnp.stack([first, last]), precision=_HIGHEST
    )
    return jnp.einsum("cdk,ak->dac", weighted, basis, precision=_HIGHEST)
