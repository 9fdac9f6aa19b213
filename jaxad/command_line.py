"""What the commands share: flags, help, logging, mistakes told in one sentence.

JAX and what is built on it are imported where they are used, here and in the commands:
`--help` and a mistaken flag are then answered at once.
"""

import contextlib
import logging
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence

import absl.logging
from absl import app, flags

from jaxad import config as config_lib
from jaxad import fields
from jaxad.errors import InputError, Preempted

_HELP = {"--help", "-help", "-h", "-?", "--helpshort"}


def run(main: Callable[[], int | None], command: str, required: Sequence[str]) -> None:
    """Parses the flags and calls `main`; never returns.

    Exit status: that of main, 0 after `--help`; 2 for a mistake that one sentence
    names; 75 told to stop (SIGTERM), or another process was lost, and 130 interrupted,
    where the same command goes on.

    Args:
      main: the command; the docstring of its module is what `--help` says first.
      command: how it is called, for messages.
      required: names of the flags that must be given.
    """

    def parse(argv: list[str]) -> list[str]:
        rest = _parse([argument for argument in argv if argument not in _HELP])
        if _HELP.intersection(argv):
            print(_help(sys.modules[main.__module__].__doc__).rstrip())
            sys.exit()
        if rest[1:]:
            raise InputError(f"{rest[1]!r} is not a flag; did you mean --{rest[1]}?")
        for name in required:
            if flags.FLAGS[name].value is None:
                raise InputError(f"--{name} is missing; see {command} --help")
        return rest

    def call(argv: list[str]) -> int | None:
        del argv
        _set_up_logging()
        return main()

    signal.signal(signal.SIGTERM, _stop)
    try:
        app.run(call, flags_parser=parse)
    except (InputError, Preempted, KeyboardInterrupt) as error:
        from jaxad.devices import launch

        status, text = launch.ending(error)
        print(text, file=sys.stderr)
        sys.exit(status)


def define_processes() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Defines the flags of a run of several processes; the result joins them."""
    coordinator = flags.DEFINE_string(
        "coordinator", None, "ADDRESS:PORT where all reach the first process."
    )
    number = flags.DEFINE_integer(
        "num_processes", None, "Processes of the run, the same command in each."
    )
    process = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.")

    @contextlib.contextmanager
    def join():
        from jaxad.devices import launch, processes

        with launch.joined(coordinator.value, number.value, process.value):
            if not processes.first():
                logging.getLogger("jaxad").setLevel(logging.ERROR)
            yield

    return join


def use_compilation_cache(config) -> None:
    """Keeps compiled programs where `config.compilation_cache` says."""
    from jaxad.devices import compilation

    compilation.use_cache(config.compilation_cache)


def _help(about: str) -> str:
    """What a command is for, its own flags, and the fields of its config."""
    lines = [about.strip(), "", "Flags:"]
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module == sys.argv[0] or module.startswith("jaxad."):
            for flag in defined:
                default = f" ({flag.default} by default)" if flag.default else ""
                lines += textwrap.wrap(
                    f"--{flag.name}: {flag.help}{default}",
                    88,
                    initial_indent="  ",
                    subsequent_indent="      ",
                )
    if "config" in flags.FLAGS:
        lines += ["", _help_on_fields(flags.FLAGS["config"].value)]
    return "\n".join(lines)


def _help_on_fields(config) -> str:
    if config is None:
        listed = fields.text(config_lib.FIELDS, config_lib.base())
        more = "With --config FILE also those of its method, and FILE's values.\n"
        return f"Fields of every run, with what they may be:\n{listed}\n{more}"
    from jaxad import methods

    table = config_lib.FIELDS | {"method": methods.fields(config)}
    listed = fields.text(table, config)
    return f"Fields of this config, with what they may be:\n{listed}"


def _stop(signum, frame) -> None:
    # Whatever is on disk is whole, so outside of training there is nothing to save.
    raise Preempted("told to stop")


def _parse(argv: list[str]) -> list[str]:
    _check_config_exists(argv)
    try:
        return flags.FLAGS(argv)
    # ml_collections raises all of these for a field that a config does not have, a
    # value of the wrong type, or an argument that the config file refuses.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(_sentence(error)) from error


def _check_config_exists(argv: list[str]) -> None:
    """Looks first, since ml_collections raises only when the config is used."""
    for flag, following in zip(argv, [*argv[1:], ""], strict=True):
        name, given, value = flag.partition("=")
        if name in ("--config", "-config"):
            path = (value if given else following).split(":")[0]
            if not os.path.isfile(path):
                raise InputError(f"the config file {path} does not exist")


def _sentence(error: BaseException) -> str:
    """What went wrong, from our own error where the libraries have wrapped one."""
    ours, cause = None, error
    while cause is not None:
        ours = cause if isinstance(cause, InputError) else ours
        cause = cause.__cause__ or cause.__context__
    if ours is not None:
        return str(ours)
    text = str(error)
    if isinstance(error, KeyError | AttributeError):
        field = re.search(r"\w+", text)
        meant = re.search(r"Did you mean \W*(\w+)", text)
        hint = f" (did you mean {meant[1]!r}?)" if meant else ""
        return f"the config has no field {field[0] if field else text!r}{hint}"
    return text.split("\n")[0]


def _set_up_logging() -> None:
    """Our own lines from INFO on, those of the libraries from WARNING on."""
    absl.logging.set_verbosity(absl.logging.WARNING)
    # A checkpoint that cannot be written is an exception, too, and told as that.
    absl.logging.get_absl_logger().addFilter(
        lambda line: line.levelno < logging.ERROR or "orbax" not in line.pathname
    )
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("jaxad")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
