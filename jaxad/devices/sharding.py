"""Where arrays lie: the mesh, shardings, host to device. Nothing else knows.

One axis, `data`: rows of features, of a memory bank or of a batch are spread over it,
everything else is the same on all devices.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
ROWS = PartitionSpec(AXIS)
REPLICATED = PartitionSpec()


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices, of all processes, or over the given ones."""
    if devices is None:
        # The shares of a process lie side by side.
        devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def mesh_of(x) -> Mesh | None:
    """The mesh over which the rows of x are spread; None if they are not."""
    if isinstance(x, jax.core.Tracer):
        return None
    found = getattr(x, "sharding", None)
    if isinstance(found, NamedSharding) and found.spec and found.spec[0] == AXIS:
        return found.mesh
    return None


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of what is the same on all devices; None on the default device."""
    return NamedSharding(mesh, REPLICATED) if mesh else None


def by_rows(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of rows spread over all devices; None on the default device."""
    return NamedSharding(mesh, ROWS) if mesh else None


def shapes_on(shapes, mesh: Mesh | None):
    """`jax.ShapeDtypeStruct`s of arrays that lie whole on all devices, or on one."""
    place = everywhere(mesh) or jax.sharding.SingleDeviceSharding(
        jax.local_devices()[0]
    )
    return _shapes_at(shapes, place)


def spread_shapes(shapes, mesh: Mesh | None, axis: int = 0):
    """The same of arrays that are spread over the devices along an axis."""
    if mesh is None:
        return shapes_on(shapes, mesh)
    return _shapes_at(shapes, NamedSharding(mesh, along(axis)))


def _shapes_at(shapes, place):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes
    )


def divides(mesh: Mesh | None, count: int) -> bool:
    """Whether so many rows can be spread evenly over several devices."""
    return mesh is not None and count % mesh.size == 0


def spread(x: np.ndarray, mesh: Mesh, axis: int = 0) -> jax.Array:
    """The whole of an array of which each process gives its share along the axis."""
    sharding = NamedSharding(mesh, along(axis))
    return jax.make_array_from_process_local_data(sharding, np.asarray(x))


def share_of(x: np.ndarray) -> np.ndarray:
    """The rows of an array, the same on all hosts, that this process gives."""
    rows = len(x) // jax.process_count()
    return x[jax.process_index() * rows :][:rows]


def keep_spread(x: jax.Array, mesh: Mesh, axis: int = 0) -> jax.Array:
    """Inside `jit`: x, computed where its part along the axis belongs."""
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, along(axis)))


def along(axis: int) -> PartitionSpec:
    """Of what is spread over the devices along an axis."""
    return PartitionSpec(*(None,) * axis, AXIS)


def fetch(x) -> np.ndarray:
    """The whole of x on the host of every process, wherever it lies."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        x = _everywhere(x, x.sharding.mesh)
    return np.asarray(x)


def fetch_share(x) -> np.ndarray:
    """The rows of x that lie on this process's devices, in order."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        x = _spread(x, x.sharding.mesh)
        shards = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])
    return np.asarray(x)


@functools.partial(jax.jit, static_argnums=1)
def _everywhere(x: jax.Array, mesh: Mesh) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, REPLICATED))


@functools.partial(jax.jit, static_argnums=1)
def _spread(x: jax.Array, mesh: Mesh) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, ROWS))


def replicate(x, mesh: Mesh | None) -> jax.Array:
    """x on every device, or on the default one; each process gives the whole of it."""
    if mesh is None:
        return jnp.asarray(x)
    if isinstance(x, jax.Array):
        return jax.device_put(x, NamedSharding(mesh, REPLICATED))
    x = np.asarray(x)
    return jax.make_array_from_callback(
        x.shape, NamedSharding(mesh, REPLICATED), lambda index: x[index]
    )


def split_rows(x, mesh: Mesh) -> jax.Array:
    """The rows of x [n, ...] spread in order, filled up with zeros to a common length.

    An array of the host is read slice by slice, and only where a device of this
    process needs it, so it may be mapped from a file.
    """
    n, length = x.shape[0], -(-x.shape[0] // mesh.size) * mesh.size
    sharding = NamedSharding(mesh, ROWS)
    if isinstance(x, jax.Array):
        if length > n:
            x = jnp.pad(x, ((0, length - n),) + ((0, 0),) * (x.ndim - 1))
        return jax.device_put(x, sharding)

    def part(index):
        start, stop, _ = index[0].indices(length)
        if stop <= n:
            return x[start:stop]  # and not a copy of it
        rows = np.zeros((stop - start, *x.shape[1:]), x.dtype)
        rows[: max(n - start, 0)] = x[start : min(stop, n)]
        return rows

    return jax.make_array_from_callback((length, *x.shape[1:]), sharding, part)


def per_device(function: Callable, mesh: Mesh, in_specs, out_specs) -> Callable:
    """One program a device; that a replicated result is one is not verified."""
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def gather(x: jax.Array, axis: int = 0) -> jax.Array:
    """Inside `per_device`: every device's x, side by side along the axis."""
    return jax.lax.all_gather(x, AXIS, axis=axis, tiled=True)


def summed(x: jax.Array, axis: int | None = None) -> jax.Array:
    """Inside `per_device`: the sum of every device's x; with an axis a device's part of
    it along that."""
    if axis is None:
        return jax.lax.psum(x, AXIS)
    return jax.lax.psum_scatter(x, AXIS, scatter_dimension=axis, tiled=True)


def fast_bfloat16(mesh: Mesh | None = None) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 here.

    Not where float32 is asked for by `jax.default_matmul_precision("highest")`: what is
    traced then may be for other devices than these.
    """
    if jax.config.jax_default_matmul_precision == "highest":
        return False
    devices = jax.devices() if mesh is None else mesh.devices.flat
    return devices[0].platform != "cpu" or _cpu_has_bfloat16()


@functools.cache
def _cpu_has_bfloat16() -> bool:
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
        return "amx_bf16" in flags or "avx512_bf16" in flags
    except OSError:
        return False
