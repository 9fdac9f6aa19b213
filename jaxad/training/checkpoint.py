"""Checkpoints of training: whole or absent, with a checksum that reads compare."""

import pathlib
import shutil
from typing import Any

import orbax.checkpoint as ocp

from jaxad.arrays import absolute, opened, sealed
from jaxad.errors import writing

Tree = Any


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
        self.folder = absolute(folder)
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
            self._manager.save(step, args=ocp.args.StandardSave(sealed(state)))

    def restore(self, step: int, like: Tree) -> Tree:
        """The state of a step, as jax arrays in the structure of `like`.

        Args:
          step: one that was saved.
          like: the state as `jax.ShapeDtypeStruct`s, with shardings if they matter.

        Raises:
          InputError: the checkpoint is damaged, or of a state with another structure.
        """
        target = ocp.args.StandardRestore(sealed(like))
        return opened(
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
