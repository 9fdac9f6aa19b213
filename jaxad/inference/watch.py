"""A folder that images come into, looked at again and again."""

import contextlib
import logging
import pathlib
import signal
import threading
from collections.abc import Iterator

from jaxad.data import given

_LOG = logging.getLogger(__name__)

_POLL = 1.0  # seconds between two looks


class Arrivals:
    """Files of a folder once they are whole: two looks find the same size and time.

    An empty one is taken for a file that is still to be written.

    Args:
      folder: gone through with all folders in it.
      known: names that are not asked for.
      without: a folder in it that is left out.
      max_pixels: that an image may have, as `images.decode_image` takes it.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        known: set[str],
        without: pathlib.Path,
        max_pixels: int,
    ):
        self._folder, self._known, self._without = folder, known, without
        self._max_pixels = max_pixels
        self._seen: dict[str, tuple[int, int]] = {}
        self._refused: dict[str, tuple[int, int]] = {}
        self._lost: set[str] = set()

    def look(self) -> list[given.Item]:
        """What has arrived since the last look, by name."""
        arrived = []
        names, lost, _ = given.walk(self._folder, self._without)
        for name in sorted(set(lost) - self._lost):
            _LOG.warning("%s is a picture that cannot be read; left out", name)
        self._lost |= set(lost)
        for name in names:
            if name in self._known and name not in self._refused:
                continue
            path = self._folder / name
            try:
                status = path.stat()
            except OSError:  # gone again
                continue
            state = (status.st_size, status.st_mtime_ns)
            if state == self._refused.get(name):
                continue
            if state == self._seen.get(name) and status.st_size:
                self._refused.pop(name, None)
                arrived.append(given.file(path, name, self._max_pixels))
            self._seen[name] = state
        return arrived

    def judged(self, name: str, *, broken: bool) -> None:
        """Tells how a file fared: one that is broken comes again when it changes."""
        state = self._seen.pop(name)
        if broken:
            self._refused[name] = state


def looks(stop: threading.Event) -> Iterator[None]:
    """When to look, until told to stop."""
    while not stop.is_set():
        yield
        stop.wait(_POLL)


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """Set by SIGTERM or SIGINT, once; the next one does what it did before."""
    told, before = threading.Event(), {}

    def tell(number, frame):
        told.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, tell)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
