"""Compiled programs on disk, so that the next process need not compile them."""

import os

import jax


def use_cache(folder: str) -> None:
    """Keeps compiled programs in a folder; "" changes nothing.

    What the user has chosen for JAX already (JAX_COMPILATION_CACHE_DIR) stays.
    """
    if folder and not jax.config.jax_compilation_cache_dir:
        folder = os.path.expanduser(folder)
        jax.config.update("jax_compilation_cache_dir", folder)
        # A detector's first prediction waits for many small programs.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
