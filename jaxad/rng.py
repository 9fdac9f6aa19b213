"""Randomness as a function of (seed, name, step): nothing random is ever stored.

Example:
  key = rng.stream(config.seed, "views")
  step_key = rng.at(key, step)
"""

import zlib

import jax


def stream(seed: int, name: str) -> jax.Array:
    """The key of a named stream: `fold_in(key(seed), crc32(name))`."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def at(key: jax.Array, step) -> jax.Array:
    """The key of one step of a stream; `step` may be traced."""
    return jax.random.fold_in(key, step)


def per_example(key: jax.Array, indices: jax.Array) -> jax.Array:
    """One key an example, [n] from int indices [n].

    The key depends on the example's index alone, so an example is augmented the same
    way wherever in a batch, and on whichever device, it lies.
    """
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
