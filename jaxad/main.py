"""`python -m jaxad.main --config FILE --workdir DIR [--config.a.b=value]`.

Flags and process start-up only; `experiment.run` does the work.
"""

import logging
import os
import sys

import absl.logging
import jax
from absl import app, flags
from ml_collections import config_flags

from jaxad import experiment, results
from jaxad.errors import InputError

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, with an optional argument: FILE[:arg].",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: results, maps, detectors, checkpoints."
)


def main(argv: list[str]) -> None:
    del argv
    _set_up_logging()
    config, workdir = _CONFIG.value, _WORKDIR.value
    cache = os.path.expanduser(config.compilation_cache)
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    outcome = experiment.run(config, workdir)
    print(results.table(outcome), end="")
    print(f"Results: {os.path.join(workdir, 'results.json')}")
    for category in outcome["categories"]:
        print(f"Heat maps: {os.path.join(workdir, category, 'maps')}")


def _set_up_logging() -> None:
    """Our own lines from INFO on, those of the libraries from WARNING on."""
    absl.logging.set_verbosity(absl.logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("jaxad")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


def _parse(argv: list[str]) -> list[str]:
    """Flags, with every mistake as one sentence."""
    try:
        rest = flags.FLAGS(argv)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"config file {error.filename} does not exist") from None
    # ml_collections raises all of these for a field that a config does not have, or a
    # value of the wrong type.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        message = str(error.args[0] if error.args else error).split("\n")[0]
        raise InputError(f"command line: {message}") from None
    for name in ("config", "workdir"):
        if flags.FLAGS[name].value is None:
            raise InputError(f"--{name} is missing; see python -m jaxad.main --help")
    return rest


def run() -> None:
    """The command line; mistakes of the user end it with status 2, no traceback."""
    try:
        app.run(main, flags_parser=_parse)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
