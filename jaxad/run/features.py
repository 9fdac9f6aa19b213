"""The feature pass: patch descriptors of every image of a split, and their cache."""

import hashlib
import json
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxad import data
from jaxad.devices import processes, sharding
from jaxad.devices.locks import locked
from jaxad.devices.rows import Sharded
from jaxad.errors import InputError, writing
from jaxad.run import passes
from jaxad.run.passes import Pass

_LOG = logging.getLogger(__name__)

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


def cached(
    folder: pathlib.Path,
    key: dict,
    compute: Callable[[Callable[[tuple[int, ...]], np.ndarray]], np.ndarray],
    waiting: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Descriptors from the cache, computed into it where they are not there yet.

    An entry is a folder named by the key's hash: the array, and the key with the
    array's sha256, which every read compares. The array is mapped into memory, so what
    does not fit is paged.

    Args:
      folder: of the cache; made if need be.
      key: everything that the descriptors depend on, as JSON.
      compute: fills the array that the function it is given makes, as `extract` does.
      waiting: called again and again while another run computes the same.

    Returns:
      float32 [n, h, w, c], read-only.
    """
    entry = folder / digest(key)

    def there() -> bool:
        return processes.decided(processes.first() and _is_whole(entry, key))

    if not there():
        # Runs that want the same at the same time wait for the first of them.
        with locked(entry, waiting):
            if not there():
                if processes.first():
                    _compute_into(entry, key, compute)
                else:
                    compute(_one_row)
                processes.wait()
    return np.load(entry / "features.npy", mmap_mode="r")


def _compute_into(entry: pathlib.Path, key: dict, compute) -> None:
    temporary = entry.with_name(f".{entry.name}.tmp")

    def empty(shape):
        path = temporary / "features.npy"
        array = np.lib.format.open_memmap(
            path, mode="w+", dtype=np.float32, shape=shape
        )
        with open(path, "r+b") as file:
            # Now: a full disk ends a process that writes to a mapped file.
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
        return array

    try:
        with writing(entry, "config.feature_cache"):
            shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
            temporary.mkdir(parents=True)
            array = compute(empty)
            array.flush()
            content = {"key": key, "sha256": _sha256(array)}
            (temporary / "key.json").write_text(json.dumps(content, indent=2))
            os.replace(temporary, entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _one_row(shape: tuple[int, ...]) -> np.ndarray:
    """An array of that shape with room for one row, for who does not keep them."""
    row = np.empty((1, *shape[1:]), np.float32)
    return np.lib.stride_tricks.as_strided(row, shape, (0, *row.strides[1:]))


def digest(key: dict) -> str:
    """A name for all that something depends on, 32 hexadecimal digits."""
    text = json.dumps(key, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _is_whole(entry: pathlib.Path, key: dict) -> bool:
    """Whether there is an entry; one that is not what was written is removed."""
    if not entry.exists():
        return False
    try:
        content = json.loads((entry / "key.json").read_text())
        array = np.load(entry / "features.npy", mmap_mode="r")
        expected = {"key": json.loads(json.dumps(key)), "sha256": _sha256(array)}
        if content == expected:
            return True
        reason = "its checksum is another"
    except Exception as error:  # a damaged header makes numpy raise almost anything
        reason = str(error)
    _LOG.warning("%s is damaged (%s) and is computed again", entry, reason)
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()
    return False


def _sha256(array: np.ndarray) -> str:
    total = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    for rows in array:
        total.update(np.ascontiguousarray(rows))
    return total.hexdigest()
