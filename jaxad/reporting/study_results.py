"""What the runs of a study have found: numbers by row, seed, category and bank.

Runs are repeated in up to three ways. What they vary in is averaged in this order:
banks (starts of the coreset) within a seed, categories within a seed, then seeds. The
categories are what the study is of, and no sample; so an interval is over seeds where
there are two or more, else over banks, and else over categories.
"""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Iterator, Set

import numpy as np

from jaxad import statistics
from jaxad.errors import InputError
from jaxad.reporting import reading
from jaxad.run import results, study
from jaxad.statistics import Difference, Mean
from tfds_builders.published import GROUPS

Key = tuple[int, str, int]  # seed, category, bank
UNITS = ("seed", "bank", "category")
_PLACES = dict(zip(UNITS, (0, 2, 1), strict=True))


@dataclasses.dataclass(frozen=True)
class Study:
    """What lies in the folder of a study so far.

    Attributes:
      folder: its own.
      runs: row -> seed -> the folder of a finished run.
      outcomes: row -> seed -> what its `results.json` holds.
      failed: row -> seed -> why, in one line.
      baseline: the row that the others are compared with.
      metrics: those that some run has.
      plain: whether they are shown as they are, and not in per cent: probes.
    """

    folder: pathlib.Path
    runs: dict[str, dict[int, pathlib.Path]]
    outcomes: dict[str, dict[int, dict]]
    failed: dict[str, dict[int, str]]
    baseline: str
    metrics: list[str]
    plain: bool

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def rows(self) -> list[str]:
        """Those with a finished run."""
        return [row for row, seeds in self.outcomes.items() if seeds]

    def values(self, row: str, metric: str) -> dict[Key, float]:
        """Of every seed, category and bank; nothing where one is undefined."""
        found: dict[Key, float | None] = {}
        for seed, outcome in self.outcomes[row].items():
            for category, one in _categories(outcome).items():
                banks = one.get("banks")
                many = banks["metrics"].get(metric) if banks else None
                for bank, value in enumerate(many or [one.get(metric)]):
                    found[seed, category, bank] = value
        return {} if None in found.values() else found

    def categories(self) -> list[str]:
        """All that some run has."""
        return list(
            dict.fromkeys(
                category
                for seeds in self.outcomes.values()
                for outcome in seeds.values()
                for category in _categories(outcome)
            )
        )

    def columns(self) -> list[tuple[str, Set[str] | None]]:
        """What tables of categories have a column for, and which categories it is of:
        each of them, each of the groups, and all, None."""
        found = self.categories()
        single = [(name, {name}) for name in found]
        groups = [(name, set(parts)) for name, parts in self.groups().items()]
        return [*single, *groups, ("mean", None)]

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Categories that a mean is published of, where all of them, and others, are
        there; by their names, so that a folder laid out like MVTec AD has them too."""
        found = set(self.categories())
        return {name: parts for name, parts in GROUPS.items() if set(parts) < found}


def _categories(outcome: dict) -> dict[str, dict]:
    return outcome.get("categories") or {"corpus": outcome["mean"]}


def read(folder: pathlib.Path) -> Study | None:
    """The study in a folder; None where there is none.

    Raises:
      InputError: a file of it is damaged.
    """
    written = results.read_json(folder / study.PLAN)
    if written is None:
        return None
    runs: dict[str, dict[int, pathlib.Path]] = {}
    outcomes: dict[str, dict[int, dict]] = {}
    failed: dict[str, dict[int, str]] = {}
    for row, place in written["rows"].items():
        finished = {
            int(path.parent.name): path
            for path in (folder / place).glob(f"*/{reading.RESULTS}")
            if path.parent.name.isdecimal() and (path.parent / reading.CONFIG).exists()
        }
        runs[row] = {seed: finished[seed].parent for seed in sorted(finished)}
        outcomes[row] = {s: results.read_json(finished[s]) for s in runs[row]}
        failed[row] = {
            int(path.name.removesuffix(study.FAILED)): path.read_text("utf-8")
            for path in sorted((folder / place).glob(f"*{study.FAILED}"))
        }
    every = [outcome for seeds in outcomes.values() for outcome in seeds.values()]
    plain = any("probes" in outcome for outcome in every)
    names = dict.fromkeys(results.COLUMNS)
    if plain:
        names = dict.fromkeys(n for outcome in every for n in outcome["mean"])
    names |= dict.fromkeys(n for o in every for n in o.get("metrics", ()))
    metrics = [
        name
        for name in names
        if any(
            one.get(name) is not None
            for outcome in every
            for one in _categories(outcome).values()
        )
    ]
    return Study(folder, runs, outcomes, failed, written["baseline"], metrics, plain)


def averaged(values: dict[Key, float], over: str) -> dict[int | str, float]:
    """Means of each seed, bank or category, over all that else varies.

    Banks of a category are averaged first, and every category weighs the same.
    """
    place = _PLACES[over]
    groups: dict[int | str, dict[tuple, list[float]]] = {}
    for key, value in values.items():
        groups.setdefault(key[place], {}).setdefault(key[:2], []).append(value)
    return {
        unit: float(np.mean([np.mean(banks) for banks in parts.values()]))
        for unit, parts in groups.items()
    }


def unit_of(values: dict[Key, float]) -> str | None:
    """What an interval is over: the first of `UNITS` that has two or more."""
    for unit in UNITS:
        if len({key[_PLACES[unit]] for key in values}) > 1:
            return unit
    return None


@dataclasses.dataclass(frozen=True)
class Cell:
    """A metric of a row.

    Attributes:
      mean: over seeds, of means over categories and banks; with its interval.
      unit: what the interval is over, None of a single number.
      banks: the standard deviation over banks, of a mean over categories, averaged
        over seeds; None without several banks.
    """

    mean: Mean
    unit: str | None
    banks: float | None


def cell(study: Study, row: str, metric: str, categories: Set[str] | None = None):
    """A `Cell`, or None where a run has no such number.

    Args:
      categories: the mean of these alone; of a row that has them all.
    """
    values = study.values(row, metric)
    there = {key[1] for key in values}
    wanted = categories or there
    if not values or not wanted <= there:
        return None
    values = {key: x for key, x in values.items() if key[1] in wanted}
    unit = unit_of(values)
    # Over categories there is a mean and no repetition.
    repeated = unit if unit in ("seed", "bank") else "seed"
    found = statistics.mean(list(averaged(values, repeated).values()))
    return Cell(found, unit if unit != "category" else None, _over_banks(values))


def _over_banks(values: dict[Key, float]) -> float | None:
    deviations = []
    for seed in {key[0] for key in values}:
        mine = {key: x for key, x in values.items() if key[0] == seed}
        banks = list(averaged(mine, "bank").values())
        if len(banks) > 1:
            deviations.append(np.std(banks, ddof=1))
    return float(np.mean(deviations)) if deviations else None


@dataclasses.dataclass(frozen=True)
class Against:
    """A row against another one, run by run.

    Attributes:
      difference: of pairs with the same seed, category and bank; None of one pair.
      unit: what the interval is over, None likewise.
      count: of these.
      value: the mean difference.
      signed_rank: Wilcoxon's test over the same.
    """

    difference: Difference | None
    unit: str | None
    count: int
    value: float
    signed_rank: statistics.SignedRank | None


def against(study: Study, metric: str, first: str, second: str) -> Against | None:
    """The second row less the first; None where no runs belong together."""
    one, other = (study.values(row, metric) for row in (first, second))
    both = one.keys() & other.keys()
    if not both:
        return None
    pairs = {key: other[key] - one[key] for key in sorted(both)}
    value = float(np.mean(list(averaged(pairs, "seed").values())))
    unit = unit_of(pairs)
    if unit is None:
        return Against(None, None, 1, value, None)
    apart = list(averaged(pairs, unit).values())
    zero = [0.0] * len(apart)
    return Against(
        statistics.paired_difference(zero, apart),
        unit,
        len(apart),
        value,
        statistics.signed_rank(zero, apart),
    )


def best(study: Study, metric: str) -> str | None:
    """The row that is better than every other by the paired test, with Holm's
    adjustment at 5 %; None where the test does not say so of any."""
    cells = {row: cell(study, row, metric) for row in study.rows}
    means = {row: one.mean.value for row, one in cells.items() if one}
    if len(means) < 2:
        return None
    first = max(means, key=means.get)
    p_values = []
    for row in means:
        if row != first:
            found = against(study, metric, row, first)
            if found is None or found.difference is None or found.value <= 0:
                return None
            p_values.append(found.difference.p_value)
    return first if max(statistics.holm(p_values)) < 1 - statistics.LEVEL else None


def ranking(
    study: Study, metric: str
) -> tuple[list[str], str, statistics.Ranking] | str:
    """The rows ranked on every category, or of one category on every seed or bank.

    Returns:
      (rows, what they are ranked over, the ranking), or a sentence why there is none.
    """
    values = {row: study.values(row, metric) for row in study.rows}
    values = {row: found for row, found in values.items() if found}
    for unit in ("category", "seed", "bank"):
        places = [{key[_PLACES[unit]] for key in found} for found in values.values()]
        blocks = sorted(set.intersection(*places)) if places else []
        if len(blocks) > 1:
            break
    table = [[averaged(v, unit)[block] for v in values.values()] for block in blocks]
    try:
        found = statistics.rank(np.reshape(table, (len(blocks), len(values))))
    except InputError as error:
        return str(error)
    return list(values), unit, found


def write_values(study: Study) -> None:
    """`study.csv`: every number there is, one a line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("row", "seed", "category", "group", "bank", "metric", "value"))
    for line in _lines(study):
        writer.writerow(line)
    results.write_text(study.folder / "study.csv", out.getvalue())


def _lines(study: Study) -> Iterator[tuple]:
    of = {name: group for group, names in study.groups().items() for name in names}
    for row in study.rows:
        for metric in study.metrics:
            for (seed, category, bank), value in study.values(row, metric).items():
                group = of.get(category, "")
                yield row, seed, category, group, bank, metric, f"{value:.9g}"
