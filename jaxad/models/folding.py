"""A backbone that does not learn: normalisation folded away, only the taps computed."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
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
    """
    params, statistics = variables.get("params", {}), variables.get("batch_stats", {})
    return {
        "params": _fold(params, statistics, module.epsilon) if statistics else params
    }


def _fold(params, statistics, epsilon):
    if "mean" in statistics:
        scale = params["scale"] * lax.rsqrt(statistics["var"] + epsilon)
        return {"scale": scale, "bias": params["bias"] - statistics["mean"] * scale}
    if "norm" in statistics and "kernel" in params:
        norm = _fold(params["norm"], statistics["norm"], epsilon)
        kernel = params["kernel"] * norm["scale"].reshape(1, 1, 1, -1)
        return {"kernel": kernel, "bias": norm["bias"]}
    return {
        name: _fold(value, statistics[name], epsilon) if name in statistics else value
        for name, value in params.items()
    }
