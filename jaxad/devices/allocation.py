"""How a process keeps memory that its arrays no longer need."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

# Parameters of mallopt, as malloc.h of glibc has them.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
# Packages by which JAX has a device other than the CPU.
_PLUGINS = ("libtpu", "jax_plugins")


def keep_freed() -> bool:
    """Keeps freed memory for the arrays to come, until the process ends.

    XLA asks for a program's temporaries anew at every call. The malloc of glibc hands
    such blocks back to the system, which clears each of their pages when it is next
    touched: up to a third of a training step on CPUs. From here on all blocks lie in
    one heap that is never trimmed, so a process stays as large as it once was.

    To be called before other threads ask for memory. Settings of malloc that the
    environment has (MALLOC_*, GLIBC_TUNABLES) stay. Nothing changes without glibc, and
    where JAX has a plug-in for an accelerator, whether it is used or not, whose arrays
    lie elsewhere: one heap is one lock.

    Returns:
      Whether freed memory is kept.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    chosen |= "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    elsewhere = any(importlib.util.find_spec(name) for name in _PLUGINS)
    elsewhere |= bool(importlib.metadata.entry_points(group="jax_plugins"))
    if chosen or elsewhere or platform.libc_ver()[0] != "glibc":
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(*setting) == 1 for setting in settings])
