"""The folder of predictions: a row an image, written as soon as it is judged.

  predictions.csv    the rows
  predictions.json   what made them: detector, images, thresholds, versions
  maps/              pictures

A kill costs what is not judged yet. Whoever goes on with a folder finds the rows that
are whole, and must be the same detector on the same images.
"""

import contextlib
import csv
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from jaxad.devices import locks
from jaxad.errors import InputError, writing
from jaxad.inference import pictures

TABLE, CARD, MAPS = "predictions.csv", "predictions.json", "maps"
ANOMALOUS, NORMAL = "anomalous", "normal"
# What a rerun may have otherwise.
_FREE = ("scale", "versions")
# Names of files that are no UTF-8 come back as they were.
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


class Row(NamedTuple):
    """What is written of an image.

    Attributes:
      file: its name.
      score: None where it could not be read.
      p_value: None where the detector has no threshold.
      verdict: "anomalous" or "normal"; "" where there is none, or not yet.
      error: why it could not be read; else "".
      regions: of `inference.regions`; None without a threshold of pixels.
    """

    file: str
    score: float | None = None
    p_value: float | None = None
    verdict: str = ""
    error: str = ""
    regions: list[list[int]] | None = None


class Journal:
    """Rows on disk, in a folder that this process alone writes to; see `opened`.

    Attributes:
      folder: where they lie.
      about: what `predictions.json` says.
      done: names of the images that have a row.
      count: rows by verdict, and by "" for those without; broken images have none.
    """

    def __init__(self, folder: pathlib.Path, about: dict):
        self.folder, self.about = folder, about
        self._path, self._file = folder / TABLE, None
        self.done: set[str] = set()
        self.count = dict.fromkeys((ANOMALOUS, NORMAL, ""), 0)

    def append(self, row: Row) -> None:
        """Writes a row, so that a kill does not lose it."""
        with writing(self._path, "--out"):
            csv.writer(self._file, lineterminator="\n").writerow(_cells(row))
            self._file.flush()
        self._counted(row)

    def note(self, **about) -> None:
        """Adds to `predictions.json`."""
        self.about |= about
        text = json.dumps(self.about, indent=2, ensure_ascii=True)
        with _replacing(self.folder / CARD) as file:
            file.write(text + "\n")

    def rows(self) -> Iterator[Row]:
        """All that is written."""
        with open(self._path, **_TEXT) as file:
            reader = csv.reader(file)
            next(reader)
            yield from map(_row, reader)

    def rewrite(self, change: Callable[[Row], Row | None]) -> None:
        """Changes all rows at once, or none; None leaves one out."""
        rows = filter(None, map(change, self.rows()))
        self._close()
        self._write(rows)
        self._open()

    def path_of_map(self, file: str) -> pathlib.Path:
        """Where the picture of an image lies: under its name, as PNG, in `maps`."""
        return pictures.place(self.folder / MAPS, file)

    def _counted(self, row: Row) -> None:
        self.done.add(row.file)
        if not row.error:
            self.count[row.verdict] += 1

    def _recover(self) -> None:
        """Opens the table at the end of its last whole row."""
        if self._path.exists():
            with writing(self._path, "--out"):
                os.truncate(self._path, _whole(self._path))
        if not self._path.exists() or not self._path.stat().st_size:
            self._write(())
        with open(self._path, **_TEXT) as file:
            if next(csv.reader(file)) != list(Row._fields):
                raise InputError(
                    f"{self._path} has other columns than {', '.join(Row._fields)}; "
                    "choose another --out"
                )
        if any(row.error for row in self.rows()):
            # They may have been mended since.
            self.rewrite(lambda row: None if row.error else row)
        else:
            self._open()

    def _open(self) -> None:
        with writing(self._path, "--out"):
            self._file = open(self._path, "a", **_TEXT)  # noqa: SIM115
        self.done.clear()
        self.count = dict.fromkeys(self.count, 0)
        for row in self.rows():
            self._counted(row)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, rows: Iterable[Row]) -> None:
        with _replacing(self._path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Row._fields)
            writer.writerows(map(_cells, rows))


@contextlib.contextmanager
def opened(folder: pathlib.Path, about: dict) -> Iterator[Journal]:
    """A new journal, or one to go on with.

    Images that could not be read have no row any more: they are judged again.

    Args:
      folder: made if need be.
      about: what makes the rows, as JSON has it; a journal of anything else is refused.

    Raises:
      InputError: it is of something else, or no journal; another process writes to it;
        it cannot be written.
    """

    def taken():
        raise InputError(f"another process writes to {folder}; choose another --out")

    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out={folder} is a file; name a folder")
    with writing(folder, "--out"):
        folder.mkdir(parents=True, exist_ok=True)
    with locks.locked(folder / CARD, taken):
        journal = Journal(folder, about)
        earlier = _earlier(folder)
        if earlier is not None:
            differing = [
                name if name == "detector" else f"{name} ({earlier.get(name)} there)"
                for name in sorted((about.keys() | earlier.keys()) - set(_FREE))
                if about.get(name) != earlier.get(name)
            ]
            if differing:
                raise InputError(
                    f"{folder} holds predictions that differ in {', '.join(differing)};"
                    " choose another --out, or remove that folder"
                )
            journal.about = earlier
        else:
            journal.note()
        journal._recover()
        try:
            yield journal
        finally:
            journal._close()


def _earlier(folder: pathlib.Path) -> dict | None:
    """What the journal in a folder says of itself; None in an empty folder."""
    path = folder / CARD
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        # A hidden file, such as a lock, is nobody's.
        if any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise InputError(
                f"{folder} is not empty and holds no predictions; choose another --out"
            ) from None
        return None
    except ValueError:
        raise InputError(
            f"{path} is not valid JSON; remove {folder} to have it made again"
        ) from None


def _whole(path: pathlib.Path) -> int:
    """Bytes of the rows that are whole."""
    whole = position = quotes = 0
    with open(path, "rb") as file:
        for line in file:
            position += len(line)
            quotes += line.count(b'"')  # a name may hold a line's end
            if line.endswith(b"\n") and quotes % 2 == 0:
                whole = position
    return whole


@contextlib.contextmanager
def _replacing(path: pathlib.Path):
    """A file to write, which takes its place when it is whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path, "--out"):
        with open(temporary, "w", **_TEXT) as file:
            yield file
        os.replace(temporary, path)


def _cells(row: Row) -> tuple:
    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}g}"

    return row._replace(
        score=number(row.score, 9),  # gives back the float32
        p_value=number(row.p_value, 6),
        regions="" if row.regions is None else json.dumps(row.regions),
    )


def _row(cells: list[str]) -> Row:
    row = Row(*cells)
    return row._replace(
        score=float(np.float32(row.score)) if row.score else None,
        p_value=float(row.p_value) if row.p_value else None,
        regions=json.loads(row.regions) if row.regions else None,
    )
