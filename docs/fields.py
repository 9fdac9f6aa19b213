"""Writes docs/fields.md: every field of a config.

python docs/fields.py
"""

import importlib
import pathlib

from jaxad import config as config_lib
from jaxad import methods
from jaxad.fields import markdown

INTRODUCTION = """# Fields of a config

Every field, its default, what it may be and what it means. A config file sets fields \
in `get_config`, a command line with `--config.a.b=value`; what cannot work is told in \
one sentence before anything is computed. A field of a part that another field has \
not chosen, such as one of PaDiM with another detector, is refused where a command \
line sets it; where a config file has it, a run names it in one line. \
`python -m jaxad.main --config FILE --help` lists them with FILE's values.

(ours) marks a default of this project where the paper is silent, (inferred) what \
independent reproductions take to be the paper's.

This page is written by `python docs/fields.py`.
"""


def text() -> str:
    """The page."""
    parts = [INTRODUCTION, "## Every run\n", markdown(config_lib.FIELDS)]
    config = config_lib.base()
    for name in methods.NAMES:
        module = importlib.import_module(f"jaxad.methods.{name}")
        title = module.__doc__.partition(":")[0]
        parts.append(f'## {title}: `config.method` of "{name}"\n')
        config.method.name = name
        table = methods.fields(config)
        more = table is not config_lib.FIELDS["method"]
        parts.append(markdown(table, "method") if more else "It has no more fields.\n")
    return "\n".join(parts)


if __name__ == "__main__":
    pathlib.Path(__file__).with_suffix(".md").write_text(text(), encoding="utf-8")
