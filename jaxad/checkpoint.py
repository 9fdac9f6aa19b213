"""Arrays on disk: fitted detectors, and checkpoints of training.

Both are written under a temporary name and renamed, so a folder is whole or absent, and
both carry checksums that every read compares: what comes back is what was written, or
an error names the place.
"""

import hashlib
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxad.errors import InputError, writing

Tree = Any

_ARRAYS = "arrays.npz"

# ---- Fitted detectors


def save_tree(path: str | pathlib.Path, tree: Tree) -> None:
    """Writes nested dictionaries of arrays into the folder `path`, whole or not at all.

    One file, which `numpy.load` reads: an array's name is its keys joined by "/". What
    lay there before is replaced by one rename, so whenever a process dies the old or
    the new one is there. Called by one process alone.

    Raises:
      InputError: it cannot be written, as on a full disk.
    """
    path = _absolute(path)
    tree = jax.tree.map(np.asarray, jax.device_get(tree))
    arrays = _flatten(_sealed(tree))
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


def restore_tree(path: str | pathlib.Path) -> Tree:
    """What `save_tree` wrote: nested dictionaries of numpy arrays.

    Raises:
      InputError: the folder is missing, incomplete or damaged.
    """
    path = _absolute(path)
    if not path.is_dir():
        raise InputError(f"{path} does not exist; name the folder of a saved detector")
    return _opened(
        lambda: _nest(_read(path / _ARRAYS)),
        f"{path / _ARRAYS} is damaged or incomplete; remove {path} to have it made "
        "again",
    )


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    # Opened here: numpy leaves a damaged file open.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _flatten(tree: Tree, prefix: str = "") -> dict[str, np.ndarray]:
    flat = {}
    for name, value in tree.items():
        if "/" in name:
            raise ValueError(f"{name!r}: an array's name may not hold a slash")
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat


def _nest(flat: dict[str, np.ndarray]) -> Tree:
    tree: Tree = {}
    for path, array in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = array
    return tree


# ---- Training


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        del step
        return False  # `processes.stoppable` asks, and counts otherwise


class Checkpoints:
    """The checkpoints of one training stage, written in the background.

    Use as a context manager: leaving it waits until the last one is on disk.

    Args:
      folder: made if need be.
      keep: how many of the latest to keep.

    Raises:
      InputError: here, by `save` or when it is left: a checkpoint cannot be written, as
        on a full disk. Those before it are whole.
    """

    def __init__(self, folder: str | pathlib.Path, *, keep: int = 2):
        self.folder = _absolute(folder)
        with writing(self.folder):
            self._manager = _Manager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep, cleanup_tmp_directories=True
                ),
            )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        with writing(self.folder):
            self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the latest whole checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Tree) -> None:
        """Takes a copy of a pytree of arrays and writes it in the background."""
        with writing(self.folder):
            self._manager.save(step, args=ocp.args.StandardSave(_sealed(state)))

    def restore(self, step: int, like: Tree) -> Tree:
        """The state of a step, as jax arrays in the structure of `like`.

        Args:
          step: one that was saved.
          like: the state as `jax.ShapeDtypeStruct`s, with shardings if they matter.

        Raises:
          InputError: the checkpoint is damaged, or of a state with another structure.
        """
        target = ocp.args.StandardRestore(_sealed(like))
        return _opened(
            lambda: self._manager.restore(step, args=target),
            f"checkpoint {self.folder / str(step)} is damaged, or of another config; "
            "remove it to go on from the one before, or choose another --workdir",
        )


def remove(folder: pathlib.Path) -> int:
    """Removes the checkpoints in a folder, nothing else of it; how many there were."""
    found = [path for path in folder.glob("[0-9]*") if path.is_dir()]
    for path in found:
        shutil.rmtree(path)
    return len(found)


# ---- Checksums


def _sealed(tree: Tree) -> dict:
    abstract = any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(tree))
    digest = np.zeros(32, np.uint8) if abstract else _digest(tree)
    return {"tree": tree, "sha256": digest}


def _opened(restore, message: str) -> Tree:
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


def _absolute(path: str | pathlib.Path) -> pathlib.Path:
    return pathlib.Path(path).expanduser().absolute()
