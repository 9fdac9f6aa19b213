"""The exceptions that speak to the user."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user can mend: a file, a field, a shape, a value.

    The message is one clear sentence that names the file, field or shape and says what
    to do. The command line prints it without a traceback; every other exception is a
    defect of this project and keeps its traceback.
    """


class Preempted(Exception):
    """The process was told to stop (SIGTERM); everything is saved. Start it again."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` where a known name is close, otherwise nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
