"""CSV files that users write, by hand or with a spreadsheet.

Cells are parted by commas, semicolons or tabs, as the first line shows, or by what a
line `sep=;` before it says. Around cells, spaces do not count; for the names of
columns, case does not either. Lines and rows that are empty are passed over, and so are
empty cells at the end of a row.
"""

import csv
import io
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterator, Sequence

from jaxad.errors import InputError

_SEPARATORS = ",;\t"
_SEP = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


def rows(
    table: pathlib.Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV in UTF-8, by column, each with the number of its line.

    Args:
      table: whose first line names the columns.
      columns: that it must have.
      optional: others that have a meaning.

    Raises:
      InputError: it cannot be read, lacks a column or has it twice, or has a line of
        another length.
    """
    text = _text(table)
    known = {*columns, *optional}
    skip, separators = 0, _SEPARATORS
    if told := _SEP.fullmatch(text.partition("\n")[0]):
        skip, separators = 1, told[1]
    try:
        parsed = [_parsed(text, separator, skip) for separator in separators]
        headers = [_header(next(lines, (0, []))[1]) for lines in parsed]
        # The first of those that part the names of most columns.
        counts = [len(known.intersection(header)) for header in headers]
        best = counts.index(max(counts))
        found, header = list(parsed[best]), headers[best]
    except csv.Error as error:
        raise InputError(f"{table} cannot be read as a CSV ({error})") from None
    if missing := [name for name in columns if name not in header]:
        several = "columns" if len(columns) > 1 else "column"
        raise InputError(
            f"{table} has no column {', '.join(missing)}; its first line must name the "
            f"{several} {', '.join(columns)}"
            + (optional and f" and may name {_listed(optional)}" or "")
        )
    for name in known:
        if header.count(name) > 1:
            raise InputError(f"{table} has the column {name} twice; rename one")
    for line, cells in found:
        if len(cells) < len(header) or any(cells[len(header) :]):
            raise InputError(
                f"{table}, line {line}: not as many cells as columns ({len(cells)}, "
                f"and {len(header)}); a cell that holds a separator is put in quotes"
            )
    return [(line, dict(zip(header, cells, strict=False))) for line, cells in found]


def path(table: pathlib.Path, text: str) -> str | None:
    """The file that a cell names, relative to the table; None where there is none.

    Backslashes count as slashes, and letters with marks as either of the two ways in
    which systems write them, where that gives a file.
    """
    slashes = text.replace("\\", "/")
    forms = (unicodedata.normalize(form, slashes) for form in ("NFC", "NFD"))
    for name in (text, slashes, *forms):
        if os.path.exists(found := os.path.join(table.parent, name)):
            return found
    return None


def _text(table: pathlib.Path) -> str:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{table} is not in UTF-8; save it as CSV UTF-8") from None
    except OSError as error:
        raise InputError(
            f"{table} cannot be read as a CSV ({error.strerror})"
        ) from None
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise InputError(
            f"{table}, line {line}: a zero byte, so it is no text, or not in UTF-8; "
            "save it as CSV UTF-8"
        )
    return text


def _parsed(text: str, separator: str, skip: int) -> Iterator[tuple[int, list[str]]]:
    """Rows with the lines that they begin in; without those that are empty."""
    lines = io.StringIO(text)
    for _ in range(skip):
        lines.readline()
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    line = 1 + skip
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if any(cells):
            yield line, cells
        line = reader.line_num + 1 + skip


def _header(cells: Sequence[str]) -> list[str]:
    """Names of columns; those at the end that have none are no columns."""
    names = [cell.casefold() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
