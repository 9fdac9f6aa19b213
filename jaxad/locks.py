"""Files that one run at a time works on."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from jaxad.errors import writing


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a path, waiting for whoever has it.

    The lock is a hidden file beside it, which goes with the process however that ends,
    and is removed afterwards.

    Raises:
      InputError: the file cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        while True:
            with writing(lock):
                lock.parent.mkdir(parents=True, exist_ok=True)
                file = open(lock, "w")
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is(lock, file):
                break
            file.close()  # whoever had it has removed it
        stack.callback(file.close)
        stack.callback(lock.unlink)
        yield


def _is(path: pathlib.Path, file) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
