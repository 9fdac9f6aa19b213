"""The exceptions that speak to the user."""

import contextlib
import difflib
import os
import pathlib
import re
from collections.abc import Iterable, Iterator


class InputError(ValueError):
    """Something the user can mend: a file, a field, a shape, a value.

    The message is one clear sentence that names the file, field or shape and says what
    to do. The command line prints it without a traceback; every other exception is a
    defect of this project and keeps its traceback.
    """


class Preempted(BaseException):
    """The process was told to stop (SIGTERM); everything is saved. Start it again.

    Like KeyboardInterrupt no error, so nothing that looks for errors takes it for one.
    """


class NotHere(InputError):
    """Data that are not on this machine, and could be downloaded.

    Attributes:
      question: asks whether to, with size and licence.
    """

    def __init__(self, message: str, question: str):
        super().__init__(message)
        self.question = question


def ending(error: BaseException) -> tuple[int, str] | None:
    """Exit status and last words for what ends a command; None for our own defects."""
    goes_on = "the same command goes on from here"
    if isinstance(error, InputError):
        return 2, f"error: {error}"
    if isinstance(error, Preempted):
        return 75, f"{error}; {goes_on}"
    if isinstance(error, KeyboardInterrupt):
        return 130, f"interrupted; {goes_on}"
    return None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` where a known name is close, otherwise nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


@contextlib.contextmanager
def writing(path: str | pathlib.Path, place: str = "place") -> Iterator[None]:
    """Makes one sentence of what a full disk and its like raise inside the block.

    Args:
      path: what is written.
      place: what the user can choose another one of.

    Raises:
      InputError: it cannot be written.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        # tensorstore has ValueError for all, and the system's number in its text.
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number:
            reason = os.strerror(int(number[1]))
        elif isinstance(error, OSError):
            reason = error.strerror or error
        else:
            raise
        raise InputError(
            f"{path} cannot be written ({reason}); make room, or choose another {place}"
        ) from error
