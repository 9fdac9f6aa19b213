"""What the commands share: flags, help, logging, mistakes told in one sentence.

JAX and what is built on it are imported where they are used, here and in the commands:
`--help` and a mistaken flag are then answered at once.
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
import pathlib
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import absl.logging
import ml_collections
from absl import app, flags
from ml_collections import config_flags

from jaxad import arguments, fields, signals
from jaxad import config as config_lib
from jaxad.devices import allocation
from jaxad.errors import InputError, NotHere, Preempted, ending

_HELP = {"--help", "-help", "-h", "-?", "--helpshort", "--helpfull"}
_PROCESSES = ("coordinator", "num_processes", "process_id")
# Variables by which JAX knows a cluster.
_CLUSTERS = (
    *("JAX_COORDINATOR", "KUBERNETES_", "MEGASCALE_", "OMPI_", "SLURM_"),
    *("TPU_PROCESS_", "TPU_WORKER_"),
)
_LONGEST = 200  # bytes of the name of a run's folder


def run(
    main: Callable[..., int | None],
    command: str,
    required: Sequence[str],
    *,
    operands: str | None = None,
) -> None:
    """Parses the flags and calls `main`; never returns.

    Exit status: that of main, 0 after `--help`; 2 for a mistake that one sentence
    names; 75 told to stop (SIGTERM), or another process was lost, and 130 interrupted,
    where the same command goes on.

    Args:
      main: the command; the docstring of its module is what `--help` says first.
      command: its name.
      required: names of the flags that must be given.
      operands: what stands without a flag, at least once, and is given to `main` as a
        list; None where nothing does.
    """
    # `jaxad.__main__` has put its own words there.
    called = sys.argv[0]
    if not called.startswith("jaxad "):
        called = f"python -m jaxad.{command}"

    def parse(argv: list[str]) -> list[str]:
        given = [argument for argument in argv if argument not in _HELP]
        asked = len(given) < len(argv)
        if operands is not None:
            flags.FLAGS.set_gnu_getopt()  # flags may stand behind them
        rest = arguments.parse(
            given, () if asked else required, called, operands=operands
        )
        if asked:
            about = _help(main.__globals__["__doc__"])
            signals.end_with_the_reader()
            print(about.replace(f"python -m jaxad.{command}", called).rstrip())
            sys.exit()
        if operands is not None and not rest[1:]:
            raise InputError(f"{operands} is missing; see {called} --help")
        return rest

    def call(argv: list[str]) -> int | None:
        _set_up_logging()
        allocation.keep_freed()
        # Names of files are bytes, and a terminal has not a letter for each.
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")
        status = main() if operands is None else main(argv[1:])
        signals.done()
        return status

    signals.catch()
    try:
        try:
            app.run(call, flags_parser=parse)
        except InputError:
            raise
        except Exception:
            # A library may have made another one of what a handler has raised.
            signals.again()
            raise
    except (InputError, Preempted, KeyboardInterrupt) as error:
        status, text = ending(error)
        print(text, file=sys.stderr)
        leave = sys.exit if isinstance(error, InputError) else signals.leave
        leave(status)


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


def tell_warnings_once() -> None:
    """Of a warning that runs have in common the first is told alone."""
    told: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        before = len(told)
        told.add(record.getMessage())
        return len(told) > before

    for handler in logging.getLogger("jaxad").handlers:
        handler.addFilter(is_new)


def workdir(given: str | None) -> str:
    """Where a run lies: what its flag says, or else `runs/<name of the config>`.

    Of a config with an argument both make the name, as far as a file may have it.
    """
    if given is not None:
        return given
    typed = config_flags.get_config_filename(flags.FLAGS["config"])
    path, _, argument = typed.partition(":")
    name = "-".join(filter(None, (pathlib.Path(path).stem, argument)))
    name = re.sub(r"[^\w.=+,-]+", "_", name)
    encoded = os.fsencode(name)
    if len(encoded) > _LONGEST:
        digest = hashlib.sha256(encoded).hexdigest()[:8]
        name = f"{encoded[: _LONGEST - 9].decode(errors='ignore')}-{digest}"
    return os.path.join("runs", name)


def config_file() -> tuple[str, ml_collections.ConfigDict]:
    """What the config file is called, and the config that it gives by itself."""
    flag = flags.FLAGS["config"]
    typed = config_flags.get_config_filename(flag)
    path, colon, argument = typed.partition(":")
    path = pathlib.Path(path)
    name = path.stem if config_lib.is_ours(str(path)) else path.name
    return f"{name}{colon}{argument}", flag.parser.parse(typed)


def look_for_data(config: ml_collections.ConfigDict) -> None:
    """Finds before JAX is imported that nothing of a data set is here.

    Of several processes some may have it, and must hear of the others: there it is
    found when they have joined. A person may be asked, as by `asking`.

    Raises:
      InputError: it is not here.
    """
    from jaxad import data

    if _surely_alone():
        asking(config, lambda one: data.require_here(one.dataset), alone=True)


def _surely_alone() -> bool:
    """Whether nothing hints at other processes of the run; JAX alone knows for sure."""
    named = (flags.FLAGS[name].value for name in _PROCESSES if name in flags.FLAGS)
    return (
        all(value is None for value in named)
        and not any(name.startswith(_CLUSTERS) for name in os.environ)
        and importlib.util.find_spec("libtpu") is None
    )


def asking(
    config: ml_collections.ConfigDict, run: Callable, *, alone: bool | None = None
) -> Any:
    """`run(config)`, and again where its data are not here and a person wants them.

    The question is asked in a terminal alone, and in a run of one process.

    Args:
      config: of which `dataset.download` is set where a person agrees.
      run: of it.
      alone: whether it is one process; None asks JAX.
    """
    try:
        return run(config)
    except NotHere as error:
        if not _agreed(error.question, alone):
            raise
    config.dataset.download = True
    return run(config)


def _agreed(question: str, alone: bool | None) -> bool:
    if alone is None:
        import jax

        alone = jax.process_count() == 1
    if not (alone and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def require_there(**paths: str) -> None:
    """Raises InputError for a flag that names what does not exist."""
    for name, path in paths.items():
        if not os.path.exists(os.path.expanduser(path)):
            raise InputError(f"--{name}={path} does not exist")


def require_weights(source: str) -> None:
    """Raises InputError for a weights file that does not exist, as loading it would:
    that comes after all images have been looked at."""
    named = source in ("default", "random") or source.startswith(("hf:", "package:"))
    path = pathlib.Path(source).expanduser()
    if not named and not path.is_file():
        raise InputError(f"weights file {path} does not exist")


def _help(about: str) -> str:
    """What a command is for, its own flags, and the fields of its config."""
    lines = [about.strip(), "", "Flags:"]
    for flag in arguments.own_flags():
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
        names = textwrap.fill(
            f"Configs that can be named: {', '.join(config_lib.names())}.", 88
        )
        more = "With --config also those of its method, and the config's values.\n"
        return (
            f"{names}\n\nFields of every run, with what they may be:\n{listed}\n{more}"
        )
    from jaxad import methods

    table = config_lib.FIELDS | {"method": methods.fields(config)}
    listed = fields.text(table, config)
    return f"Fields of this config, with what they may be:\n{listed}"


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
