"""The feature pass: patch descriptors of every image of a split."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxad import data
from jaxad.devices import processes, sharding
from jaxad.devices.rows import Sharded
from jaxad.errors import InputError
from jaxad.run import passes
from jaxad.run.passes import Pass

_PART_BYTES = 2**30  # bytes of descriptors that are saved at a time


def extract(
    describe: Callable[[np.ndarray], jax.Array],
    split,
    batch_size: int,
    *,
    label: str,
    keep: Pass | None = None,
    empty: Callable[[tuple[int, ...]], np.ndarray] = lambda shape: np.empty(
        shape, np.float32
    ),
) -> np.ndarray:
    """Describes the patches of all images, and brings them to the host.

    Every batch has the same shape (the last one is padded), so an image's descriptors
    are the same bits wherever it lies in the split.

    Args:
      describe: `images [b, H, W, 3] in [0, 1] -> [b, h, w, c]`; of the images each
        process gives its share.
      split: of `data.load`.
      batch_size: images a batch.
      label: what the progress bar says.
      keep: where what is found is kept while the pass is not finished.
      empty: makes the float32 array that is filled, from its shape.

    Returns:
      float32 [n, h, w, c] in the split's order.

    Raises:
      InputError: names the first image with descriptors that are not finite.
      Preempted: SIGTERM came.
    """

    def make(shape):
        return _OnHost(empty((len(split), *shape)))

    return _extract(describe, split, batch_size, 1, label, keep, make).array


def extract_in_place(
    describe: Callable[[np.ndarray], jax.Array],
    split,
    batch_size: int,
    *,
    mesh: sharding.Mesh | None,
    label: str,
    keep: Pass | None = None,
) -> Sharded:
    """As `extract`, but what the devices find stays on them.

    Every device describes consecutive images of the split.

    Args:
      mesh: over which `describe` spreads a batch; None for one device.

    Returns:
      Patches [n·h·w, c] in the split's order.
    """
    devices = mesh.size if mesh else 1

    def make(shape):
        return _OnDevices(len(split), shape, batch_size // devices, mesh)

    return _extract(describe, split, batch_size, devices, label, keep, make).rows


def _extract(describe, split, batch_size, devices, label, keep, make):
    keep = keep or passes.unkept()
    n, out, order = len(split), None, []
    for _, _, found in keep.resume():
        out = out or make(found["rows"].shape[1:])
        out.put(found["images"], found["rows"])
        order += found["images"].tolist()
    # Numbers of devices may have changed, and with them which images go together.
    turns = _turns(n, batch_size, devices)
    is_done = np.isin(turns, [*order, n]).all(1)
    todo = np.flatnonzero(~is_done)

    def found_in(first: int, stop: int):
        images = np.array(order[first:stop])
        return {"images": images, "rows": out.read(images)}

    batches = data.batches_of(
        split, np.minimum(turns[todo], n - 1), **processes.share()
    )
    there = set(order)
    bar = processes.progress(total=n, initial=len(there), desc=label, unit="img")
    with bar:
        for turn, batch in zip(todo, batches, strict=True):
            real = turns[turn] < n
            images = turns[turn][real]
            described = describe(batch["image"])
            finite = sharding.fetch(_are_finite(described))[real]
            if not finite.all():
                raise InputError(
                    f"{split.filenames[images[finite.argmin()]]} has features that are "
                    "not finite; check config.backbone.weights, or the file itself"
                )
            shape = described.shape[1:]
            out = out or make(shape)
            out.write(turn, images, real, described)
            order += images.tolist()
            keep.reached(
                len(order), found_in, max(1, _PART_BYTES // (4 * math.prod(shape)))
            )
            bar.update(len(set(images.tolist()) - there))
    return out


def _turns(n: int, batch_size: int, devices: int) -> np.ndarray:
    """The images of every batch, [turns, batch_size]; n is none.

    A device gets `batch_size / devices` images a turn, and consecutive ones in all.
    """
    own, share = batch_size // devices, -(-n // devices)
    turns = -(-share // own)
    images = np.arange(turns * own)
    beyond = images >= share
    images = images + share * np.arange(devices)[:, None]
    images = np.where(beyond | (images >= n), n, images)
    return images.reshape(devices, turns, own).swapaxes(0, 1).reshape(turns, -1)


@jax.jit
def _are_finite(described: jax.Array) -> jax.Array:
    return jnp.isfinite(described).all((1, 2, 3))


class _OnHost:
    """Descriptors [n, h, w, c] in an array of the host, or mapped from a file."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def put(self, images: np.ndarray, rows: np.ndarray) -> None:
        """Of these images."""
        self.array[images] = rows

    def write(self, turn: int, images, real, described: jax.Array) -> None:
        """Of a turn's batch, whose `real` ones are these images."""
        self.put(images, sharding.fetch(described)[real])

    def read(self, images: np.ndarray) -> np.ndarray:
        return self.array[images]


class _OnDevices:
    """The same in a `Sharded` matrix, a row for every patch."""

    def __init__(self, n: int, shape: tuple[int, ...], images_a_turn: int, mesh):
        self._shape, self._patches = shape, math.prod(shape[:-1])
        self._rows_a_turn = images_a_turn * self._patches
        share = -(-n // (mesh.size if mesh else 1)) * self._patches
        self.rows = Sharded((n * self._patches, shape[-1]), mesh, share)

    def put(self, images: np.ndarray, rows: np.ndarray) -> None:
        self.rows.put(self._index(images), rows.reshape(-1, self._shape[-1]))

    def write(self, turn: int, images, real, described: jax.Array) -> None:
        del images, real  # every device knows its own
        self.rows.write(turn * self._rows_a_turn, described)

    def read(self, images: np.ndarray) -> np.ndarray:
        return self.rows.take(self._index(images)).reshape(-1, *self._shape)

    def _index(self, images: np.ndarray) -> np.ndarray:
        return (images[:, None] * self._patches + np.arange(self._patches)).ravel()
