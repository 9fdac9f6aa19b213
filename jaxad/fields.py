"""Fields of a config: a default, what it means, and what it may be.

A table is a dictionary of `Field`s, in which a group of fields is a dictionary again:

  FIELDS = dict(
      sigma=Field(0.5, "bandwidth of the similarity (ours)", ABOVE_0),
      decoder=dict(skip=Field("none", "connections to F", one_of("none", "unet"))),
  )

It is all there is to write: the config of defaults, the checks that name the field, and
the lists that `--help` and docs/fields.md print come from it.
"""

import dataclasses
import numbers
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from jaxad.errors import InputError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a field may be.

    Attributes:
      words: what follows "must be".
      holds: of a value that is of the default's kind.
      names: all that there are, where it is one of them, or a tuple of some.
      word: a text that a field of another kind may be as well.
    """

    words: str
    holds: Callable[[Any], bool] = lambda value: True
    names: tuple[str, ...] = ()
    word: str | None = None


@dataclasses.dataclass(frozen=True)
class Field:
    """A field.

    Attributes:
      default: also says of which kind a value is.
      meaning: one line. (ours) marks a default of this project where a paper is silent,
        (inferred) what independent reproductions take to be the paper's.
      bound: None where every value of the kind works.
      under: another field of the table, by its name in dots, and the values of it that
        this one acts under, or one of them where it is a tuple; () is under all. A part
        of somebody's own, named by a path with dots, may read every field.
    """

    default: Any
    meaning: str
    bound: Bound | None = None
    under: tuple[Any, ...] = ()

    @property
    def may_be(self) -> str:
        return (self.bound or _KINDS[type(self.default)]).words

    @property
    def word(self) -> str | None:
        return self.bound and self.bound.word

    def check(self, name: str, value: Any) -> None:
        """Raises InputError, naming the field, for a value that cannot work."""
        # JSON, in which a run keeps its config, has no tuples.
        value = tuple(value) if isinstance(value, list) else value
        if self.word is not None and value == self.word:
            return
        kind = _KINDS[type(self.default)]
        in_full = isinstance(self.default, tuple) or self.word is not None
        words = self.may_be if in_full else kind.words
        require(kind.holds(value), name, repr(value), words)
        if self.bound is None:
            return
        if self.bound.names:
            for one in value if isinstance(value, tuple) else (value,):
                choose(name, one, self.bound.names)
        require(self.bound.holds(value), name, value, self.bound.words)


Table = Mapping[str, "Field | Table"]


# ---- Bounds


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


_KINDS = {
    bool: Bound("true or false", lambda x: isinstance(x, bool)),
    int: Bound("a whole number", _is_whole),
    float: Bound("a number", _is_number),
    str: Bound("text", lambda x: isinstance(x, str)),
    tuple: Bound("a tuple", lambda x: isinstance(x, tuple)),
}

ABOVE_0 = Bound("above 0", lambda x: x > 0)
NOT_NEGATIVE = Bound("0 or more", lambda x: x >= 0)
SHARE = Bound("between 0 and 1", lambda x: 0 <= x <= 1)
SOME = Bound("above 0 and at most 1", lambda x: 0 < x <= 1)
NOT_ALL = Bound("0 or more and below 1", lambda x: 0 <= x < 1)
PART = Bound("above 0 and below 1", lambda x: 0 < x < 1)
ODD = Bound("an odd number", lambda x: x >= 1 and x % 2 == 1)
TEXTS = Bound("a tuple of names", lambda x: all(isinstance(one, str) for one in x))


def at_least(least: float) -> Bound:
    return Bound(f"at least {least}", lambda x: x >= least)


def between(low: float, high: float) -> Bound:
    return Bound(f"{low} to {high}", lambda x: low <= x <= high)


def or_word(bound: Bound, word: str) -> Bound:
    """A text beside what the bound says."""
    return dataclasses.replace(bound, words=f"{bound.words}, or {word}", word=word)


def one_of(*names: str) -> Bound:
    return Bound(f"one of {', '.join(names)}", names=names)


def some_of(*names: str) -> Bound:
    return Bound(f"any of {', '.join(names)}", names=names)


def numbers_of(words: str, each: Callable[[float], bool], *lengths: int) -> Bound:
    """A tuple of numbers that `each` holds for, of one of the lengths, or of any."""

    def holds(values):
        fits = not lengths or len(values) in lengths
        return fits and all(_is_number(x) and each(x) for x in values)

    return Bound(words, holds)


_TWO = numbers_of("", lambda x: x == x, 2)
RANGE = Bound("a lower and an upper bound", lambda x: _TWO.holds(x) and x[0] <= x[1])


def range_within(low: float, high: float) -> Bound:
    return Bound(
        f"{RANGE.words} within {low} and {high}",
        lambda x: RANGE.holds(x) and low <= x[0] and x[1] <= high,
    )


def choose(field: str, value: str, allowed: tuple[str, ...], or_else: str = "") -> None:
    """Raises InputError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise InputError(
            f"config.{field}={value!r} is not known{did_you_mean(value, allowed)}; "
            f"choose one of {', '.join(allowed)}{or_else}"
        )


def require(holds: bool, field: str, value: Any, must_be: str) -> None:
    """Raises InputError naming the field unless `holds`."""
    if not holds:
        raise InputError(f"config.{field}={value} must be {must_be}")


# ---- Tables


