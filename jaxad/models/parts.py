"""Parts of a backbone: a bool for each of its weights, whether it belongs to one."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import export


def normalisations(params: dict) -> dict:
    """Scales and shifts: the weights of modules that have a `scale`.

    Args:
      params: of a backbone, arrays or shapes.
    """

    def of(tree):
        return {
            name: of(x) if isinstance(x, dict) else "scale" in tree
            for name, x in tree.items()
        }

    return of(params)


def between(
    module: nn.Module,
    variables: dict,
    item: tuple[int, ...],
    taps: Sequence[str],
    levels: Sequence[str],
) -> dict:
    """What makes feature maps, without what any level before all of them is made by.

    Args:
      module: `module.apply(variables, images)` gives `(logits, {name: map})`.
      variables: arrays, or shapes of them.
      item: (H, W, 3) of an image.
      taps: names of the maps.
      levels: names of those that may lie before.
    """
    leaves, tree = jax.tree.flatten(variables["params"])
    others = {name: x for name, x in variables.items() if name != "params"}

    def makes(name: str) -> set[int]:
        """The weights that a map depends on, by their place in the tree."""

        def run(params, others):
            images = jnp.zeros((1, *item))
            return module.apply({"params": params} | others, images)[1][name]

        kept = export.export(jax.jit(run))(variables["params"], others)
        return {i for i in kept.module_kept_var_idx if i < len(leaves)}

    made = [makes(tap) for tap in taps]
    before = [found for found in map(makes, levels) if found < min(made, key=len)]
    part = set().union(*made).difference(*before)
    return jax.tree.unflatten(tree, [i in part for i in range(len(leaves))])
