"""Batches of a split, decoded in threads ahead of whoever takes them.

A training batch is a function of (seed, step) alone, so going on at a step means asking
for it. With several processes, each reads its own contiguous rows of every batch: their
batches, one after the other, are the batch that one process would have read.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxad.data.split import Split
from jaxad.errors import InputError

Batch = dict[str, np.ndarray]

# Decoding holds no lock for most of its time; more threads than this only queue.
THREADS = min(16, 2 * (os.cpu_count() or 1))
# A split that takes less when decoded is decoded once, not once an epoch.
_KEEP_BYTES = 2**31


def eval_batches(
    split: Split,
    batch_size: int,
    start: int = 0,
    *,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """The split once, in order; the last batch is filled up with the last image.

    Args:
      split: what to read.
      batch_size: rows of a batch over all processes.
      start: the first image to give.
      process, processes: which share of every batch to read.

    Yields:
      `index` int32 [b], `image` float32 [b, H, W, 3], `mask` uint8 [b, H, W], `label`
      int32 [b], `valid` bool [b], False for the rows filled up, and `size` int32
      [b, 2], (height, width) of the images themselves.
    """
    share, last = _share(batch_size, process, processes), len(split) - 1
    rows = [
        (min(first + place, last), first + place <= last)
        for first in range(start, len(split), batch_size)
        for place in share
    ]
    return _batches(split.__getitem__, rows, len(share), without=("filename",))


def batches_of(
    split: Split, images: np.ndarray, *, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """Batches of these images.

    Args:
      split: what to read.
      images: their indices, int [batches, rows of a batch over all processes].
      process, processes: which share of every batch to read.

    Yields:
      As `eval_batches`, without `size`; all rows are valid.
    """
    share = _share(images.shape[1], process, processes)
    rows = [(int(image), True) for image in images[:, share].ravel()]
    return _batches(split.__getitem__, rows, len(share))


def train_batches(
    split: Split,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    *,
    textures: Split | None = None,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """Batches without end, shuffled anew each epoch; what fills no batch is dropped.

    Args:
      split: what to read.
      batch_size: rows of a batch over all processes.
      seed: of the order.
      start_step: the first batch to give.
      textures: pictures, of which every row gets another one until all are used up;
        then in a new order.
      process, processes: which share of every batch to read.

    Yields:
      As `eval_batches`, without `size`; all rows are valid. With textures also
      `texture`, float32 [b, H, W, 3].

    Raises:
      InputError: a batch is larger than the split, or than the textures.
    """
    if batch_size > len(split):
        raise InputError(
            f"a batch of {batch_size} images is larger than the {split.name} split, "
            f"which has {len(split)}; lower the batch size"
        )
    if textures is not None:
        require_enough_textures(textures, batch_size)
    share = _share(batch_size, process, processes)
    rows = _TrainRows(len(split), batch_size, share, seed)
    item, start = _kept(split), start_step * len(share)
    if textures is None:
        return _batches(item, rows, len(share), start)

    def both(index: tuple[int, int]) -> dict:
        return item(index[0]) | {"texture": textures[index[1]]["image"]}

    # Of another order, or equal counts would pair an image with one texture for ever.
    others = _TrainRows(len(textures), batch_size, share, seed, stream=(1,))
    return _batches(both, _Pairs(rows, others), len(share), start)


def require_enough_textures(textures: Split, batch_size: int) -> None:
    """Raises InputError where a batch is larger than the textures."""
    if batch_size > len(textures):
        raise InputError(
            f"a batch of {batch_size} images needs as many textures, and there are "
            f"{len(textures)}; lower the batch size, or name more pictures with "
            "config.dataset.textures"
        )


class _TrainRows:
    """Which row of the split each item of a process is, and that it counts; shuffled
    anew each epoch, without end."""

    def __init__(
        self,
        n: int,
        batch_size: int,
        share: range,
        seed: int,
        stream: tuple[int, ...] = (),
    ):
        self._n, self._batch_size, self._share = n, batch_size, share
        self._seed, self._stream = seed, stream

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, item: int) -> tuple[int, bool]:
        step, place = divmod(item, len(self._share))
        epoch, step = divmod(step, self._n // self._batch_size)
        order = _order(self._seed, self._stream, epoch, self._n)
        return int(order[step * self._batch_size + self._share[place]]), True


class _Pairs:
    """Rows of two splits side by side."""

    def __init__(self, rows: _TrainRows, others: _TrainRows):
        self._rows, self._others = rows, others

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, item: int) -> tuple[tuple[int, int], bool]:
        (row, valid), (other, _) = self._rows[item], self._others[item]
        return (row, other), valid


@functools.lru_cache(maxsize=4)
def _order(seed: int, stream: tuple[int, ...], epoch: int, n: int) -> np.ndarray:
    """Streams are apart by a spawn key, which no seed and epoch can be mistaken for."""
    sequence = np.random.SeedSequence((seed, epoch), spawn_key=stream)
    return np.random.default_rng(sequence).permutation(n)


def _share(batch_size: int, process: int, processes: int) -> range:
    """The rows of a batch that a process reads."""
    if batch_size % processes:
        raise InputError(
            f"a batch of {batch_size} images cannot be shared evenly by {processes} "
            "processes; make the batch size a multiple of their number"
        )
    rows = batch_size // processes
    return range(process * rows, (process + 1) * rows)


def _kept(split: Split) -> Callable[[int], dict]:
    """`split[i]` from memory, the second time, where the split fits into it."""
    height, width = split.geometry.size
    if len(split) * height * width * (3 * 4 + 1) > _KEEP_BYTES:
        return split.__getitem__
    return functools.cache(split.__getitem__)


def _batches(
    item: Callable[..., dict],
    rows,
    batch_size: int,
    start: int = 0,
    *,
    without: Sequence[str] = ("filename", "size"),
) -> Iterator[Batch]:
    def read(row: tuple) -> dict:
        index, valid = row
        return item(index) | {"valid": valid}

    if not len(rows):
        return iter(())
    import grain  # late: it takes most of a second, and brings jax and orbax

    # Two batches ahead, so that decoding goes on while one is computed with.
    ahead = grain.ReadOptions(
        num_threads=THREADS, prefetch_buffer_size=max(THREADS, 2 * batch_size)
    )
    items = grain.MapDataset.source(rows)[start:].map(read)
    stack = functools.partial(_stack, without=without)
    return iter(items.to_iter_dataset(ahead).batch(batch_size, batch_fn=stack))


def _stack(items: Sequence[dict], without: Sequence[str]) -> Batch:
    types = {"index": np.int32, "label": np.int32, "valid": bool, "size": np.int32}
    return {
        name: np.stack([np.asarray(item[name], types.get(name)) for item in items])
        for name in items[0]
        if name not in without
    }
