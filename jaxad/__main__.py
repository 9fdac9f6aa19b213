"""Anomaly detection in product images: jaxad COMMAND, or python -m jaxad COMMAND."""

import ast
import pathlib
import runpy
import sys

import jaxad
from jaxad import signals
from jaxad.errors import InputError, did_you_mean, ending

COMMANDS = ("main", "check", "predict", "report", "extend", "sweep", "export", "serve")


def main() -> None:
    """Runs a command, as `python -m jaxad.COMMAND` does."""
    signals.catch()
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-help", "-h", "-?", "help"):
        signals.end_with_the_reader()
        print(usage())
    elif name == "--version":
        print(jaxad.__version__)
    elif name in COMMANDS:
        # What the command calls itself.
        sys.argv = [f"jaxad {name}", *rest]
        runpy.run_module(f"jaxad.{name}", run_name="__main__")
    else:
        hint = did_you_mean(name, COMMANDS) or f"; choose one of {', '.join(COMMANDS)}"
        status, text = ending(InputError(f"{name!r} is not a command{hint}"))
        print(text, file=sys.stderr)
        sys.exit(status)


def usage() -> str:
    """The commands, a line each."""
    lines = [__doc__, "", "Commands:"]
    for name in COMMANDS:
        # Read, not imported, which takes a while.
        source = pathlib.Path(__file__).with_name(f"{name}.py").read_text("utf-8")
        about = ast.get_docstring(ast.parse(source)).partition("\n")[0]
        lines.append(f"  {name:<9}{about}")
    lines += ["", "`jaxad COMMAND --help` says more of each."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
