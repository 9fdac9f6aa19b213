"""Where the training loop's batches come from: a table on the devices, or an iterator.

Each has the same few parts: `item`, the shape of one of the `count` items; `draw`, the
batches of the steps of one call, one above the other, and `drawn`, their shapes, which
do not depend on how many items there are. Of items that are shapes alone there is all
but `draw`.
"""

import copy
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.devices import rows as rows_lib
from jaxad.devices import sharding
from jaxad.devices.programs import Program
from jaxad.devices.rows import Sharded
from jaxad.errors import InputError
from jaxad.methods.base import Stage

_LOG = logging.getLogger(__name__)

Batch = dict[str, Any]

# Steps a call, at most, where batches are drawn from a table on the devices, and bytes
# of their batches.
STEPS_A_CALL = 128
_CALL_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class Images:
    """Training images, for a stage whose inputs are images.

    Attributes:
      count: how many there are.
      batches: `start_step -> iterator` over the batches of that step and all later
        ones, dictionaries of numpy arrays; with several processes over this process's
        share of each, where the devices share a batch.
      shape: of an image, (H, W, 3).
    """

    count: int
    batches: Callable[[int], Iterator[Batch]]
    shape: tuple[int, ...]


class Table:
    """Rows of one array, shuffled anew each epoch; the devices have a part of it each.

    Attributes:
      array: what lies on them, rows behind the last one included.
    """

    def __init__(
        self,
        stage: Stage,
        items: np.ndarray | Sharded | jax.ShapeDtypeStruct,
        seed: int,
        mesh: sharding.Mesh | None,
        together: int = 1,
    ):
        abstract = isinstance(items, jax.ShapeDtypeStruct)
        if not abstract and not isinstance(items, Sharded):
            items = items.reshape(-1, items.shape[-1])
        self.count, self.item = len(items), items.shape[1:]
        self._batch_size, self._seed = stage.batch_size, seed
        require_enough(stage, self.count)
        self.mesh, self._shared = mesh, _is_shared(stage, mesh)
        numbers = together * self._batch_size * math.prod(self.item)
        self.steps_a_call = max(1, min(STEPS_A_CALL, _CALL_BYTES // (4 * numbers)))
        if abstract:
            self.array = rows_lib.placed_shape(items, mesh)
            return
        self.array = rows_lib.placed(items, mesh)
        if not _are_finite(self.array):
            raise InputError(
                f"stage {stage.name!r} is given features that are not finite; check "
                "config.backbone.weights and the training images"
            )

    def shuffled(self, seed: int) -> "Table":
        """The same rows in the order of another seed."""
        other = copy.copy(self)
        other._seed = seed
        return other

    def rows(self, start: int, end: int) -> np.ndarray:
        """Row numbers of steps start to end, int32 [steps_a_call, b], padded."""
        rows = np.zeros((self.steps_a_call, self._batch_size), np.int32)
        steps_an_epoch = self.count // self._batch_size
        for i, step in enumerate(range(start, end)):
            epoch, within = divmod(step, steps_an_epoch)
            first = within * self._batch_size
            order = _order(self._seed, epoch, self.count)
            rows[i] = order[first : first + self._batch_size]
        return rows

    def draw(self, start: int, end: int) -> Batch:
        """`patches` [steps_a_call, b, c] and `index` [steps_a_call, b]."""
        return self.batches(self.rows(start, end))

    def batches(self, rows: np.ndarray) -> Batch:
        """The same of these row numbers."""
        return _batches(self.array, rows, self.mesh, self._shared)

    def drawn(self) -> Batch:
        rows = self.steps_a_call, self._batch_size
        shapes = {
            "patches": jax.ShapeDtypeStruct((*rows, *self.item), np.float32),
            "index": jax.ShapeDtypeStruct(rows, np.int32),
        }
        if not self._shared:
            return sharding.shapes_on(shapes, self.mesh)
        return sharding.spread_shapes(shapes, self.mesh, axis=1)

    def programs(self, name: str) -> list[Program]:
        """What `draw` compiles: a program that is this table's own."""
        rows = jax.ShapeDtypeStruct((self.steps_a_call, self._batch_size), np.int32)
        arguments = self.array, rows, self.mesh, self._shared
        return [Program(f"{name}: batches", _batches, arguments)]


class Tables:
    """Several tables, a batch of each; runs that share their items share a table."""

    def __init__(
        self,
        stage: Stage,
        items: Sequence[np.ndarray | Sharded],
        seeds: Sequence[int],
        mesh: sharding.Mesh | None,
    ):
        tables: dict[int, Table] = {}
        for rows, seed in zip(items, seeds, strict=True):
            if id(rows) not in tables:
                tables[id(rows)] = Table(stage, rows, seed, mesh, len(items))
        self.mesh = mesh
        self.tables = [
            tables[id(rows)].shuffled(seed)
            for rows, seed in zip(items, seeds, strict=True)
        ]
        self.steps_a_call = self.tables[0].steps_a_call

    def draw(self, start: int, end: int) -> list[Batch]:
        """Of each."""
        return [table.draw(start, end) for table in self.tables]

    def drawn(self) -> list[Batch]:
        return [table.drawn() for table in self.tables]

    def programs(self, name: str) -> list[Program]:
        return self.tables[0].programs(name)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _batches(table, rows: jax.Array, mesh: sharding.Mesh | None, shared: bool) -> Batch:
    axis = 1 if shared else None
    patches = rows_lib.taken(table, rows, mesh=mesh, axis=axis)
    if shared:
        rows = sharding.keep_spread(rows, mesh, axis=1)
    return {"patches": patches, "index": rows}


class Stream:
    """Batches of images as an iterator gives them, one a call."""

    steps_a_call = 1

    def __init__(
        self, stage: Stage, items: Images, seed: int, mesh: sharding.Mesh | None
    ):
        del seed  # the order of images is the iterator's
        self.count, self.item, self._items = items.count, items.shape, items
        self._iterator, self._at = None, None
        require_enough(stage, self.count)
        self.mesh, self._shared = mesh, _is_shared(stage, mesh)
        self._stage = stage

    def draw(self, start: int, end: int) -> Batch:
        if self._at != start:
            self._iterator = self._items.batches(start)
        self._at = end
        return jax.tree.map(lambda x: self._place(x[None]), next(self._iterator))

    def _place(self, x: np.ndarray):
        if self._shared:
            return sharding.spread(x, self.mesh, axis=1)
        return sharding.replicate(x, self.mesh) if self.mesh else x

    def programs(self, name: str) -> list[Program]:
        """None: the host makes the batches."""
        del name
        return []

    def drawn(self) -> Batch:
        """As `data.train_batches` gives them."""
        rows, size = (1, self._stage.batch_size), self.item[:2]
        shapes = {
            "index": jax.ShapeDtypeStruct(rows, np.int32),
            "label": jax.ShapeDtypeStruct(rows, np.int32),
            "valid": jax.ShapeDtypeStruct(rows, bool),
            "image": jax.ShapeDtypeStruct((*rows, *self.item), np.float32),
            "mask": jax.ShapeDtypeStruct((*rows, *size), np.uint8),
        }
        if self._stage.textures:
            shapes["texture"] = shapes["image"]
        if not self._shared:
            return sharding.shapes_on(shapes, self.mesh)
        return sharding.spread_shapes(shapes, self.mesh, axis=1)


@jax.jit
def _are_finite(table: jax.Array) -> jax.Array:
    return jnp.isfinite(table).all()


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


def _is_shared(stage: Stage, mesh: sharding.Mesh | None) -> bool:
    """Whether the devices share a batch."""
    shared = sharding.divides(mesh, stage.batch_size)
    if mesh and not shared:
        _LOG.warning(
            "stage %r: each of the %d devices works on the whole batch of %d, which "
            "cannot be shared evenly; a multiple of their number is faster",
            stage.name,
            mesh.size,
            stage.batch_size,
        )
    return shared


def require_enough(stage: Stage, count: int, split: str = "the split") -> None:
    """Raises InputError where a stage's batch is larger than what it trains on."""
    if count < stage.batch_size:
        raise InputError(
            f"stage {stage.name!r} trains on batches of {stage.batch_size} and "
            f"{split} has only {count} {stage.inputs}; lower its batch size in "
            "config.method"
        )
