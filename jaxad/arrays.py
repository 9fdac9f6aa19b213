"""Arrays on disk: nested dictionaries of them in a folder that is whole or absent.

What is written under a temporary name and renamed carries a checksum that every read
compares: what comes back is what was written, or an error names the place.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxad.errors import InputError, writing

Tree = Any

_ARRAYS = "arrays.npz"


def save(path: str | pathlib.Path, tree: Tree) -> None:
    """Writes nested dictionaries of arrays into the folder `path`, whole or not at all.

    One file, which `numpy.load` reads: an array's name is its keys joined by "/". What
    lay there before is replaced by one rename, so whenever a process dies the old or
    the new one is there. Called by one process alone.

    Raises:
      InputError: it cannot be written, as on a full disk.
    """
    path = absolute(path)
    tree = jax.tree.map(np.asarray, jax.device_get(tree))
    arrays = flatten(sealed(tree))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            temporary.mkdir(parents=True, exist_ok=True)
            np.savez(temporary / _ARRAYS, **arrays)
            if path.is_dir():
                os.replace(temporary / _ARRAYS, path / _ARRAYS)
            else:
                os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def restore(path: str | pathlib.Path) -> Tree:
    """What `save` wrote: nested dictionaries of numpy arrays.

    Raises:
      InputError: the folder is missing, incomplete or damaged.
    """
    path = absolute(path)
    if not path.is_dir():
        raise InputError(f"{path} does not exist; name the folder of a saved detector")
    return opened(lambda: nest(_read(path / _ARRAYS)), _damaged(path))


def save_packed(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays into one compressed file, whole or not at all.

    Raises:
      InputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                np.savez_compressed(file, **arrays)
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def restore_packed(path: pathlib.Path, without: str) -> dict[str, np.ndarray] | None:
    """What `save_packed` wrote; None where there is no such file.

    Args:
      without: what there is no more once the file is removed, for the message.

    Raises:
      InputError: it is damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file) as content:
            return dict(content)
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy and zipfile raise almost anything
        raise InputError(
            f"{path} is damaged ({error}); remove it for a report without {without}"
        ) from error


def seal(path: str | pathlib.Path) -> str:
    """The checksum that `save` wrote beside the arrays, in hexadecimal.

    Raises:
      InputError: as `restore`.
    """
    path = absolute(path)
    try:
        with open(path / _ARRAYS, "rb") as file, np.load(file) as found:
            return bytes(found["sha256"]).hex()
    except Exception as error:  # whatever numpy meets first
        raise InputError(_damaged(path)) from error


def _damaged(path: pathlib.Path) -> str:
    return (
        f"{path / _ARRAYS} is damaged or incomplete; remove {path} to have it made "
        "again"
    )


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    # Opened here: numpy leaves a damaged file open.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def flatten(tree: Tree, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dictionaries as one, each array under its keys joined by "/"."""
    flat = {}
    for name, value in tree.items():
        if "/" in name:
            raise ValueError(f"{name!r}: an array's name may not hold a slash")
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat


def nest(flat: dict[str, Any]) -> Tree:
    """What `flatten` was given."""
    tree: Tree = {}
    for path, array in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = array
    return tree


# ---- Checksums


def sealed(tree: Tree) -> dict:
    abstract = any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(tree))
    digest = np.zeros(32, np.uint8) if abstract else _digest(tree)
    return {"tree": tree, "sha256": digest}


def opened(restore: Callable[[], Tree], message: str) -> Tree:
    try:
        sealed = restore()
        tree, digest = sealed["tree"], np.asarray(sealed["sha256"])
    # Damage surfaces as whatever the layer that meets it first happens to raise.
    except Exception as error:
        raise InputError(message) from error
    if not np.array_equal(digest, _digest(tree)):
        raise InputError(message)
    return tree


def _digest(tree: Tree) -> np.ndarray:
    """sha256 of names, shapes, types and bytes of all arrays, uint8 [32]."""
    digest = hashlib.sha256()
    for name, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(
            f"{jax.tree_util.keystr(name)} {array.shape} {array.dtype}".encode()
        )
        digest.update(array.reshape(-1).view(np.uint8))
    return np.frombuffer(digest.digest(), np.uint8)


def absolute(path: str | pathlib.Path) -> pathlib.Path:
    return pathlib.Path(path).expanduser().absolute()
