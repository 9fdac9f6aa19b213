"""The long passes of a run, kept on disk before they are finished.

A pass goes through images, or makes picks, in a fixed order. What it has found is saved
in parts, each of what came after the one before, and no part is ever written again: a
kill costs what came after the last one.
"""

import logging
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxad import arrays
from jaxad.devices import processes
from jaxad.errors import InputError, Preempted

_LOG = logging.getLogger(__name__)

Tree = Any


class Passes:
    """Passes that follow each other; use as a context manager.

    Inside it SIGTERM is held back until a pass has come to a point where it can stop.
    Whatever stops the run there, all that the passes have found is saved.

    Args:
      folder: of these passes alone; made when there is something to save.
      every: seconds between two saves, of all passes together; what a kill costs.
    """

    def __init__(self, folder: str | pathlib.Path, *, every: float):
        self.folder, self._every = pathlib.Path(folder), every
        self._passes: list[Pass] = []

    def __enter__(self) -> "Passes":
        self._held = processes.stoppable()
        self._stop = self._held.__enter__()
        self._saved = time.monotonic()
        return self

    def __exit__(self, kind, *rest):
        # SIGTERM may also have come after the last point.
        late = kind is None and self._stop()
        try:
            if late or (kind is not None and issubclass(kind, Preempted)):
                self._save()
        finally:
            self._held.__exit__(kind, *rest)
            self._passes.clear()  # they hold on to all that they have found
        if late:
            raise Preempted(f"what is done is saved in {self.folder}")

    def start(self, name: str, key: str) -> "Pass":
        """A pass under a name of its own.

        Args:
          name: names its folder.
          key: everything that it depends on; what was found under another is not used.
        """
        self._passes.append(Pass(self.folder / name, key, self.point))
        return self._passes[-1]

    def point(self) -> None:
        """Where the run can stop: saves what is due, and leaves if it must."""
        stopping = self._stop()
        if stopping or processes.decided(self._due()):
            self._save()
        if stopping:
            raise Preempted(f"what is done is saved in {self.folder}")

    def _due(self) -> bool:
        return time.monotonic() - self._saved >= self._every

    def _save(self) -> None:
        for one in self._passes:
            one.save()
        self._saved = time.monotonic()


class Pass:
    """One pass, of `Passes.start`.

    Attributes:
      done: items that are on disk.
    """

    def __init__(self, folder: pathlib.Path, key: str, point: Callable[[], None]):
        self._folder, self._point = folder, point
        self._key = np.frombuffer(key.encode(), np.uint8)
        self.done = self._reached = 0
        self._found: Callable[[int, int], Tree] | None = None
        self._most = sys.maxsize

    def resume(self) -> Iterator[tuple[int, int, Tree]]:
        """What earlier runs have found; to be asked for before anything is found.

        Yields:
          (first, stop, what was found for the items [first, stop)), in order.
        """
        while (part := self._read()) is not None:
            first, self.done = self.done, int(part["stop"])
            self._reached = self.done
            yield first, self.done, part["found"]

    def reached(
        self, stop: int, found: Callable[[int, int], Tree], most: int = sys.maxsize
    ) -> None:
        """Tells that all items before `stop` are done, and leaves the run if it must.

        Called by all processes at the same points.

        Args:
          stop: number of items that are done.
          found: gives what was found for the items [first, stop), nested dictionaries
            of arrays. It is called when that is saved, here or later, by all processes.
          most: items that are saved at a time, for what is large.

        Raises:
          Preempted: SIGTERM came; all is saved.
          InputError: a part cannot be written.
        """
        self._reached, self._found, self._most = stop, found, most
        self._point()

    def save(self) -> None:
        """Writes what is not on disk yet."""
        while self.done < self._reached:
            stop = min(self.done + self._most, self._reached)
            content = {
                "key": self._key,
                "stop": np.int64(stop),
                "found": self._found(self.done, stop),
            }
            if processes.first():
                arrays.save(self._place(), content)
            self.done = stop

    def drop(self) -> None:
        """What was found is kept elsewhere: removes it here, and saves no more."""
        self.done = self._reached
        remove(self._folder)

    def _place(self) -> pathlib.Path:
        return self._folder / f"{self.done:09d}"

    def _read(self) -> Tree | None:
        """The part that begins where the last one ended; None if there is none."""
        place = self._place()
        if not place.is_dir():
            return None
        try:
            part = arrays.restore(place)
        except InputError:
            _LOG.warning("%s is damaged; what came from there is done again", place)
            return None
        if not np.array_equal(part["key"], self._key):
            _LOG.warning(
                "%s is of other weights, images or versions; done again", place
            )
            return None
        return part


def unkept() -> Pass:
    """A pass that keeps nothing on disk and is not stopped."""

    class Unkept(Pass):
        def resume(self):
            return iter(())

    return Unkept(pathlib.Path(), "", lambda: None)


def remove(folder: pathlib.Path) -> None:
    """Removes passes whose outcome is on disk."""
    if processes.first():
        shutil.rmtree(folder, ignore_errors=True)
