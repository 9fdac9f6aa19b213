"""A backbone that does not learn: normalisation folded away, only the taps computed."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
from jax import lax

from jaxad.errors import InputError

Features = Callable[[dict, jax.Array], dict[str, jax.Array]]


def frozen(
    module: nn.Module, variables: dict, taps: Sequence[str]
) -> tuple[Features, dict]:
    """A backbone's inference path, for feature extraction.

    Args:
      module, variables: of `jaxad.models.load`.
      taps: names of the feature maps to give.

    Returns:
      (features, params): `features(params, images [b, H, W, 3] normalised)` gives
      {tap: [b, h, w, c]} for `taps`, equal to the module's in inference mode up to
      rounding. `params` is a pytree of arrays. Under `jit` nothing behind the deepest
      tap is computed.

    Raises:
      InputError: the module has no such tap.
    """
    taps = tuple(taps)

    def features(params, images):
        _, known = module.apply(params, images)
        for tap in taps:
            if tap not in known:
                raise InputError(
                    f"config.backbone.taps: {type(module).__name__} has no tap "
                    f"{tap!r}; it has {', '.join(known)}"
                )
        return {tap: known[tap] for tap in taps}

    return features, fold(module, variables)


def fold(module: nn.Module, variables: dict) -> dict:
    """Variables without batch statistics that `module.apply` gives the same for.

    A normalisation of what a convolution gives becomes part of the convolution,
    W' = W s and b' = b - m s with s = scale / sqrt(var + epsilon); any other becomes
    the map x s + b'. The module computes the same in inference mode, in fewer
    operations, and has no training mode any more.
    """
    epsilon = module.epsilon
    statistics = variables.get("batch_stats", {})
    return {"params": _fold(variables["params"], statistics, epsilon)}


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
