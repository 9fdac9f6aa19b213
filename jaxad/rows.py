"""Matrices of many rows, where they are: on the devices, on the host, in a file.

A `Stack` is a matrix whose parts may lie in different places. Of its parts a
`BlockCyclic` stays on the devices that computed it, and a numpy array on the host or in
the file it is mapped from. `Placed` brings all of them before the devices.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxad import sharding
from jaxad.sharding import REPLICATED as SAME
from jaxad.sharding import ROWS

_TAKE = 1024  # rows that come from the devices at a time
_MAP = 8192  # rows that a map works on at a time, wherever they lie


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which place on the devices each row of a matrix has.

    Blocks of rows are dealt to the devices in turn, as batches leave them: the
    block-cyclic distribution. In a single turn every device has consecutive rows.
    Places are numbered device by device.

    Attributes:
      count: rows of the matrix.
      block: rows that a device gets in a turn.
      devices: how many there are.
    """

    count: int
    block: int
    devices: int

    @classmethod
    def even(cls, count: int, devices: int) -> "Layout":
        """Consecutive rows on every device, as `sharding.split_rows` lays them."""
        return cls(count, -(-count // devices), devices)

    @property
    def height(self) -> int:
        """Places on a device; some of the last turn stay empty."""
        turns, rest = divmod(self.count, self.block * self.devices)
        return turns * self.block + min(rest, self.block)

    def places(self, index):
        """Of rows by their index; an array of numpy or of JAX."""
        block, within = index // self.block, index % self.block
        turn, device = block // self.devices, block % self.devices
        return device * self.height + turn * self.block + within

    def index(self, places):
        """Of the rows at these places; `count` or more at one that is empty."""
        device, at = places // self.height, places % self.height
        turn, within = at // self.block, at % self.block
        return (turn * self.devices + device) * self.block + within


class BlockCyclic:
    """A float32 matrix that stays on the devices which compute it, batch by batch.

    Args:
      shape: (n, d).
      block: rows that each device has of a batch.
      mesh: the devices; None for the default one.

    Attributes:
      shape, mesh: as given.
      layout: where the rows lie.
      array: [devices * layout.height, d], spread over the mesh; zero where nothing has
        been written.
    """

    def __init__(self, shape: tuple[int, int], block: int, mesh: Mesh | None):
        self.shape, self.mesh = shape, mesh
        self.layout = Layout(shape[0], block, mesh.size if mesh else 1)
        places = self.layout.devices * self.layout.height, shape[1]
        self.array = _zeros(places, mesh)

    @classmethod
    def of(cls, x: jax.Array) -> "BlockCyclic":
        """An array that is on the devices already: spread over a mesh, or on one."""
        self = cls.__new__(cls)
        self.shape, self.mesh, self.array = x.shape, sharding.mesh_of(x), x
        self.layout = Layout.even(len(x), self.mesh.size if self.mesh else 1)
        return self

    def __len__(self) -> int:
        return self.shape[0]

    def write(self, turn: int, batch: jax.Array) -> None:
        """Keeps a batch, [devices * block, d] in any shape, where it is.

        Its rows are those from `turn * devices * block` on; what the last batch has
        beyond the matrix is dropped.
        """
        first = turn * self.layout.block
        height = min(self.layout.block, self.layout.height - first)
        self.array = _write(self.array, batch, first, height=height, mesh=self.mesh)

    def put(self, first: int, rows: np.ndarray) -> None:
        """Writes rows [m, d] of the host, which every process has, from `first` on."""
        for at in range(0, len(rows), _TAKE):
            part = rows[at : at + _TAKE]
            places = np.full(_TAKE, self.layout.devices * self.layout.height, np.int32)
            places[: len(part)] = self.layout.places(
                np.arange(first + at, first + at + len(part))
            )
            part = np.pad(part, ((0, _TAKE - len(part)), (0, 0)))
            self.array = _put(self.array, part, places, mesh=self.mesh)

    def take(self, index: np.ndarray) -> np.ndarray:
        """Rows by their index, on the host of every process."""
        places = self.layout.places(np.asarray(index, np.int64)).astype(np.int32)
        out = np.empty((len(index), self.shape[1]), np.float32)
        for at in range(0, len(index), _TAKE):
            part = places[at : at + _TAKE]
            padded = np.pad(part, (0, _TAKE - len(part)))
            taken = np.asarray(_take(self.array, padded, mesh=self.mesh))
            out[at : at + len(part)] = taken[: len(part)]
        return out

    def map(self, function: Callable, operand) -> "BlockCyclic":
        """As `Stack.map`; every device works on its own rows."""
        width = _width(function, operand, self.shape[1])
        out = BlockCyclic((len(self), width), self.layout.block, self.mesh)
        for at in range(0, self.layout.height, _MAP):
            out.array = _map(
                out.array, self.array, at, operand, function=function, mesh=self.mesh
            )
        return out


class Stack:
    """A float32 matrix in parts, one above the other, each where it is.

    Attributes:
      parts: each a numpy array [n_i, d], or `BlockCyclic`.
      shape: (sum n_i, d).
    """

    def __init__(self, parts: Sequence[np.ndarray | jax.Array | BlockCyclic]):
        self.parts = [
            BlockCyclic.of(part) if isinstance(part, jax.Array) else part
            for part in parts
        ]
        self.shape = sum(map(len, self.parts)), self.parts[0].shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def mesh(self) -> Mesh | None:
        """Of what is on devices already; None where all is on the host."""
        for part in self.parts:
            if isinstance(part, BlockCyclic):
                return part.mesh or sharding.make_mesh(list(part.array.devices())[:1])
        return None

    def take(self, index) -> np.ndarray:
        """Rows by their index, on the host of every process."""
        index, first = np.asarray(index), 0
        out = np.empty((len(index), self.shape[1]), np.float32)
        for part in self.parts:
            mine = (first <= index) & (index < first + len(part))
            if mine.any():
                out[mine] = _rows_of(part, index[mine] - first)
            first += len(part)
        return out

    def map(self, function: Callable, operand) -> "Stack":
        """The matrix of `function(operand, rows [m, d]) -> [m, e]`, in parts as here.

        It is given blocks of one size, filled up, so that no bit of a row depends on
        where the row lies.
        """
        return Stack([_mapped(part, function, operand) for part in self.parts])

    def on_host(self) -> "Stack":
        """The same with no part on a device."""
        return Stack(
            [
                part if isinstance(part, np.ndarray) else part.take(range(len(part)))
                for part in self.parts
            ]
        )


def _rows_of(part, index: np.ndarray) -> np.ndarray:
    return part[index] if isinstance(part, np.ndarray) else part.take(index)


def _mapped(part, function: Callable, operand):
    if isinstance(part, BlockCyclic):
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


class Span(NamedTuple):
    """Rows of a matrix that the devices have before them at one time.

    Attributes:
      first: index of the first of them in the matrix.
      count: how many they are; places whose index is beyond are empty.
      layout: where they lie.
    """

    first: int
    count: int
    layout: Layout


class Placed:
    """The rows of a matrix on the devices, all at once or passing through in parts.

    Args:
      matrix: what is on the devices of the mesh already stays where it is.
      mesh: over which the rows are spread.
      length: rows of a part that passes through; the last one is filled up with zeros.
        None if all are to stay.

    Attributes:
      mesh: as given.
      spans: of every part.
    """

    def __init__(self, matrix: Stack, mesh: Mesh, length: int | None = None):
        self.mesh, self._matrix = mesh, matrix
        self.spans: list[Span] = []
        self._resident = None
        if length is None:
            parts = [_placed(part, mesh) for part in matrix.parts]
            self._resident = [array for array, _ in parts]
            layouts, first = [layout for _, layout in parts], 0
            for part, layout in zip(matrix.parts, layouts, strict=True):
                self.spans.append(Span(first, len(part), layout))
                first += len(part)
            return
        self._sources, first = [], 0
        for part in matrix.on_host().parts:
            for at in range(0, len(part), length):
                source = part[at : at + length]
                layout = Layout.even(length, mesh.size)
                self.spans.append(Span(first + at, len(source), layout))
                self._sources.append(source)
            first += len(part)

    def map(self, function: Callable[[Span, jax.Array], Any]) -> list[Any]:
        """[function(span, rows) for every part].

        While one part is worked on the next one is on its way, and no third is held.
        """
        if self._resident is not None:
            return list(map(function, self.spans, self._resident))
        results, following = [], self._place(0)
        for i, span in enumerate(self.spans):
            rows, following = following, None
            if i + 1 < len(self.spans):
                following = self._place(i + 1)
            results.append(jax.block_until_ready(function(span, rows)))
        return results

    def _place(self, i: int) -> jax.Array:
        source, layout = self._sources[i], self.spans[i].layout
        missing = layout.count - len(source)
        if missing:
            source = np.pad(source, ((0, missing), (0, 0)))
        return sharding.split_rows(source, self.mesh)

    def take(self, index: np.ndarray) -> np.ndarray:
        """Rows by their index, on the host of every process."""
        return self._matrix.take(index)


def _placed(part, mesh: Mesh) -> tuple[jax.Array, Layout]:
    """A part on the devices of the mesh, and where its rows lie there."""
    if isinstance(part, BlockCyclic):
        if part.mesh == mesh:
            return part.array, part.layout
        # On one device the rows are in order.
        alone = part.layout.devices == 1
        part = part.array if alone else part.take(range(len(part)))
    return sharding.split_rows(part, mesh), Layout.even(len(part), mesh.size)


# ---- Programs, one a device


def _program(local, mesh: Mesh | None, in_specs, out_specs):
    return sharding.per_device(local, mesh, in_specs, out_specs) if mesh else local


def _zeros(shape: tuple[int, int], mesh: Mesh | None) -> jax.Array:
    zeros = functools.partial(jnp.zeros, shape, jnp.float32)
    return jax.jit(zeros, out_shardings=sharding.by_rows(mesh))()


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


@functools.partial(jax.jit, static_argnames="mesh")
def _take(array, places, *, mesh: Mesh | None):
    def local(array, places):
        at = _here(places, len(array), mesh)
        rows = array.at[at].get(mode="fill", fill_value=0)
        if mesh is None:
            return rows
        # As integers, whose sum with zeros keeps every bit.
        bits = jax.lax.bitcast_convert_type(rows, jnp.int32)
        bits = jax.lax.psum(bits, sharding.AXIS)
        return jax.lax.bitcast_convert_type(bits, jnp.float32)

    return _program(local, mesh, (ROWS, SAME), SAME)(array, places)


def _here(places, height: int, mesh: Mesh | None):
    """Places among this device's, and `height` for those elsewhere."""
    first = jax.lax.axis_index(sharding.AXIS) * height if mesh else 0
    here = (first <= places) & (places < first + height)
    return jnp.where(here, places - first, height)


@functools.partial(jax.jit, static_argnames=("function", "mesh"), donate_argnums=0)
def _map(out, array, at, operand, *, function: Callable, mesh: Mesh | None):
    def local(out, array, at, operand):
        # The last block overlaps the one before; what both find is the same.
        height = min(_MAP, len(array))
        at = jnp.minimum(at, len(array) - height)
        rows = jax.lax.dynamic_slice_in_dim(array, at, height)
        rows = jnp.pad(rows, ((0, _MAP - height), (0, 0)))
        mapped = function(operand, rows)[:height]
        return jax.lax.dynamic_update_slice_in_dim(out, mapped, at, 0)

    specs = ROWS, ROWS, SAME, SAME
    return _program(local, mesh, specs, ROWS)(out, array, at, operand)


@functools.partial(jax.jit, static_argnames="function")
def _apply(operand, rows, *, function: Callable):
    return function(operand, rows)
