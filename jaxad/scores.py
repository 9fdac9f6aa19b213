"""From patch scores to an image's score and its anomaly map."""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from jaxad.errors import InputError

_HIGHEST = jax.lax.Precision.HIGHEST


def maximum(patch_scores: jax.Array) -> jax.Array:
    """The largest patch score: [b, h, w] -> [b] (PatchCore, eq. 6)."""
    return patch_scores.max((1, 2))


def mean(patch_scores: jax.Array) -> jax.Array:
    """Mean over all patches: [b, h, w] -> [b]."""
    return patch_scores.mean((1, 2))


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

    The one patch is chosen by its distance, as in eq. 6 and 7 of PatchCore, and anomaly
    maps keep distances. To re-weight every patch and take the highest may choose
    another one, and costs a search of the bank a patch in place of one an image.

    Args:
      score: distance s to the nearest entry, [b].
      distances: d_r, [b, neighbours]; `distances[:, 0]` equals `score`.

    Returns:
      s' [b].
    """
    return (1.0 - jax.nn.softmax(distances, axis=-1)[:, 0]) * score


@flax.struct.dataclass
class Spread:
    """Where the scores of one model on normal patches lie, and how far they spread.

    Attributes:
      median: of the scores, scalar.
      deviation: their absolute deviation from it, scalar.
    """

    median: jax.Array
    deviation: jax.Array


def spread(normal: np.ndarray, *, mean_deviation: bool = False) -> Spread:
    """Median and median absolute deviation of a model's scores on normal patches.

    ReConPatch names a mean absolute deviation, and the constant 1.4826 that belongs to
    the median one; `mean_deviation` takes it at its word.

    Args:
      normal: scores of the training patches, any shape.
      mean_deviation: the mean of the absolute deviations in place of their median.

    Raises:
      InputError: there is no spread, or a score is not finite.
    """
    normal = np.asarray(normal, np.float64).ravel()
    median = np.median(normal)
    deviations = np.abs(normal - median)
    deviation = deviations.mean() if mean_deviation else np.median(deviations)
    if not 0 < deviation < np.inf:
        raise InputError(
            f"the {normal.size} training scores of an ensemble's member have an "
            f"absolute deviation of {deviation}, which nothing can be divided by; "
            "score more images, or leave the member out"
        )
    return Spread(jnp.float32(median), jnp.float32(deviation))


def modified_z_score(
    patch_scores: jax.Array, spread: Spread, *, beta: float = 1.4826
) -> jax.Array:
    """(s - median) / (beta MAD), of the scores' own shape (ReConPatch, eq. 11).

    beta makes the median absolute deviation of a Gaussian its standard deviation.
    """
    return (patch_scores - spread.median) / (beta * spread.deviation)


def ensemble(members: Sequence[jax.Array], spreads: Sequence[Spread]) -> jax.Array:
    """Mean of the members' modified z-scores (ReConPatch, eq. 11).

    Args:
      members: patch scores of every model, each [b, h, w].
      spreads: of every model.

    Returns:
      [b, h, w].

    Raises:
      InputError: the members have different grids.
    """
    grids = {scores.shape for scores in members}
    if len(grids) > 1:
        raise InputError(
            f"an ensemble's members have patch grids {sorted(grids)}; give all of them "
            "the same image size, and taps of the same stride"
        )
    scores = map(modified_z_score, members, spreads)
    return sum(scores) / len(members)


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
