"""Files that one run at a time works on."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import jax

from jaxad.devices import processes
from jaxad.errors import writing

_LOG = logging.getLogger(__name__)
# What file systems say that know none.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def locked(
    path: pathlib.Path, waiting: Callable[[], None], place: str = "place"
) -> Iterator[None]:
    """Holds the lock of a path, waiting for whoever has it.

    The lock is a hidden file beside it, which goes with the process however that ends,
    and is removed afterwards. Of several processes the first takes it for all.

    Args:
      path: what to work on.
      waiting: called again and again while another run has the lock, so that SIGTERM
        can end the wait; not with several processes, of which but one waits.
      place: what the user can choose another one of, where nothing can be written.

    Raises:
      InputError: nothing can be written beside the path.
    """
    with contextlib.ExitStack() as stack:
        if processes.first():
            ask = waiting if jax.process_count() == 1 else lambda: None
            _take(_lock_of(path), ask, stack, place)
        processes.wait()
        yield


@contextlib.contextmanager
def tried(path: pathlib.Path, place: str = "place") -> Iterator[bool]:
    """As `locked`, without waiting: gives whether the lock was to be had.

    The lock of a process that was killed is: the system takes it back.
    """
    with contextlib.ExitStack() as stack:
        mine = processes.first() and _try(_lock_of(path), stack, place)
        yield processes.decided(mine)


def is_locked(path: pathlib.Path) -> bool:
    """Whether some process works on a path now."""
    try:
        with open(_lock_of(path)) as file:
            return not _taken(file)
    except FileNotFoundError:
        return False


def _lock_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.lock")


def _take(lock: pathlib.Path, waiting, stack: contextlib.ExitStack, place: str) -> None:
    while not _try(lock, stack, place):
        waiting()
        time.sleep(0.2)


def _try(lock: pathlib.Path, stack: contextlib.ExitStack, place: str = "place") -> bool:
    with writing(lock.parent, place):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = _opened(lock)
    # Whoever had it may have removed it in between.
    if _taken(file) and _is(lock, file):
        stack.enter_context(file)
        stack.callback(_remove, lock)
        return True
    file.close()
    return False


def _opened(lock: pathlib.Path):
    try:
        return open(lock, "w")
    except PermissionError:
        pass
    try:
        return open(lock)  # another user's: a lock needs no more
    except FileNotFoundError:  # who has just let it go, or none can be made here
        return open(lock, "w")


def _remove(lock: pathlib.Path) -> None:
    with contextlib.suppress(PermissionError):  # another user's, where all may write
        lock.unlink()


def _taken(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _LOG.warning(
            "the file system of %s has no locks: nothing keeps two commands from "
            "working on it at once",
            file.name,
        )
    return True


def _is(path: pathlib.Path, file) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
