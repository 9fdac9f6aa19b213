"""The site: `make docs` builds it in build/docs; a warning is an error."""

import re

import jaxad

project = "jaxad"
release = version = jaxad.__version__

extensions = [
    "myst_parser",  # pages are Markdown, so that they can be read without the site
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",  # docstrings have Google's sections
]
html_theme = "sphinx_book_theme"
html_theme_options = {"show_toc_level": 2}
html_show_copyright = False
html_title = f"jaxad {version}"
templates_path = ["_templates"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes and types
napoleon_use_ivar = True

_SECTION = re.compile(r"(Args|Attributes|Raises|References|Returns|Yields):")
_CODE = re.compile(r"`([^`]*)`")
# What reStructuredText would take for markup, but for the bullets of a list.
_MARKUP = re.compile(r"[|_\\]|(?<!^)\*|^\*(?! )", re.MULTILINE)


def _plain(lines: list[str]) -> list[str]:
    """Prose in which nothing but `code` is marked up, as reStructuredText."""
    prose, *rest = _CODE.split("\n".join(lines))
    found = _MARKUP.sub(r"\\\g<0>", prose)
    for code, prose in zip(rest[::2], rest[1::2], strict=True):
        # Letters may follow on code, as in `Split`s.
        apart = r"\ " if prose[:1].isalnum() else ""
        found += f"``{code}``{apart}" + _MARKUP.sub(r"\\\g<0>", prose)
    return found.split("\n")


def _as_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings as they are written here: what is indented is code, or a section's."""
    found, prose, section, code = [], [], False, False
    for line in lines:
        if line and not line.startswith(" "):
            section, bullet = bool(_SECTION.fullmatch(line)), line.startswith("* ")
            if code:
                prose.append("")
            code = False
        elif line and not (section or bullet or code):
            found += [*_plain(prose), "", "::", ""]
            prose, code = [], True
        (found if code else prose).append("**Example**" if line == "Example:" else line)
    lines[:] = found + _plain(prose)


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _as_rst, priority=400)  # before napoleon
