"""Where the training loop's batches come from: a table on the device, or an iterator.

Each has the same few parts: `item`, the shape of one of the `count` items; `table`,
what lies on the device; `draw`, on the host, what the steps of one call need, and
`drawn`, its shapes; `batch`, inside `jit`, a step's batch from both, which knows no
data, and is equal where it does the same. Of items that are shapes alone there is all
but `draw`.
"""

import copy
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.devices import sharding
from jaxad.devices.rows import Sharded
from jaxad.errors import InputError
from jaxad.methods.base import Stage

_LOG = logging.getLogger(__name__)

Batch = dict[str, Any]

# Steps a call, at most, where batches are drawn from a table on the device.
STEPS_A_CALL = 128


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


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Rows of a table, or of several."""

    mesh: sharding.Mesh | None
    shared: bool

    def __call__(self, table: jax.Array | list[jax.Array], rows: jax.Array) -> Batch:
        several = isinstance(table, list)
        if self.shared:
            rows = sharding.keep_spread(rows, self.mesh, axis=int(several))
        if not several:
            return {"patches": table[rows], "index": rows}
        patches = jnp.stack([t[r] for t, r in zip(table, rows, strict=True)])
        return {"patches": patches, "index": rows}


def _whole(table: None, drawn: Batch) -> Batch:
    """What an iterator has given."""
    del table
    return drawn


class Table:
    """Rows of one array that lies whole on every device, shuffled anew each epoch."""

    steps_a_call = STEPS_A_CALL

    def __init__(
        self,
        stage: Stage,
        items: np.ndarray | Sharded | jax.ShapeDtypeStruct,
        seed: int,
        mesh: sharding.Mesh | None,
    ):
        abstract = isinstance(items, jax.ShapeDtypeStruct)
        if abstract:
            self.count, rows = len(items), items
        elif isinstance(items, Sharded):
            self.count, rows = len(items), items.array  # and some behind the last
        else:
            rows = items.reshape(-1, items.shape[-1])
            self.count = len(rows)
        self.item = rows.shape[1:]
        self._batch_size, self._seed = stage.batch_size, seed
        require_enough(stage, self.count)
        self.mesh, self.batch = mesh, _Rows(mesh, _is_shared(stage, mesh))
        if abstract:
            self.table = sharding.shapes_on(rows, mesh)
            return
        self.table = sharding.replicate(rows, mesh) if mesh else jnp.asarray(rows)
        if not _are_finite(self.table):
            raise InputError(
                f"stage {stage.name!r} is given features that are not finite; check "
                "config.backbone.weights and the training images"
            )

    def shuffled(self, seed: int) -> "Table":
        """The same rows in the order of another seed."""
        other = copy.copy(self)
        other._seed = seed
        return other

    def draw(self, start: int, end: int) -> np.ndarray:
        """Row numbers of steps start to end, int32 [steps_a_call, b], padded."""
        rows = np.zeros((self.steps_a_call, self._batch_size), np.int32)
        steps_an_epoch = self.count // self._batch_size
        for i, step in enumerate(range(start, end)):
            epoch, within = divmod(step, steps_an_epoch)
            first = within * self._batch_size
            order = _order(self._seed, epoch, self.count)
            rows[i] = order[first : first + self._batch_size]
        return rows

    def drawn(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.steps_a_call, self._batch_size), np.int32)


class Tables:
    """Several tables, a batch of each; runs that share their items share a table."""

    steps_a_call = STEPS_A_CALL

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
                tables[id(rows)] = Table(stage, rows, seed, mesh)
        self.mesh, self.batch = mesh, _Rows(mesh, _is_shared(stage, mesh))
        self.tables = [
            tables[id(rows)].shuffled(seed)
            for rows, seed in zip(items, seeds, strict=True)
        ]
        self.table = [table.table for table in self.tables]

    def draw(self, start: int, end: int) -> np.ndarray:
        """Row numbers, int32 [steps_a_call, tables, b]."""
        return np.stack([table.draw(start, end) for table in self.tables], axis=1)

    def drawn(self) -> jax.ShapeDtypeStruct:
        steps, rows = self.tables[0].drawn().shape
        return jax.ShapeDtypeStruct((steps, len(self.tables), rows), np.int32)


class Stream:
    """Batches of images as an iterator gives them, one a call."""

    steps_a_call = 1
    table = None
    batch = staticmethod(_whole)

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
