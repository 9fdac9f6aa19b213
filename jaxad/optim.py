"""Optimisers by their names, and what optax lacks."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


def scale_by(
    rule: str, *, betas: tuple[float, float], weight_decay: float
) -> optax.GradientTransformation:
    """A direction, to be scaled by minus the learning rate.

    Args:
      rule: one of `names.OPTIMISERS`. "adam" adds the decay to the gradient, as
        PyTorch's Adam does, "adamw" to the step; "sgd" is the former with momentum in
        Adam's place. "lars" is "sgd" in which every kernel's step, before the momentum,
        has 0.001 of the kernel's length.
      betas: decay of the first and second moment; "sgd" and "lars" read the first.
      weight_decay: of every parameter; with "lars" of kernels alone.

    References:
      You et al., Large Batch Training of Convolutional Networks, 2017
      (arXiv:1708.03888): LARS.
    """
    decay = optax.add_decayed_weights(weight_decay)
    if rule == "lars":
        step = optax.chain(decay, optax.scale_by_trust_ratio(trust_coefficient=1e-3))
        return optax.chain(optax.masked(step, _kernels), optax.trace(betas[0]))
    if rule == "sgd":
        return optax.chain(decay, optax.trace(betas[0]))
    adam = optax.scale_by_adam(*betas)
    return optax.chain(adam, decay) if rule == "adamw" else optax.chain(decay, adam)


def _kernels(params):
    """Where a parameter is a kernel, and no bias, scale or shift."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


class AdamPState(NamedTuple):
    """Steps taken, and the moments of the gradient."""

    count: jax.Array
    mu: optax.Updates
    nu: optax.Updates


def scale_by_adamp(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float = 0.0,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
) -> optax.GradientTransformation:
    """AdamP's direction, to be scaled by minus the learning rate.

    Adam's step, less what would only lengthen weights whose scale does not matter.
    Where the gradient of a kernel is nearly orthogonal to it,
    |cos| < delta / sqrt(size), the step loses its component along the kernel and the
    decay is multiplied by `wd_ratio`. First every output channel's kernel is looked
    at, then, unless all of those qualify, the whole array. Vectors and scalars take
    Adam's step. The decay is decoupled: `weight_decay` times the parameter is part of
    the direction.

    The last axis is the output channel, as in JAX's kernels.

    Args:
      b1, b2: decay of the first and second moment.
      eps: added to the root of the second moment, and to norms.
      weight_decay: of every parameter.
      delta: threshold of the cosine.
      wd_ratio: of the decay where the step is projected.

    References:
      Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on
      Scale-invariant Weights, ICLR 2021 (arXiv:2006.08217), algorithm 2.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamPState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads, state, params):
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.nu, grads)

        def direction(m, v, g, w):
            step = m / (jnp.sqrt(v / _correction(b2, count)) + eps)
            decay = weight_decay
            if w.ndim > 1:
                step, projected = _project(step, g, w, delta, eps)
                decay = weight_decay * jnp.where(projected, wd_ratio, 1.0)
            return step / _correction(b1, count) + decay * w

        return jax.tree.map(direction, mu, nu, grads, params), AdamPState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def _correction(decay: float, count: jax.Array) -> jax.Array:
    """1 - decay^count, without the cancellation of the first steps."""
    return -jnp.expm1(count * math.log(decay))


def _project(step, grad, weight, delta, eps):
    """(step without its radial part where that is due, whether it was)."""

    def inner(a, b):
        return (a * b).reshape(-1, a.shape[-1]).sum(0, keepdims=True)

    # Of every channel, and in the second round of the whole array.
    sums = inner(grad, weight), inner(grad, grad), inner(weight, weight)
    sums, size = (*sums, inner(step, weight)), step[..., 0].size
    radial, projected = jnp.zeros_like(sums[0]), jnp.bool_(False)
    for _ in range(2):
        gw, gg, ww, sw = sums
        norm = jnp.sqrt(ww) + eps
        cosine = gw / (jnp.sqrt(gg) + eps) / norm
        due = (jnp.abs(cosine).max() < delta / size**0.5) & ~projected
        radial = jnp.where(due, sw / norm**2, radial)
        projected |= due
        sums, size = [x.sum(1, keepdims=True) for x in sums], step.size
    return step - weight * radial.reshape((1,) * (step.ndim - 1) + (-1,)), projected


def cosine(progress: jax.Array) -> jax.Array:
    """Cosine annealing: 1 at progress 0 down to 0 at progress 1."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def warm_cosine(progress: jax.Array, warmup: float) -> jax.Array:
    """Up to 1 in a straight line, and by a cosine down to 0.

    Args:
      progress: 0 to 1.
      warmup: the share of it that the way up takes, below 1.
    """
    down = cosine(jnp.maximum(progress - warmup, 0.0) / (1.0 - warmup))
    return jnp.where(progress < warmup, progress / max(warmup, 1e-9), down)
