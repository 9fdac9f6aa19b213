"""What the commands share: flags, logging, and mistakes told in one sentence."""

import logging
import re
import sys
from collections.abc import Callable, Sequence

import absl.logging
from absl import app, flags

from jaxad.errors import InputError


def run(main: Callable[[], int | None], command: str, required: Sequence[str]) -> None:
    """Parses the flags and calls `main`; never returns.

    Ends with main's status, with 2 and one sentence where the user made a mistake, and
    with 130 where the user interrupted.

    Args:
      main: the command.
      command: how it is called, for messages.
      required: names of the flags that must be given.
    """

    def parse(argv: list[str]) -> list[str]:
        rest = _parse(argv)
        for name in required:
            if flags.FLAGS[name].value is None:
                raise InputError(f"--{name} is missing; see {command} --help")
        return rest

    def call(argv: list[str]) -> int | None:
        del argv
        _set_up_logging()
        return main()

    try:
        app.run(call, flags_parser=parse)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"config file {error.filename} does not exist") from None
    # ml_collections raises all of these for a field that a config does not have, or a
    # value of the wrong type.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"command line: {_sentence(error)}") from None


def _sentence(error: Exception) -> str:
    text = str(error.args[0] if error.args else error)
    field = re.search(r"""['"](\w+)\\?['"]""", text)
    if field and isinstance(error, AttributeError | KeyError):
        close = re.search(r'Did you mean "(\w+)"', text)
        suggestion = f" (did you mean {close[1]!r}?)" if close else ""
        return f"the config has no field {field[1]!r}{suggestion}"
    return text.split("\n")[0]


def _set_up_logging() -> None:
    """Our own lines from INFO on, those of the libraries from WARNING on."""
    absl.logging.set_verbosity(absl.logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("jaxad")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
