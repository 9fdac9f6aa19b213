"""What is typed: flags and configs, and one sentence for what is wrong with them."""

import ast
import pathlib
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections.config_flags import tuple_parser

from jaxad import config as config_lib
from jaxad import fields, methods
from jaxad.errors import InputError, did_you_mean


class _LiteralParser(flags.ArgumentParser):
    """Of a field of any kind: a literal of Python, or else text."""

    def parse(self, argument: str) -> Any:
        try:
            return ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            return argument


_PARSERS = {
    bool: flags.BooleanParser(),
    int: flags.IntegerParser(),
    float: flags.FloatParser(),
    tuple: tuple_parser.TupleParser(),
    object: _LiteralParser(),
}


def parse(
    argv: list[str],
    required: Sequence[str],
    called: str,
    *,
    operands: str | None = None,
) -> list[str]:
    """Parses the flags; what needs no config is looked at before one is loaded.

    Args:
      argv: without what asks for help; a config may be named.
      required: names of the flags that must be given.
      called: what calls the command, for messages.
      operands: what may stand without a flag; None where nothing does.

    Returns:
      What is left of `argv`: its first element, and the operands.

    Raises:
      InputError: whatever is wrong, by the name of the flag, the file or the field.
    """
    _require_known_flags(argv, called)
    overrides, typed = _overrides(argv), None
    if "config" in flags.FLAGS:
        argv, typed = _with_file(argv)
        if "config" in required and typed is None:
            meant = next(filter(None, map(_meant, argv[1:])), f"; see {called} --help")
            raise InputError(f"--config is missing{meant}")
        # A file of one's own may have fields of its own.
        ours = typed is not None and config_lib.is_ours(typed.partition(":")[0])
        _require_fit_all_runs(overrides, closed=ours)
    try:
        rest = flags.FLAGS(argv)
    except Exception as error:
        raise InputError(_sentence(error, typed, overrides)) from error
    if rest[1:] and operands is None:
        raise InputError(f"{rest[1]!r} is not a flag{_meant(rest[1])}")
    for name in required:
        if flags.FLAGS[name].value is None:
            raise InputError(f"--{name} is missing; see {called} --help")
    if typed is not None:
        config = flags.FLAGS["config"].value
        if not isinstance(config, ml_collections.ConfigDict):
            raise InputError(
                f"get_config() of {typed} returns no config; start from "
                "jaxad.config.base()"
            )
        config_lib.validate(config)
        known = config.method.name in methods.NAMES
        if known:
            methods.check(config)
        # A method of somebody's own may need JAX, and is looked at if need be.
        if known or any(name.startswith("method.") for name, _ in overrides):
            idle = methods.idle(config)
        else:
            idle = fields.idle(config_lib.FIELDS, config)
        # What a config file has for a part that is not used, a run names in one line.
        for one in idle:
            if one.name in dict(overrides):
                raise InputError(str(one))
    return rest


def own_flags() -> Iterator[flags.Flag]:
    """Those of the command, without absl's."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module == sys.argv[0] or module.startswith("jaxad."):
            yield from defined


def _require_known_flags(argv: Sequence[str], called: str) -> None:
    for argument in argv[1:]:
        flag = argument.partition("=")[0]
        name = flag.lstrip("-")
        if not re.match(r"--?[a-zA-Z]", flag) or re.match(r"(no)?config\.", name):
            continue
        if name not in flags.FLAGS and name.removeprefix("no") not in flags.FLAGS:
            hint = did_you_mean(flag, [f"--{known.name}" for known in own_flags()])
            raise InputError(f"{flag} is not a flag{hint or f'; see {called} --help'}")


def _meant(argument: str) -> str:
    """What an argument that belongs to no flag was meant to be; "" if nobody knows."""
    if argument.startswith("config."):
        return f"; did you mean --{argument}?"
    try:
        config_lib.find(argument.partition(":")[0])
    except InputError:
        return ""
    return f"; did you mean --config {argument}?"


def _overrides(argv: Sequence[str]) -> list[tuple[str, str | None]]:
    """(field, text) of what the arguments set; None where there is no text."""
    found = []
    for argument, following in zip(argv, [*argv[1:], "-"], strict=True):
        flag, given, text = argument.partition("=")
        if match := re.fullmatch(r"--?(no)?config\.(.+)", flag):
            apart = None if match[1] or following.startswith("-") else following
            found.append((match[2], text if given else apart))
    return found


def _with_file(argv: list[str]) -> tuple[list[str], str | None]:
    """The arguments with the config's name replaced by its file, and that value."""
    argv, typed, early = list(argv), None, ""
    for i, argument in enumerate(argv):
        flag, given, text = argument.partition("=")
        if re.match(r"--?(no)?config\.", flag) and typed is None:
            early = early or argument
        if flag not in ("--config", "-config") or not (given or argv[i + 1 :]):
            continue
        name, colon, rest = (text if given else argv[i + 1]).partition(":")
        typed = f"{config_lib.find(name)}{colon}{rest}"
        if given:
            argv[i] = f"{flag}={typed}"
        else:
            argv[i + 1] = typed
    if typed is not None and early:
        raise InputError(f"{early} stands before --config; put --config first")
    return argv, typed


