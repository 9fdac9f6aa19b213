"""Files that one run at a time works on."""

import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import jax

from jaxad.devices import processes
from jaxad.errors import writing


@contextlib.contextmanager
def locked(path: pathlib.Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a path, waiting for whoever has it.

    The lock is a hidden file beside it, which goes with the process however that ends,
    and is removed afterwards. Of several processes the first takes it for all.

    Args:
      path: what to work on.
      waiting: called again and again while another run has the lock, so that SIGTERM
        can end the wait; not with several processes, of which but one waits.

    Raises:
      InputError: the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        if processes.first():
            ask = waiting if jax.process_count() == 1 else lambda: None
            _take(path.with_name(f".{path.name}.lock"), ask, stack)
        processes.wait()
        yield


def _take(lock: pathlib.Path, waiting, stack: contextlib.ExitStack) -> None:
    while True:
        with writing(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(lock, "w"))
        while not _taken(file):
            waiting()
            time.sleep(0.2)
        if _is(lock, file):
            break
        stack.close()  # whoever had it has removed it
    stack.callback(lock.unlink)


def _taken(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(path: pathlib.Path, file) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
