"""Matrices of many rows, where they are: on the devices, on the host, in a file.

A `Stack` is a matrix whose parts may lie in different places. Of its parts a `Sharded`
one stays on the devices that computed it, and a numpy array on the host or in the file
it is mapped from. `Placed` brings all of them before the devices.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxad.devices import sharding
from jaxad.devices.programs import Program
from jaxad.devices.sharding import REPLICATED as SAME
from jaxad.devices.sharding import ROWS

_TAKE = 1024  # rows that come from the devices at a time
_MAP = 8192  # rows that a map works on at a time, wherever they lie


class Sharded:
    """A float32 matrix that stays on the devices which compute it.

    Every device has `height` consecutive rows; those beyond the matrix, at the end,
    count for nothing.

    Args:
      shape: (n, d).
      mesh: the devices; None for the default one.
      height: rows a device.

    Attributes:
      shape, mesh, height: as given.
      array: [devices * height, d], spread over the mesh.
    """

    def __init__(self, shape: tuple[int, int], mesh: Mesh | None, height: int):
        self.shape, self.mesh, self.height = shape, mesh, height
        size = (mesh.size if mesh else 1) * height, shape[1]
        self.array = jnp.zeros(size, jnp.float32, device=sharding.by_rows(mesh))

    @classmethod
    def of(cls, x: jax.Array) -> "Sharded":
        """An array that is on the devices already: spread over a mesh, or whole."""
        self = cls.__new__(cls)
        self.shape, self.mesh, self.array = x.shape, sharding.mesh_of(x), x
        self.height = len(x) // (self.mesh.size if self.mesh else 1)
        return self

    def __len__(self) -> int:
        return self.shape[0]

    def write(self, first: int, batch: jax.Array) -> None:
        """Keeps what every device has of a batch as its rows from its `first`-th on.

        Args:
          first: the same for all devices.
          batch: [devices * rows, d] in any shape, spread over the mesh; of a device's
            rows those beyond its `height` are dropped.
        """
        own = batch.size // self.shape[1] // (len(self.array) // self.height)
        height = min(own, self.height - first)
        self.array = _write(self.array, batch, first, height=height, mesh=self.mesh)

    def put(self, index: np.ndarray, rows: np.ndarray) -> None:
        """Writes rows [m, d] of the host, which every process has, at their index."""
        for at in range(0, len(rows), _TAKE):
            part, places = rows[at : at + _TAKE], index[at : at + _TAKE]
            missing, nowhere = _TAKE - len(part), len(self.array)
            part = np.pad(part, ((0, missing), (0, 0)))
            places = np.pad(places, (0, missing), constant_values=nowhere)
            self.array = _put(self.array, part, places.astype(np.int32), mesh=self.mesh)

    def take(self, index: np.ndarray) -> np.ndarray:
        """Rows by their index, on the host of every process."""
        out = np.empty((len(index), self.shape[1]), np.float32)
        for at in range(0, len(index), _TAKE):
            places = np.asarray(index[at : at + _TAKE], np.int32)
            padded = np.pad(places, (0, _TAKE - len(places)))
            found = np.asarray(_take(self.array, padded, mesh=self.mesh))
            out[at : at + len(places)] = found[: len(places)]
        return out

    def map(self, function: Callable, operand) -> "Sharded":
        """As `Stack.map`; every device works on its own rows."""
        width = _width(function, operand, self.shape[1])
        out = Sharded((len(self), width), self.mesh, self.height)
        for at in range(0, self.height, _MAP):
            out.array = _map(
                out.array, self.array, at, operand, len(self), function, self.mesh
            )
        return out


Part = np.ndarray | Sharded


class Stack:
    """A float32 matrix in parts, one above the other, each where it is.

    Args:
      parts: numpy arrays [n_i, d], arrays of JAX, `Sharded` ones, or stacks of them.

    Attributes:
      parts: numpy arrays and `Sharded` ones, none empty.
      shape: (sum n_i, d).
    """

    def __init__(self, parts: "Sequence[Part | jax.Array | Stack]"):
        self.shape = sum(map(len, parts)), parts[0].shape[1]
        self.parts: list[Part] = []
        for part in parts:
            if isinstance(part, Stack):
                self.parts += part.parts
            elif len(part):
                on_device = isinstance(part, jax.Array)
                self.parts.append(Sharded.of(part) if on_device else part)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def mesh(self) -> Mesh | None:
        """Of what is on devices already; None where all is on the host."""
        for part in self.parts:
            if isinstance(part, Sharded):
                return part.mesh or sharding.make_mesh(list(part.array.devices())[:1])
        return None

    def height(self, mesh: Mesh) -> int:
        """Rows that each device of the mesh has, when all are there."""
        return sum(
            part.height
            if isinstance(part, Sharded) and part.mesh == mesh
            else -(-len(part) // mesh.size)
            for part in self.parts
        )

    def take(self, index) -> np.ndarray:
        """Rows by their index, on the host of every process."""
        index, first = np.asarray(index), 0
        if index.size and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"{index} is not within {len(self)} rows")
        out = np.empty((len(index), self.shape[1]), np.float32)
        for part in self.parts:
            mine = (first <= index) & (index < first + len(part))
            if mine.any():
                own = index[mine] - first
                on_host = isinstance(part, np.ndarray)
                out[mine] = part[own] if on_host else part.take(own)
            first += len(part)
        return out

    def map(self, function: Callable, operand) -> "Stack":
        """The matrix of `function(operand, rows [m, d]) -> [m, e]`, in parts as here.

        It is given blocks of one size, filled up, so that a row's result does not
        depend on where the row lies.
        """
        return Stack([_mapped(part, function, operand) for part in self.parts])

    def on_host(self) -> list[np.ndarray]:
        """The parts, with none on a device."""
        return [_on_host(part) for part in self.parts]


def _on_host(part: Part) -> np.ndarray:
    return part if isinstance(part, np.ndarray) else part.take(np.arange(len(part)))


def _mapped(part: Part, function: Callable, operand) -> Part:
    if isinstance(part, Sharded):
        return part.map(function, operand)
    out = np.empty((len(part), _width(function, operand, part.shape[1])), np.float32)
    for first in range(0, len(part), _MAP):
        rows = part[first : first + _MAP]
        padded = np.pad(rows, ((0, _MAP - len(rows)), (0, 0)))
        mapped = np.asarray(_apply(operand, padded, function=function))
        out[first : first + len(rows)] = mapped[: len(rows)]
    return out


def _width(function: Callable, operand, d: int) -> int:
    rows = jax.ShapeDtypeStruct((_MAP, d), np.float32)
    return jax.eval_shape(function, operand, rows).shape[1]


class Placed:
    """The rows of a matrix on the devices, all at once or passing through in parts.

    Args:
      matrix: what is on the devices of the mesh already stays where it is.
      mesh: over which the rows are spread.
      length: rows of a part that passes through, whatever the matrix's parts are; the
        last one is filled up with zeros. None if all are to stay.

    Attributes:
      mesh: as given.
      spans: (index of the first row, number of rows, the same with those filled up) of
        every part.
    """

    def __init__(self, matrix: Stack, mesh: Mesh, length: int | None = None):
        self.mesh, self._matrix, self._resident = mesh, matrix, None
        if length is None:
            self._resident = [placed(part, mesh) for part in matrix.parts]
            counts = [len(part) for part in matrix.parts]
            sizes = [len(rows) for rows in self._resident]
        else:
            self._sources = list(_pieces(matrix.on_host(), length))
            counts = [sum(map(len, pieces)) for pieces in self._sources]
            sizes = [length + -length % mesh.size] * len(counts)
        firsts = np.cumsum([0, *counts[:-1]]).tolist()
        self.spans = list(zip(firsts, counts, sizes, strict=True))

    def map(self, function: Callable[[int, int, jax.Array], Any]) -> list[Any]:
        """[function(first row, number of rows, rows) for every part].

        While one part is worked on the next one is on its way, and no third is held.
        """
        if self._resident is not None:
            return [
                function(first, count, rows)
                for (first, count, _), rows in zip(
                    self.spans, self._resident, strict=True
                )
            ]
        results, following = [], self._place(0)
        for i, (first, count, _) in enumerate(self.spans):
            rows, following = following, None
            if i + 1 < len(self.spans):
                following = self._place(i + 1)
            results.append(jax.block_until_ready(function(first, count, rows)))
        return results

    def _place(self, i: int) -> jax.Array:
        pieces, (_, count, size) = self._sources[i], self.spans[i]
        rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        if count < size:
            rows = np.pad(rows, ((0, size - count), (0, 0)))
        return sharding.split_rows(rows, self.mesh)

    def take(self, index: np.ndarray) -> np.ndarray:
        """Rows by their index, on the host of every process."""
        return self._matrix.take(index)


def placed(part: Part, mesh: Mesh | None) -> jax.Array:
    """A part on the devices of the mesh, or on one, its rows in order; more behind the
    last one count for nothing."""
    if isinstance(part, Sharded):
        if part.mesh == mesh:
            return part.array
        part = _on_host(part) if part.mesh else part.array
    return sharding.split_rows(part, mesh) if mesh else jnp.asarray(part)


def placed_shape(part: jax.ShapeDtypeStruct, mesh: Mesh | None):
    """What `placed` gives, as a shape."""
    n = len(part) + (-len(part) % mesh.size if mesh else 0)
    shape = jax.ShapeDtypeStruct((n, *part.shape[1:]), part.dtype)
    return sharding.spread_shapes(shape, mesh)


def _pieces(parts: Sequence[np.ndarray], length: int) -> Iterator[list[np.ndarray]]:
    """Lists of arrays that hold `length` rows together, the last one what is left."""
    pieces, missing = [], length
    for part in parts:
        while len(part):
            pieces.append(part[:missing])
            missing, part = missing - len(pieces[-1]), part[missing:]
            if not missing:
                yield pieces
                pieces, missing = [], length
    if pieces:
        yield pieces


# ---- Programs, one a device


def _program(local, mesh: Mesh | None, in_specs, out_specs):
    return sharding.per_device(local, mesh, in_specs, out_specs) if mesh else local


@functools.partial(jax.jit, static_argnames=("height", "mesh"), donate_argnums=0)
def _write(array, batch, first, *, height: int, mesh: Mesh | None):
    def local(array, batch, first):
        rows = batch.reshape(-1, array.shape[1])[:height]
        return jax.lax.dynamic_update_slice_in_dim(array, rows, first, 0)

    return _program(local, mesh, (ROWS, ROWS, SAME), ROWS)(array, batch, first)


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _put(array, rows, places, *, mesh: Mesh | None):
    def local(array, rows, places):
        at = _here(places, len(array), mesh)
        return array.at[at].set(rows, mode="drop")

    return _program(local, mesh, (ROWS, SAME, SAME), ROWS)(array, rows, places)


def taken(array, places, *, mesh: Mesh | None, axis: int | None = None) -> jax.Array:
    """Inside `jit`: rows of an array that `placed` gives, by their places [...].

    Returns:
      [..., d], whole on every device, or spread over them along an axis of `places`.
    """

    def local(array, places):
        at = _here(places, len(array), mesh)
        rows = array.at[at].get(mode="fill", fill_value=0)
        if mesh is None:
            return rows
        # As integers, whose sum with zeros keeps every bit.
        bits = jax.lax.bitcast_convert_type(rows, jnp.int32)
        bits = sharding.summed(bits, axis)
        return jax.lax.bitcast_convert_type(bits, jnp.float32)

    out = SAME if axis is None else sharding.along(axis)
    return _program(local, mesh, (ROWS, SAME), out)(array, places)


_take = jax.jit(taken, static_argnames="mesh")


def _here(places, height: int, mesh: Mesh | None):
    """Places among this device's, and `height` for those elsewhere."""
    first = jax.lax.axis_index(sharding.AXIS) * height if mesh else 0
    here = (first <= places) & (places < first + height)
    return jnp.where(here, places - first, height)


