"""Told to stop: SIGTERM and SIGINT, which is Ctrl-C.

An exception that a handler raises is lost where Python happens to be in a callback of
a library, or in a finaliser. So what a handler was told is kept, and asked for at the
points where a run can stop. The next signal ends the process at once; what is on disk
is whole at any time.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from jaxad.errors import Preempted, ending

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds in which another signal is the same one: what passes signals on, as many a
# shell and scheduler does, passes on what the process has had with its group.
_SAME = 0.5

_held: list[int] | None = None  # what `held` was told; None outside of it
_raised: int | None = None  # what the command's own handler has raised an exception for
_first = 0.0  # when it came


def catch() -> None:
    """Has a command end in a sentence; to be called before anything heavy is imported.

    While a module is imported nothing can be lost, and an exception would be: the
    process ends at once. Elsewhere the handler raises what ends the command.
    """
    for number in _SIGNALS:
        _install(number, _raise)


def done() -> None:
    """Nothing is to be stopped any more, and the status is that of what was done.

    A process takes half a second to end, in which Python takes its handlers back: a
    signal then would make a failure of a whole run.
    """
    for number in _SIGNALS:
        atexit.register(signal.signal, number, signal.SIG_IGN)


def leave(status: int) -> NoReturn:
    """Ends with this status what was told to stop, and takes nothing apart.

    XLA compiles in a thread of its own, which the signal does not end and which finds
    its client gone where Python ends as usual: a segmentation fault.
    """
    atexit.register(_exit, status)  # what is registered last comes first
    sys.exit(status)


def end_with_the_reader() -> None:
    """Ends without a word when `| head` or `| less` has read enough."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


@contextlib.contextmanager
def held() -> Iterator[Callable[[], bool]]:
    """Holds both signals back while the block runs; blocks may lie in each other.

    Where the block leaves with Preempted because of SIGINT, KeyboardInterrupt goes on
    from the outermost one. A signal that came after the last question is raised there.

    Yields:
      A function that says whether to stop, to be asked wherever stopping is possible.
    """
    global _held
    if threading.current_thread() is not threading.main_thread():
        yield lambda: _raised is not None  # only the main thread may handle signals
        return
    if _held is not None:
        yield _is_told
        return
    told = _held = []

    def tell(number, frame):
        global _first
        if not told:
            told.append(number)
            _first = time.monotonic()
            _say("stopping at the next point; the next signal ends this at once")
        elif not _is_the_first():
            _pass_on(before[number], number, frame)

    before = {number: _install(number, tell) for number in _SIGNALS}
    try:
        yield _is_told
    except Preempted:
        if signal.SIGINT in (*told, _raised):
            raise KeyboardInterrupt from None
        raise
    finally:
        _held = None
        for number, handler in before.items():
            _install(number, handler)
    if told:
        signal.raise_signal(told[0])


def again() -> None:
    """Raises once more what the command's handler has raised and a library has lost.

    To be called now and then where nothing is held.
    """
    if _raised is not None and _held is None:
        raise _exception(_raised)


def _is_told() -> bool:
    return bool(_held) or _raised is not None


def _install(number: int, handler):
    """The handler before. It stays where it is none of Python's, or ignores the signal,
    as a shell has it for what runs in the background."""
    before = signal.getsignal(number)
    if before not in (None, signal.SIG_IGN):
        signal.signal(number, handler)
    return before


def _raise(number, frame) -> None:
    global _raised, _first
    again = bool(_held) or _raised is not None
    if again and _is_the_first():
        return
    if again or _is_importing(frame):
        status, text = ending(_exception(number))
        _say(text)
        _exit(status)
    _raised, _first = number, time.monotonic()
    raise _exception(number)


def _is_the_first() -> bool:
    """Whether this signal is the first one, which comes twice."""
    return time.monotonic() - _first < _SAME


def _exception(number: int) -> BaseException:
    if number == signal.SIGINT:
        return KeyboardInterrupt()
    return Preempted("told to stop")


def _is_importing(frame) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _pass_on(handler, number: int, frame) -> None:
    if callable(handler):
        handler(number, frame)
    else:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _exit(status: int) -> NoReturn:
    with contextlib.suppress(Exception):  # in the midst of a print
        sys.stdout.flush()
    os._exit(status)


def _say(text: str) -> None:
    # Not through sys.stderr, in the midst of whose writing this may be.
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