def flat(tree: Mapping, group: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a table, or value of a config, with its name in dots.

    Args:
      tree: groups in groups: a table, or the dictionary of a config.
      group: what the names begin with, before a dot.
    """
    for name, entry in tree.items():
        name = f"{group}.{name}" if group else name
        if isinstance(entry, Mapping):
            yield from flat(entry, name)
        else:
            yield name, entry


def differing(one: Mapping, other: Mapping) -> set[str]:
    """Names of the values that the dictionaries of two configs do not have the same."""
    one, other = dict(flat(one)), dict(flat(other))
    return {name for name in one | other if one.get(name) != other.get(name)}


def defaults(table: Table) -> ml_collections.ConfigDict:
    """The config in which every field has its default."""

    def values(table):
        return {
            name: value(entry) if isinstance(entry, Field) else values(entry)
            for name, entry in table.items()
        }

    def value(field):
        # A config keeps to the kind of a default, unless told of any.
        return field.default if field.word is None else _of_any_kind(field.default)

    return ml_collections.ConfigDict(values(table))


def _of_any_kind(default: Any) -> ml_collections.FieldReference:
    return ml_collections.FieldReference(default, field_type=object)


def check(table: Table, config: Mapping, group: str = "") -> None:
    """Checks every field of a table by itself.

    Args:
      table: of the fields.
      config: of this table; what else it holds is not looked at.
      group: where it lies, for messages: "method" for `config.method`.

    Raises:
      InputError: names the first field that is missing, or whose value cannot work.
    """
    for name, field in flat(table):
        place = f"{group}.{name}" if group else name
        try:
            value = get(config, name)
        except (KeyError, TypeError):
            raise InputError(
                f"config.{place} is missing; its default is {shown(field.default)}"
            ) from None
        field.check(place, value)


@dataclasses.dataclass(frozen=True)
class Idle:
    """A field that has not its default, and no effect.

    Attributes:
      name: the whole one, in dots.
      value: of the field.
      other: the field that it acts under, whole as well.
      found: what that one is.
      values: what that one has to be.
      default: of the field.
    """

    name: str
    value: Any
    other: str
    found: Any
    values: tuple[Any, ...]
    default: Any

    def __str__(self) -> str:
        return (
            f"config.{self.name}={shown(self.value)} has no effect with "
            f"config.{self.other}={shown(self.found)}; leave it at "
            f"{shown(self.default)}, or set that to "
            f"{' or '.join(map(shown, self.values))}"
        )


def idle(table: Table, config: Mapping, group: str = "") -> list[Idle]:
    """The fields that another one's value leaves without effect.

    Args:
      table, config, group: as in `check`, which tells of fields that are missing.
    """
    known, dots = dict(flat(table)), f"{group}." if group else ""
    found = []
    for name, field in known.items():
        value = _there(config, name, field.default)
        # JSON, in which a run keeps its config, has no tuples.
        if field.default == (tuple(value) if isinstance(value, list) else value):
            continue
        for other, *values in _conditions(known, name):
            there = _there(config, other, values[0])
            if not _is_one_of(there, values):
                names = dots + name, value, dots + other, there
                found.append(Idle(*names, tuple(values), field.default))
                break
    return found


def _there(config: Mapping, name: str, default: Any) -> Any:
    try:
        return get(config, name)
    except (KeyError, TypeError):
        return default


def _conditions(known: Mapping[str, Field], name: str) -> Iterator[tuple[Any, ...]]:
    """What the field acts under, what that acts under, and so on."""
    passed = [name]
    while name in known and known[name].under:
        yield known[name].under
        name = known[name].under[0]
        if name not in known or name in passed:
            chain = " under ".join([*passed, name])
            why = "has itself above it" if name in passed else "is no field"
            raise InputError(f"of the fields of a table, {chain}: {name} {why}")
        passed.append(name)


def _is_one_of(value: Any, values: Sequence[Any]) -> bool:
    """Whether a field acts; with a part of somebody's own, by its path, each may."""
    if isinstance(value, tuple | list):
        return any(one in value for one in values)
    return value in values or (isinstance(value, str) and "." in value)


def acting(table: Table, other: str, *values: Any) -> Table:
    """A table whose fields act under a value of another field, if no other is named."""
    under = (other, *values)
    return {
        name: acting(entry, *under)
        if not isinstance(entry, Field)
        else entry
        if entry.under
        else dataclasses.replace(entry, under=under)
        for name, entry in table.items()
    }


def get(config: Mapping, name: str) -> Any:
    """The value of a field that is named with dots."""
    for part in name.split("."):
        config = config[part]
    return config


def text(table: Table, config: Mapping) -> str:
    """The list of a config's fields for a terminal: values, bounds and meanings."""
    lines = []
    for name, field in flat(table):
        try:
            value = shown(get(config, name))
        except (KeyError, TypeError):
            value = "missing"
        default = shown(field.default)
        other = "" if value == default else f"; {default} by default"
        lines.append(f"  --config.{name}={value}  ({field.may_be}{other})")
        lines += textwrap.wrap(
            field.meaning, 88, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines) + "\n"


def markdown(table: Table, group: str = "") -> str:
    """The same as a table of Markdown, at the defaults."""
    lines = ["| Field | Default | May be | Meaning |", "| --- | --- | --- | --- |"]
    for name, field in flat(table, group):
        cells = f"`{name}`", f"`{shown(field.default)}`", field.may_be, field.meaning
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells))
        lines[-1] += " |"
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    """As a command line takes it."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float):
        return repr(float(f"{value:.6g}"))
    if isinstance(value, tuple | list):
        inner = ", ".join(
            repr(one) if isinstance(one, str) else shown(one) for one in value
        )
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)
