"""CSV files that users write."""

import csv
import io
import pathlib
from collections.abc import Sequence

from jaxad.errors import InputError


def rows(
    table: pathlib.Path, columns: Sequence[str], optional: str = ""
) -> list[dict[str, str]]:
    """The rows of a CSV in UTF-8, by column.

    Args:
      table: whose first line names the columns.
      columns: that it must have.
      optional: names others that have a meaning, for the message.

    Raises:
      InputError: it cannot be read, lacks a column, or has a line of another length.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
        found = list(reader)
    except UnicodeDecodeError:
        raise InputError(f"{table} is not in UTF-8; save it as CSV UTF-8") from None
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{table} cannot be read as a CSV ({reason})") from None
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        several = "columns" if len(columns) > 1 else "column"
        raise InputError(
            f"{table} has no column {', '.join(missing)}; its first line must name the "
            f"{several} {', '.join(columns)}"
            + (optional and f" and may name {optional}")
        )
    for line, row in enumerate(found, start=2):
        if None in row or None in row.values():
            raise InputError(f"{table}, line {line}: not as many cells as columns")
    return found
