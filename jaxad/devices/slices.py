"""What chips can do: those that are here, and those of TPU slices that need not be.

The compiler is libtpu's, which comes with the extra `tpu`.
"""

import dataclasses
import importlib.util
import os
import time

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from jaxad.devices import sharding
from jaxad.devices.programs import Program
from jaxad.errors import InputError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip can do at most, as its maker says.

    Attributes:
      operations: of bfloat16 products, a second.
      memory: bytes.
      bandwidth: of the memory, bytes a second.
      link: to all other chips together, bytes a second.
    """

    operations: float
    memory: float
    bandwidth: float
    link: float


def here(precision: str) -> Chip:
    """What the devices of this machine do, measured: products at that precision."""
    device = jax.local_devices()[0]
    side = 2048 if device.platform == "cpu" else 8192
    with jax.default_matmul_precision(precision):
        x = jnp.ones((side, side))
        product = _fastest(jax.jit(lambda x: x @ x), x)
    added = _fastest(jax.jit(lambda x: x + 1), jnp.ones(2**26))
    stats = device.memory_stats() or {}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    bandwidth = 8 * 2**26 / added
    return Chip(
        operations=2 * side**3 / product,
        memory=stats.get("bytes_limit", memory),
        bandwidth=bandwidth,
        link=bandwidth,
    )


def _fastest(function, x, repeats: int = 3) -> float:
    """Seconds of a call, the best of some."""
    jax.block_until_ready(function(x))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(x))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


CHIPS = {
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 200e9),
    "v6e": Chip(918e12, 32 * 2**30, 1640e9, 448e9),
}
_GRIDS = {
    **{1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4"},
    **{32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
}
# Of the efforts of compiling. The usual one is 0, at which a WideResNet takes hours.
LEAST = -1.0
NAMES = tuple(f"{chip}-{count}" for chip in CHIPS for count in _GRIDS)
ENVIRONMENT = {  # of libtpu
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def of(name: str) -> tuple[Chip, sharding.Mesh]:
    """The chip of a slice such as "v5e-8", and a mesh of its devices.

    Nothing can run there; `compiled` compiles for it.

    Raises:
      InputError: there is no such slice, or no libtpu.
    """
    if name not in NAMES:
        raise InputError(
            f"--slice={name} is not known{did_you_mean(name, NAMES)}; choose one of "
            f"{', '.join(NAMES)}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"--slice={name} needs libtpu, the compiler of TPUs, which is not here; "
            "install it with pip install 'jaxad[tpu]'"
        )
    # No TPU is looked for, here or on a network, and none is taken from others.
    jax.config.update("jax_platforms", "cpu")
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    chip, _, count = name.partition("-")
    # A host has four chips or eight unless it is told of one.
    bounds = {"chips_per_host_bounds": [1, 1, 1]} if count == "1" else {}
    found = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{chip}:{_GRIDS[int(count)]}", **bounds
    )
    return CHIPS[chip], sharding.make_mesh(found.devices)


def compiled(program: Program, effort: float = LEAST) -> jax.stages.Compiled:
    """A program for the chips of a slice, on which its arguments lie.

    Args:
      effort: that the compiler makes for a fast program, from -1.0 to 1.0. With the
        least, operations and collectives are those of 0, and memory tends to be more.
    """
    options = {"exec_time_optimization_effort": effort}
    return program.lowered("tpu").compile(options)
