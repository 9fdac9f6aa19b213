"""How far a long pass is: a bar in a terminal, a line a minute elsewhere."""

import logging
import sys
import threading
import time

from tqdm import tqdm

from jaxad import signals

_LOG = logging.getLogger(__name__)

_EVERY = 60.0  # seconds between two lines, of all passes together
_latest = time.monotonic()  # when there was a line


class Bar(tqdm):
    """A bar; whoever moves it gives a lost signal its chance."""

    def update(self, n=1):
        signals.again()
        return super().update(n)


class Lines:
    """What a bar does where none is seen.

    The estimate takes what has been done since the first step, in which programs are
    compiled.

    Attributes:
      n: how many are done.
    """

    def __init__(self, total: int | None, unit: str, desc: str, initial: int):
        self._total, self._desc = total, desc
        self._units = {"img": "images", "MB": "MB"}.get(unit, f"{unit}s")
        self.n, self._since = initial, None

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_) -> None:
        pass

    def update(self, n: int = 1) -> None:
        global _latest
        if threading.current_thread() is threading.main_thread():
            signals.again()
        self.n += n
        now = time.monotonic()
        if now - _latest >= _EVERY:
            _latest = now
            _LOG.info("%s", self._line(now))
        self._since = self._since or (self.n, now)

    def set_postfix(self, values: dict) -> None:
        pass

    def write(self, text: str) -> None:
        print(text)

    def _line(self, now: float) -> str:
        of = "" if self._total is None else f" of {self._total}"
        line = f"{self._desc}: {self.n}{of} {self._units}"
        before, since = self._since or (self.n, now)
        if self._total is None or self.n in (before, self._total):
            return line
        left = (now - since) * (self._total - self.n) / (self.n - before)
        return f"{line}, about {in_words(left)} left"


def bar(
    *, total: int | None, unit: str, desc: str, initial: int = 0, shown: bool = True
) -> Bar | Lines:
    """Shows how far a pass is; a context manager, moved by `update(n)`.

    Args:
      total: how many there are, None where nobody knows.
      unit: what is counted: "img", "step".
      desc: what is done.
      initial: how many were done before.
      shown: False shows nothing.
    """
    if shown and not sys.stderr.isatty():
        return Lines(total, unit, desc, initial)
    return Bar(total=total, unit=unit, desc=desc, initial=initial, disable=not shown)


def in_words(seconds: float) -> str:
    """A span of time as people say it: "40 seconds", "12 minutes", "1.5 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
