"""Configs of finished runs: what is not at its default, and what differs."""

from collections.abc import Sequence
from typing import Any

from jaxad import config as config_lib
from jaxad import fields, methods
from jaxad.errors import InputError
from jaxad.reporting.reading import Run
from jaxad.run import identity


def changed(run: Run) -> dict[str, Any]:
    """Fields that are not as the run's config file has them, and all as they are.

    Of a run without one, those that are not at the default of any config.
    """
    flat = dict(fields.flat(run.config))
    try:
        config = config_lib.completed(run.config)
        table = config_lib.FIELDS | {"method": methods.fields(config)}
    except InputError:  # a method of one's own, which is not at hand
        table = config_lib.FIELDS
    known = dict(fields.flat(table))
    file = run.config_file
    if file is None:
        base = {name: field.default for name, field in known.items()}
        changed = [
            n for n in flat if n not in base or _plain(flat[n]) != _plain(base[n])
        ]
    else:
        base = file["defaults"]
        changed = [name for name in flat if name in base]
    others = [
        {
            "name": name,
            "value": fields.shown(flat[name]),
            "default": fields.shown(base[name]) if name in base else "",
            "meaning": known[name].meaning if name in known else "",
        }
        for name in changed
    ]
    everything = [(name, fields.shown(value)) for name, value in flat.items()]
    return {"file": file and file["file"], "changed": others, "all": everything}


def _plain(value):
    """As JSON has it, which knows no tuples."""
    return list(map(_plain, value)) if isinstance(value, list | tuple) else value


def differing(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Fields that the runs do not have the same, with the value of each.

    Those on which no number depends are not among them.
    """
    return [
        (name, ["-" if value is None else fields.shown(value) for value in values])
        for name, values in values_that_differ([run.config for run in runs])
    ]


def values_that_differ(configs: Sequence[dict]) -> list[tuple[str, list[Any]]]:
    """As `differing`, the values as they are; None where a config has no such field."""
    flat = [dict(fields.flat(config)) for config in configs]
    names = dict.fromkeys(name for one in flat for name in one)
    return [
        (name, [one.get(name) for one in flat])
        for name in names
        if name not in identity.PLACES
        and len({repr(_plain(one.get(name))) for one in flat}) > 1
    ]
