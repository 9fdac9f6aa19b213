"""Own images that a CSV lists."""

import os
import pathlib
import unicodedata
from collections.abc import Collection, Iterator

from jaxad.data import layout, tables
from jaxad.data.listing import Item, Listing
from jaxad.data.split import Note
from jaxad.errors import InputError, did_you_mean

_COLUMNS, _MORE = ("file", "split", "label"), ("mask", "category", "defect_type")


def categories(table: pathlib.Path) -> tuple[str, ...]:
    """The categories of its rows.

    Raises:
      InputError: as `tables.rows`; one of them is no plain name; there are none.
    """
    found = {category for _, category, _ in _rows(table)}
    if not found:
        raise InputError(f"{table} lists no image; it has no line after the first")
    return tuple(sorted(found))


def labels(table: pathlib.Path) -> set[str]:
    """All labels of its rows, as they are written."""
    return {row["label"] for _, _, row in _rows(table)}


def listing(
    table: pathlib.Path, category: str, split: str, good: frozenset[str]
) -> Listing:
    """A split of a category.

    Args:
      table: the CSV.
      category: whose rows count, though all are looked at.
      split: "train" or "test"; the other one stays empty.
      good: labels of normal images, in lower case.

    Raises:
      InputError: names the line of a cell that cannot be, of a file that does not
        exist, and of a row that contradicts another.
    """
    labels = dict.fromkeys((*layout.GOOD, *good, "0"), 0)
    labels |= dict.fromkeys((*layout.BAD, "1"), 1)
    found = Listing(table.parent)
    known: dict[tuple[str, str], tuple[int, Item, str]] = {}
    columns, of_all = [], set()
    for line, of, row in _rows(table):
        columns, of_all = list(row), of_all | {of}
        where = _one_of(table, line, "split", row, ("train", "test"))
        more = "; config.dataset.normal_names adds to the normal ones"
        label = labels[_one_of(table, line, "label", row, labels, more)]
        if not row["file"]:
            raise _mistake(table, line, "file is empty; name an image")
        kind = row.get("defect_type") or ("good", "anomalous")[label]
        item = Item(row["file"], label, kind, (row.get("mask", ""),))
        key = of, _same(item.image)
        before, its, its_split = known.setdefault(key, (line, item, where))
        if before != line:
            _require_same(table, line, item, where, before, its, its_split)
        if (of, where) != (category, split):
            continue
        if before != line:
            again = f"{table.name}, line {line}: {item.image}"
            note = Note(again, "row that is there twice", f"first in line {before}")
            found.notes[split].append(note)
            continue
        image, mask = (
            _file(table, line, column, row.get(column)) for column in ("file", "mask")
        )
        found.items[split].append(Item(image, label, kind, (mask,) if mask else ()))
    if (split, category) == ("train", min(of_all, default="")):  # told once
        found.notes[split] += _unread(table, columns)
    return found


def _unread(table: pathlib.Path, columns: list[str]) -> Iterator[Note]:
    for name in columns:
        if name and name not in _COLUMNS + _MORE:
            hint = did_you_mean(name, _MORE).strip(" ()")
            yield Note(f"{table.name}: {name}", "column that is not read", hint)


def _one_of(
    table: pathlib.Path,
    line: int,
    column: str,
    row: dict[str, str],
    known: Collection[str],
    more: str = "",
) -> str:
    """A cell in lower case, which must be known."""
    value = row[column].casefold()
    if value not in known:
        must_be = f"must be one of {', '.join(known)}{more}"
        raise _mistake(table, line, f"{column} {row[column]!r} {must_be}")
    return value


def _require_same(table, line, item, where, before, its, its_split) -> None:
    """Raises InputError where two rows of one image do not say the same of it."""
    for column, one, other in (
        ("label", item.label, its.label),
        ("split", where, its_split),
        ("defect_type", item.defect_type, its.defect_type),
        ("mask", item.masks, its.masks),
    ):
        if one != other:
            raise _mistake(
                table,
                line,
                f"{item.image} has another {column} in line {before}; keep one of them",
            )


def _file(table: pathlib.Path, line: int, column: str, name: str | None) -> str:
    """The path of a cell; "" where it is empty."""
    if not name:
        return ""
    path = tables.path(table, name)
    if path is None:
        raise _mistake(
            table,
            line,
            f"{column} {name!r} does not exist; paths are relative to the CSV, and "
            "upper case counts",
        )
    return path


def _mistake(table: pathlib.Path, line: int, what: str) -> InputError:
    return InputError(f"{table}, line {line}: {what}")


def _rows(table: pathlib.Path) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Lines, categories and rows of a CSV."""
    called: dict[str, tuple[str, int]] = {}
    for line, row in tables.rows(table, _COLUMNS, _MORE):
        # A category names a folder of the run, and stands in comma-separated lists.
        category = row.get("category", table.stem)
        if category in ("", ".", "..") or set(category) & set("/\\,"):
            raise _mistake(
                table,
                line,
                f"category {category!r} must be a plain name, without slashes and "
                "commas",
            )
        name, before = called.setdefault(_same(category).casefold(), (category, line))
        if name != category:
            raise _mistake(
                table,
                line,
                f"category {category!r} is {name!r} in line {before}; write both the "
                "same",
            )
        yield line, category, row


def _same(name: str) -> str:
    """One name for whatever names the same file."""
    name = os.path.normpath(name.replace("\\", "/"))
    return name if name.isascii() else unicodedata.normalize("NFC", name)
