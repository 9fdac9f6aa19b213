"""The processes of a run: who writes, who waits, and how all of them stop together.

Every process runs the same program on the same values and reads its own share of the
images. The first one alone writes; nobody reads what it has not finished.
"""

import contextlib
import pickle
import signal
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

_points = 0  # of the run where all processes have asked whether to stop


def first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def share() -> dict[str, int]:
    """Which share of every batch is this process's, for `jaxad.data`."""
    return {"process": jax.process_index(), "processes": jax.process_count()}


def decided(answer: bool) -> bool:
    """The first process's answer, for all."""
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(answer))


def gather(value) -> list:
    """The value that each process gives, in their order; on every process."""
    if jax.process_count() == 1:
        return [value]
    mine = np.frombuffer(pickle.dumps(value), np.uint8)
    lengths = multihost_utils.process_allgather(np.int64(mine.size))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: mine.size] = mine
    rows = multihost_utils.process_allgather(padded)
    return [
        pickle.loads(row[:length].tobytes())
        for row, length in zip(rows, lengths, strict=True)
    ]


def progress(**options) -> tqdm:
    """A progress bar, shown by the first process and in a terminal alone."""
    return tqdm(disable=None if first() else True, **options)


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Holds SIGTERM back while the block runs.

    Yields:
      A function that says whether to stop, to be asked wherever stopping is possible.
      With several processes all must ask equally often: the answer is the same at the
      same question, whichever of them was told.
    """
    if jax.process_count() > 1:
        yield _all_stop  # JAX listens to the signal
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may handle signals
        return
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
    if told.is_set():  # after the last question
        signal.raise_signal(signal.SIGTERM)


def _all_stop() -> bool:
    global _points
    _points += 1
    return multihost_utils.reached_preemption_sync_point(_points)
