"""Arrays on disk that runs share: computed once, checked by each process that takes
them."""

import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable

import numpy as np

from jaxad.devices import processes
from jaxad.devices.locks import locked
from jaxad.errors import InputError, writing
from jaxad.run.keys import digest

_LOG = logging.getLogger(__name__)

# Files that this process has found whole.
_checked: set[tuple] = set()


def cached(
    folder: pathlib.Path,
    key: dict,
    compute: Callable[[Callable[..., np.ndarray]], np.ndarray],
    waiting: Callable[[], None] = lambda: None,
    *,
    name: str = "features",
    field: str = "config.feature_cache",
) -> np.ndarray:
    """An array from a cache, computed into it where it is not there yet.

    An entry is a folder named by the key's hash: the array, and the key with the
    array's sha256, which a process compares when it first takes the array. That is
    mapped into memory, so what does not fit is paged.

    Args:
      folder: of the cache; made if need be.
      key: everything that the array depends on, as JSON.
      compute: fills the array that the function it is given makes of a shape and, if it
        is not float32, a dtype. Of several processes the first one keeps what it fills.
      waiting: called again and again while another run computes the same.
      name: of the array's file.
      field: that names the folder, for messages.

    Returns:
      The array, read-only.

    Raises:
      InputError: the folder cannot be read or written.
    """
    entry, file = folder / digest(key), f"{name}.npy"
    fault = None

    def there() -> bool:
        nonlocal fault
        fault = _fault(entry, file, key, field) if processes.first() else None
        return processes.decided(fault is None)

    if not there():
        # Runs that want the same at the same time wait for the first of them. Without
        # the lock nothing is removed: another run may have made it anew meanwhile.
        with locked(entry, waiting, field):
            if not there():
                if processes.first():
                    with writing(entry, field):
                        _remove(entry, fault)
                    _compute_into(entry, file, key, compute, field)
                else:
                    compute(_one_row)
                processes.wait()
    try:
        return np.load(entry / file, mmap_mode="r")
    except OSError as error:
        raise _unreadable(entry, field, error) from error


def _unreadable(entry: pathlib.Path, field: str, error: OSError) -> InputError:
    """Says nothing of what the file holds."""
    return InputError(
        f"{entry} cannot be read ({error.strerror or error}); mend that, or choose "
        f"another {field}"
    )


def _compute_into(
    entry: pathlib.Path, file: str, key: dict, compute, field: str
) -> None:
    temporary = entry.with_name(f".{entry.name}.tmp")

    def empty(shape, dtype=np.float32):
        path = temporary / file
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with open(path, "r+b") as opened:
            # Now: a full disk ends a process that writes to a mapped file.
            os.posix_fallocate(opened.fileno(), 0, os.path.getsize(path))
        return array

    try:
        with writing(entry, field):
            shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
            temporary.mkdir(parents=True)
            array = compute(empty)
            array.flush()
            content = {"key": key, "sha256": _sha256(array)}
            (temporary / "key.json").write_text(json.dumps(content, indent=2))
            os.replace(temporary, entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _one_row(shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """An array of that shape with room for one row, for who does not keep them."""
    row = np.empty((1, *shape[1:]), dtype)
    return np.lib.stride_tricks.as_strided(row, shape, (0, *row.strides[1:]))


def _fault(entry: pathlib.Path, file: str, key: dict, field: str) -> str | None:
    """Why what is there, if anything, cannot be taken; None where it can."""
    try:
        state = str(entry), *map(_state, (entry / "key.json", entry / file))
        if state in _checked:
            return None
        content = json.loads((entry / "key.json").read_text())
        array = np.load(entry / file, mmap_mode="r")
        expected = {"key": json.loads(json.dumps(key)), "sha256": _sha256(array)}
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        return str(error)
    except OSError as error:
        raise _unreadable(entry, field, error) from error
    except Exception as error:  # a damaged header makes numpy raise almost anything
        return str(error)
    if content != expected:
        return "its checksum is another"
    _checked.add(state)
    return None


def _state(path: pathlib.Path) -> tuple[int, ...]:
    """Tells a file from another that takes its place."""
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _remove(entry: pathlib.Path, fault: str) -> None:
    if entry.exists():
        _LOG.warning("%s is damaged (%s) and is computed again", entry, fault)
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sha256(array: np.ndarray) -> str:
    total = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    for rows in array:
        total.update(np.ascontiguousarray(rows))
    return total.hexdigest()
