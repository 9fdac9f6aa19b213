"""The processes of a run: who writes, who waits, and how all of them stop together.

Every process runs the same program on the same values and reads its own share of the
images. The first one alone writes; nobody reads what it has not finished.
"""

import contextlib
import pathlib
import pickle
import uuid
from collections.abc import Callable, Iterator

import jax
import numpy as np

# What JAX's processes tell each other by has no public name; orbax uses the same.
from jax._src import distributed
from jax.experimental import multihost_utils

from jaxad import progress as progress_lib
from jaxad import signals
from jaxad.errors import InputError, writing

_FOREVER = 2**31 - 1  # milliseconds
_waits = 0  # so far; the same in all processes
_points = 0  # of the run where all processes have asked whether to stop


def first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def share() -> dict[str, int]:
    """Which share of every batch is this process's, for `jaxad.data`."""
    return {"process": jax.process_index(), "processes": jax.process_count()}


def client():
    """Of the service through which the processes find each other."""
    return distributed.global_state.client


def wait() -> None:
    """Until all processes have come here."""
    global _waits
    if jax.process_count() > 1:
        _waits += 1
        client().wait_at_barrier(f"jaxad/{_waits}", _FOREVER)


@contextlib.contextmanager
def one_after_first() -> Iterator[None]:
    """The first process goes through the block before all others: it makes a file that
    they find, or one each where their disks are their own."""
    if not first():
        wait()
    yield
    if first():
        wait()


def require_same(values: dict[str, object]) -> None:
    """Raises InputError where the processes do not all have the same named values."""
    ours, *others = gather(values)
    for process, theirs in enumerate(others, start=1):
        differing = [
            f"{name} ({theirs.get(name)!r}, there {ours.get(name)!r})"
            for name in sorted(ours.keys() | theirs.keys())
            if theirs.get(name) != ours.get(name)
        ]
        if differing:
            raise InputError(
                f"process {process} differs from process 0 in {', '.join(differing)}; "
                "start the same command with the same files and versions on every host"
            )


def require_shared(folder: pathlib.Path, name: str) -> None:
    """Raises InputError where a process does not see the first one's folder.

    Disks of their own could hold other states of one run, and the processes would then
    wait for each other at different places.

    Args:
      folder: made if need be.
      name: what the user calls it.
    """
    if jax.process_count() == 1:
        return
    # A name that no host has asked for before is in no cache of a network's files.
    token = folder / gather(f".{uuid.uuid4().hex}")[0]
    if first():
        with writing(folder, name):
            folder.mkdir(parents=True, exist_ok=True)
            token.touch()
    wait()
    blind = [process for process, sees in enumerate(gather(token.exists())) if not sees]
    if first():
        token.unlink()
    if blind:
        raise InputError(
            f"{name}={folder} is another folder on process {blind[0]} than on process "
            "0; name one on a file system that all hosts share"
        )


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


def progress(**options) -> progress_lib.Bar | progress_lib.Lines:
    """How far a pass is, shown by the first process alone; see `jaxad.progress`."""
    return progress_lib.bar(shown=first(), **options)


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Holds SIGTERM and SIGINT back while the block runs, as `signals.held`.

    With several processes it is SIGTERM alone: SIGINT ends all of them where they are.

    Yields:
      A function that says whether to stop, to be asked wherever stopping is possible.
      With several processes all must ask equally often: the answer is the same at the
      same question, whichever of them was told.
    """
    if jax.process_count() > 1:
        yield _all_stop  # JAX listens to the signal
        return
    with signals.held() as is_told:
        yield is_told


def _all_stop() -> bool:
    global _points
    signals.again()
    _points += 1
    return multihost_utils.reached_preemption_sync_point(_points)
