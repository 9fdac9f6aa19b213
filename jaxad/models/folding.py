"""A backbone that does not learn: normalisation folded away, only the taps computed."""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax import lax

from jaxad.errors import InputError

Features = Callable[[dict, jax.Array], dict[str, jax.Array]]


def extractor(module: nn.Module, taps: Sequence[str]) -> Features:
    """Feature maps by the name of their tap, in inference mode.

    Returns:
      `(variables, images [b, H, W, 3] normalised) -> {tap: [b, h, w, c]}`. Under `jit`
      nothing behind the deepest tap is computed. It raises InputError where the module
      has no such tap.
    """
    taps = tuple(taps)

    def features(variables, images):
        _, known = module.apply(variables, images)
        for tap in taps:
            if tap not in known:
                raise InputError(
                    f"config.backbone.taps: {type(module).__name__} has no tap "
                    f"{tap!r}; it has {', '.join(known)}"
                )
        return {tap: known[tap] for tap in taps}

    return features


def fold(module: nn.Module, variables: dict) -> dict:
    """Variables without batch statistics that `module.apply` gives the same for.

    A normalisation of what a convolution gives becomes part of the convolution,
    W' = W s and b' = b - m s with s = scale / sqrt(var + epsilon); any other becomes
    the map x s + b'. The module computes the same in inference mode, in fewer
    operations, and has no training mode any more. A module without statistics keeps
    what it has, which may be nothing.

    Under `jit` it is part of that program. Elsewhere the host multiplies, and arrays
    come back to where the parameters are: a network has a hundred shapes, and each
    would be a program to compile.
    """
    params, statistics = variables.get("params", {}), variables.get("batch_stats", {})
    if not statistics:
        return {"params": params}
    leaves = jax.tree.leaves((params, statistics))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return {"params": _fold(params, _inverted(statistics, module.epsilon))}
    on_host = jax.tree.map(np.asarray, (params, statistics))
    folded = _fold(on_host[0], _inverted(on_host[1], module.epsilon))
    return {"params": jax.tree.map(functools.partial(_place, like=leaves[0]), folded)}


def _inverted(statistics, epsilon: float):
    """Statistics with 1 / sqrt(var + epsilon) for each `var`, from one program."""

    def is_var(path) -> bool:
        return path[-1].key == "var"

    found = jax.tree_util.tree_leaves_with_path(statistics)
    variances = [x + np.float32(epsilon) for path, x in found if is_var(path)]
    if isinstance(variances[0], np.ndarray):
        inverse = np.asarray(_rsqrt(np.concatenate(variances)))
        inverses = np.split(inverse, np.cumsum([len(x) for x in variances])[:-1])
    else:
        inverses = [lax.rsqrt(x) for x in variances]
    following = iter(inverses)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: next(following) if is_var(path) else x, statistics
    )


_rsqrt = jax.jit(lax.rsqrt)


def _fold(params, statistics):
    if "mean" in statistics:
        scale = params["scale"] * statistics["var"]  # which is its inverse root
        return {"scale": scale, "bias": params["bias"] - statistics["mean"] * scale}
    if "norm" in statistics and "kernel" in params:
        norm = _fold(params["norm"], statistics["norm"])
        kernel = params["kernel"] * norm["scale"].reshape(1, 1, 1, -1)
        return {"kernel": kernel, "bias": norm["bias"]}
    return {
        name: _fold(value, statistics[name]) if name in statistics else value
        for name, value in params.items()
    }


def _place(x: np.ndarray, like) -> jax.Array:
    """On the devices of another array, whole on all."""
    if isinstance(like, jax.Array) and len(like.sharding.device_set) > 1:
        return jax.make_array_from_callback(x.shape, like.sharding, lambda at: x[at])
    return jax.device_put(x)