def _require_fit_all_runs(overrides, *, closed: bool) -> None:
    """Looks at the fields that every run has, before a config is loaded."""
    base, table = config_lib.base(), dict(fields.flat(config_lib.FIELDS))
    for name, text in overrides:
        if name.startswith("method."):
            continue
        value = _require_fits(base, name, text, closed=closed)
        if name in table and value is not None:
            table[name].check(name, value)


def _require_fits(config, name: str, text: str | None, *, closed: bool) -> Any:
    """The value that a text stands for; None where there is none, or nobody knows.

    Args:
      config: whose values say of which kind one is.
      name: of the field, in dots.
      text: as it was typed, None where nothing was.
      closed: whether the config has all the fields that there are.

    Raises:
      InputError: the config has no such field, or it cannot take the value.
    """
    place = "config"
    for part in name.split("."):
        if not isinstance(config, ml_collections.ConfigDict):
            raise InputError(f"{place} is a field, and has no field {part!r} in it")
        if part not in config:
            if closed and part.isidentifier():
                hint = did_you_mean(part, config)
                known = f"; it has {', '.join(sorted(config))}"
                raise InputError(f"{place} has no field {part!r}{hint or known}")
            return None
        kind = config.get_type(part)
        config, place = config[part], f"{place}.{part}"
    if isinstance(config, ml_collections.ConfigDict):
        raise InputError(
            f"{place} is a group of fields; set one of them, such as "
            f"--{place}.{next(iter(config))}"
        )
    parser = _PARSERS.get(kind)
    if parser is None or text is None:
        return text
    try:
        return parser.parse(text)
    except (TypeError, ValueError):
        kind = fields.Field(config, "").may_be
        raise InputError(f"{place}={text} must be {kind}") from None


def _sentence(error: Exception, typed: str | None, overrides) -> str:
    """What went wrong while the flags were parsed and the config was loaded.

    Raises:
      Exception: the error itself, where it is a defect of this project.
    """
    if ours := [cause for cause in _causes(error) if isinstance(cause, InputError)]:
        return str(ours[-1])
    if typed is not None:
        try:
            config = flags.FLAGS["config"].parser.parse(typed)
        except Exception as failure:
            return _sentence_on_file(typed.partition(":")[0], list(_causes(failure)))
        try:
            for name, text in overrides:
                _require_fits(config, name, text, closed=True)
        except InputError as found:
            return str(found)
    if isinstance(
        error, flags.Error | AttributeError | KeyError | TypeError | ValueError
    ):
        return str(error).partition("\n")[0]
    raise error


def _sentence_on_file(path: str, errors: list[BaseException]) -> str:
    """What is wrong with a config file; `errors` from the last one to the first."""
    first = errors[-1]
    if isinstance(first, SyntaxError) and first.filename == path:
        return f"the config file {path} has a fault in line {first.lineno}: {first.msg}"
    if isinstance(first, AttributeError) and first.name == "get_config":
        return f"the config file {path} defines no get_config()"
    package = str(pathlib.Path(__file__).parent)
    for error in reversed(errors):
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        if lines and frames[-1].filename.startswith(package):
            raise error
        if lines:
            return f"the config file {path} fails in line {lines[-1]}: {_shown(error)}"
    return f"the config file {path} fails: {_shown(first)}"


def _shown(error: BaseException) -> str:
    text = str(error)
    # As ml_collections has it, which quotes it twice.
    missing = re.match(r'\W*(\w+)\b.*Did you mean "(\w+)"', text)
    if isinstance(error, AttributeError) and missing:
        return f"there is no field {missing[1]!r} (did you mean {missing[2]!r}?)"
    return f"{type(error).__name__}: {text}".partition("\n")[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
