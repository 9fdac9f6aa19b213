"""From patch scores to an image's score and its anomaly map."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

_HIGHEST = jax.lax.Precision.HIGHEST


def maximum(patch_scores: jax.Array) -> jax.Array:
    """The largest patch score: [b, h, w] -> [b] (PatchCore, eq. 6)."""
    return patch_scores.max((1, 2))


def top_fraction(patch_scores: jax.Array, *, fraction: float) -> jax.Array:
    """Mean of the highest share of the patches, at least one: [b, h, w] -> [b]."""
    flat = patch_scores.reshape(patch_scores.shape[0], -1)
    count = max(1, round(fraction * flat.shape[1]))
    return jax.lax.top_k(flat, count)[0].mean(-1)


def reweighted(score: jax.Array, distances: jax.Array) -> jax.Array:
    """Lowers the score of a patch whose nearest memory lies among close neighbours.

    s' = (1 - exp(s) / sum_r exp(d_r)) s, where d_r are the distances of the image's
    most anomalous patch to the b bank entries nearest to its own nearest entry, that
    entry first (PatchCore, eq. 7; ReConPatch, eq. 10).

    Args:
      score: distance s to the nearest entry, [b].
      distances: d_r, [b, neighbours]; `distances[:, 0]` equals `score`.

    Returns:
      s' [b].
    """
    return (1.0 - jax.nn.softmax(distances, axis=-1)[:, 0]) * score


def anomaly_map(
    patch_scores: jax.Array, size: tuple[int, int], *, sigma: float
) -> jax.Array:
    """Patch scores, bilinear to the image's size, then a Gaussian.

    Upsampling and blurring are linear along each axis, so each axis is one matrix and
    a map costs two small products.

    Args:
      patch_scores: [b, h, w].
      size: (H, W) in pixels.
      sigma: standard deviation of the Gaussian in pixels, cut at 4 sigma, mirrored at
        the border as `scipy.ndimage.gaussian_filter` does; 0 leaves it out.

    Returns:
      Anomaly maps [b, H, W].
    """
    rows = jnp.asarray(_axis_matrix(patch_scores.shape[1], size[0], sigma))
    columns = jnp.asarray(_axis_matrix(patch_scores.shape[2], size[1], sigma))
    return jnp.einsum("Hh,bhw,Ww->bHW", rows, patch_scores, columns, precision=_HIGHEST)


def _axis_matrix(n: int, size: int, sigma: float) -> np.ndarray:
    """[size, n]: half-pixel bilinear interpolation of n samples, then the Gaussian."""
    position = (np.arange(size) + 0.5) * n / size - 0.5
    position = np.clip(position, 0, n - 1)
    low = np.minimum(position.astype(int), max(n - 2, 0))
    fraction = position - low
    matrix = np.zeros((size, n))
    matrix[np.arange(size), low] = 1 - fraction
    matrix[np.arange(size), np.minimum(low + 1, n - 1)] += fraction
    if sigma > 0:
        matrix = scipy.ndimage.gaussian_filter1d(matrix, sigma, axis=0)
    return matrix.astype(np.float32)
