"""Heads that training puts on a backbone: projections, predictions, classifiers."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


class SimSiamHeads(nn.Module):
    """One projector and one predictor a level.

    Attributes:
      levels: number of levels.
      width: of a projection.
      bottleneck: hidden width of a predictor.
      norm: "batch", with the statistics of the batch at hand, or "layer" for batches
        that are too small for that.

    References:
      Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021
      (arXiv:2011.10566), section 3: projection and prediction MLP.
    """

    levels: int
    width: int = 2048
    bottleneck: int = 512
    norm: str = "batch"

    def setup(self):
        widths = (self.width,) * 3
        self.projectors = [Projector(widths, self.norm) for _ in range(self.levels)]
        self.predictors = [
            Predictor(self.width, self.bottleneck, self.norm)
            for _ in range(self.levels)
        ]

    def __call__(
        self, pooled: Sequence[jax.Array]
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Pooled features [n, c_l] to projections z, predictions p: [n, d] a level."""
        z = self.project(pooled)
        return z, [head(one) for head, one in zip(self.predictors, z, strict=True)]

    def project(self, pooled: Sequence[jax.Array]) -> list[jax.Array]:
        """Projections alone: [n, c_l] -> [n, d] a level."""
        return [head(x) for head, x in zip(self.projectors, pooled, strict=True)]

    def project_among(
        self, pooled: Sequence[jax.Array], others: Sequence[jax.Array]
    ) -> list[jax.Array]:
        """Projections with the statistics of others, as if those were the batch.

        What the rows have in common, and the others have not, stays to be seen: by
        their own statistics batch normalisation would take it away.

        Args:
          pooled: features [n, c_l] a level.
          others: [m, c_l] a level.

        Returns:
          [n, d] a level.
        """
        return [
            head(jnp.concatenate([among, x]), len(among))[len(among) :]
            for head, x, among in zip(self.projectors, pooled, others, strict=True)
        ]


class Projector(nn.Module):
    """Layers, the last one normalised but not rescaled: [n, ..., c] to widths[-1].

    Attributes:
      widths: of the layers.
      norm: one of `names.NORMS`, or "none", with which layers have a bias instead.

    With a count only so many of the first rows make the statistics of the batch.
    """

    widths: Sequence[int]
    norm: str

    @nn.compact
    def __call__(self, x: jax.Array, count: int | None = None) -> jax.Array:
        last, plain = len(self.widths) - 1, self.norm == "none"
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, use_bias=plain, name=f"layer{i}")(x)
            if not plain:
                x = Norm(self.norm, affine=i < last, name=f"norm{i}")(x, count)
            if i < last:
                x = nn.relu(x)
        return x


class Predictor(nn.Module):
    """A bottleneck of two layers: [n, ..., width] to width; `norm` as `Projector`'s."""

    width: int
    bottleneck: int
    norm: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        plain = self.norm == "none"
        x = nn.Dense(self.bottleneck, use_bias=plain, name="layer0")(x)
        if not plain:
            x = Norm(self.norm, name="norm0")(x)
        return nn.Dense(self.width, name="layer1")(nn.relu(x))


class Linear(nn.Module):
    """A linear classifier: [n, ..., c] -> logits [n, ..., classes]."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.classes, name="layer0")(x)


class Norm(nn.Module):
    """Normalises [n, ..., d] over the batch, or its first `count` rows, or each row.

    What the axes between have are batches of their own, of n rows each. Heads are
    dropped after training, so batch normalisation keeps no statistics.
    """

    kind: str
    affine: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, count: int | None = None) -> jax.Array:
        axis = {"batch": 0, "layer": -1}[self.kind]
        rows = slice(count if axis == 0 else None)
        centred = x - x[rows].mean(axis, keepdims=True)
        variance = (centred[rows] ** 2).mean(axis, keepdims=True)
        x = centred * jax.lax.rsqrt(variance + self.epsilon)
        if self.affine:
            width, shape = x.shape[-1:], (1,) * (x.ndim - 1) + (-1,)
            x = x * self.param("scale", nn.initializers.ones, width).reshape(shape)
            x = x + self.param("bias", nn.initializers.zeros, width).reshape(shape)
        return x


def participation_ratio(x: jax.Array) -> jax.Array:
    """How many directions rows fill evenly, (tr C)^2 / tr C^2 of their covariance C.

    1 where they lie on a line, at most min(n - 1, d); 0 where they are all the same.

    Args:
      x: [n, d].

    Returns:
      Scalar.
    """
    x = x - x.mean(0, keepdims=True)
    x = x if x.shape[0] < x.shape[1] else x.T
    # The smaller of the two matrices that have the eigenvalues of n C.
    gram = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.trace(gram) ** 2 / jnp.maximum((gram**2).sum(), 1e-30)


def collapse(z: jax.Array) -> jax.Array:
    """How spread projections are: 0 where they have collapsed, 1 for a Gaussian cloud.

    sqrt(d) times the standard deviation of the normalised projections, a channel at a
    time, averaged (SimSiam, section 4.1).

    Args:
      z: [n, d].

    Returns:
      Scalar.
    """
    unit = z * jax.lax.rsqrt(jnp.maximum((z**2).sum(-1, keepdims=True), 1e-24))
    return unit.std(0).mean() * z.shape[1] ** 0.5