@functools.partial(jax.jit, static_argnums=(5, 6), donate_argnums=0)
def _map(out, array, at, operand, count, function: Callable, mesh: Mesh | None):
    def local(out, array, at, operand, count):
        # The last block overlaps the one before; what both find is the same.
        height = min(_MAP, len(array))
        at = jnp.minimum(at, len(array) - height)
        rows = jax.lax.dynamic_slice_in_dim(array, at, height)
        rows = jnp.pad(rows, ((0, _MAP - height), (0, 0)))
        mapped = function(operand, rows)[:height]
        # Beyond the matrix the function may not even be finite.
        first = jax.lax.axis_index(sharding.AXIS) * len(array) if mesh else 0
        there = first + at + jnp.arange(height) < count
        mapped = jnp.where(there[:, None], mapped, 0)
        return jax.lax.dynamic_update_slice_in_dim(out, mapped, at, 0)

    specs = ROWS, ROWS, SAME, SAME, SAME
    return _program(local, mesh, specs, ROWS)(out, array, at, operand, count)


@functools.partial(jax.jit, static_argnames="function")
def _apply(operand, rows, *, function: Callable):
    return function(operand, rows)


# ---- From shapes alone


def map_program(
    name: str, function: Callable, operand, shape: tuple[int, int], mesh: Mesh | None
) -> Program:
    """What `Sharded.map` compiles for a matrix of that shape."""
    devices = mesh.size if mesh else 1
    rows = shape[0] + -shape[0] % devices
    width = _width(function, operand, shape[1])
    out, array = (
        sharding.spread_shapes(jax.ShapeDtypeStruct((rows, d), np.float32), mesh)
        for d in (width, shape[1])
    )
    number = jax.ShapeDtypeStruct((), np.int32, weak_type=True)
    arguments = out, array, number, operand, number, function, mesh
    return Program(name, _map, arguments, calls=-(-rows // devices // _MAP))
