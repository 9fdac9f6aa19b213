"""What the runs of a study have found: numbers by row, seed, category and bank.

Runs are repeated in up to four ways. What they vary in is averaged in this order:
banks (starts of the coreset) and draws of few shots within a seed, categories within a
seed, then seeds. The categories are what the study is of, and no sample; so an interval
is over seeds where there are two or more, else over draws or banks, and else over
categories.
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
from jaxad.run.study import Repeat
from jaxad.statistics import Difference, Mean
from tfds_builders.published import GROUPS

Key = tuple[int, str, int | None, int]  # seed, category, draw, bank
UNITS = ("seed", "draw", "bank", "category")
_PLACES = dict(zip(UNITS, (0, 2, 3, 1), strict=True))


@dataclasses.dataclass(frozen=True)
class Study:
    """What lies in the folder of a study so far.

    Attributes:
      folder: its own.
      runs: row -> seed, and draw -> the folder of a finished run.
      outcomes: likewise, what its `results.json` holds.
      failed: likewise, why, in one line.
      baselines: row -> the one that it is compared with.
      metrics: those that some run has.
      plain: whether they are shown as they are, and not in per cent: probes.
    """

    folder: pathlib.Path
    runs: dict[str, dict[Repeat, pathlib.Path]]
    outcomes: dict[str, dict[Repeat, dict]]
    failed: dict[str, dict[Repeat, str]]
    baselines: dict[str, str]
    metrics: list[str]
    plain: bool

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def rows(self) -> list[str]:
        """Those with a finished run."""
        return [row for row, runs in self.outcomes.items() if runs]

    @property
    def inner(self) -> str:
        """What varies within a seed: draws, where runs have several, else banks."""
        runs = [repeat for found in self.runs.values() for repeat in found]
        return "bank" if all(draw is None for _, draw in runs) else "draw"

    @property
    def compared(self) -> dict[str, str]:
        """The rows with a finished run, as their baseline has one -> the baseline."""
        found, rows = self.baselines, self.rows
        return {row: found[row] for row in rows if found.get(row) in rows}

    def values(self, row: str, metric: str) -> dict[Key, float]:
        """Of every seed, category, draw and bank; nothing where one is undefined."""
        found: dict[Key, float | None] = {}
        for (seed, draw), outcome in self.outcomes[row].items():
            for category, one in _categories(outcome).items():
                banks = one.get("banks")
                many = banks["metrics"].get(metric) if banks else None
                for bank, value in enumerate(many or [one.get(metric)]):
                    found[seed, category, draw, bank] = value
        return {} if None in found.values() else found

    def categories(self) -> list[str]:
        """All that some run has."""
        return list(
            dict.fromkeys(
                category
                for runs in self.outcomes.values()
                for outcome in runs.values()
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
    runs: dict[str, dict[Repeat, pathlib.Path]] = {}
    outcomes: dict[str, dict[Repeat, dict]] = {}
    failed: dict[str, dict[Repeat, str]] = {}
    for row, place in written["rows"].items():
        finished = _repeats(folder / place, f"/{reading.RESULTS}")
        runs[row] = {
            repeat: path.parent
            for repeat, path in finished.items()
            if path.with_name(reading.CONFIG).exists()
        }
        outcomes[row] = {x: results.read_json(finished[x]) for x in runs[row]}
        failures = _repeats(folder / place, study.FAILED)
        failed[row] = {x: path.read_text("utf-8") for x, path in failures.items()}
    every = [outcome for found in outcomes.values() for outcome in found.values()]
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
    baselines = written.get("baselines")
    if baselines is None:  # of before rows had their own
        baselines = dict.fromkeys(written["rows"], written["baseline"])
        del baselines[written["baseline"]]
    return Study(folder, runs, outcomes, failed, baselines, metrics, plain)


def _repeats(row: pathlib.Path, suffix: str) -> dict[Repeat, pathlib.Path]:
    """Files `<seed><suffix>` of a row, in the order of the seeds and draws."""
    found = {
        Repeat.of_folder(str(path.relative_to(row)).removesuffix(suffix)): path
        for path in row.glob(f"*{suffix}")
    }
    found.pop(None, None)
    return dict(sorted(found.items(), key=lambda one: (one[0].seed, one[0].draw or 0)))


def averaged(values: dict[Key, float], over: str) -> dict[int | str, float]:
    """Means of each seed, draw, bank or category, over all that else varies.

    Those of a seed and category are averaged first, and every category weighs the same.
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
      mean: over seeds, of means over categories, draws and banks; with its interval.
      unit: what the interval is over, None of a single number.
      within: the standard deviation over banks, or draws, of a mean over categories,
        averaged over seeds; None without several.
    """

    mean: Mean
    unit: str | None
    within: float | None


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
    unit = unit if unit != "category" else None
    found = statistics.mean(list(averaged(values, unit or "seed").values()))
    return Cell(found, unit, _within(values, study.inner))


def _within(values: dict[Key, float], unit: str) -> float | None:
    deviations = []
    for seed in {key[0] for key in values}:
        mine = {key: x for key, x in values.items() if key[0] == seed}
        found = list(averaged(mine, unit).values())
        if len(found) > 1:
            deviations.append(np.std(found, ddof=1))
    return float(np.mean(deviations)) if deviations else None


@dataclasses.dataclass(frozen=True)
class Against:
    """A row against another one, run by run.

    Attributes:
      difference: of pairs with the same seed, category, draw and bank; None of one.
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
    pairs = {key: other[key] - one[key] for key in one if key in other}
    if not pairs:
        return None
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
    """The rows ranked on every category, or of one category on every seed, draw or
    bank.

    Returns:
      (rows, what they are ranked over, the ranking), or a sentence why there is none.
    """
    values = {row: study.values(row, metric) for row in study.rows}
    values = {row: found for row, found in values.items() if found}
    for unit in ("category", "seed", "draw", "bank"):
        places = [{key[_PLACES[unit]] for key in found} for found in values.values()]
        blocks = sorted(set.intersection(*places), key=str) if places else []
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
    writer.writerow(
        ("row", "seed", "category", "group", "draw", "bank", "metric", "value")
    )
    for line in _lines(study):
        writer.writerow(line)
    results.write_text(study.folder / "study.csv", out.getvalue())


def _lines(study: Study) -> Iterator[tuple]:
    of = {name: group for group, names in study.groups().items() for name in names}
    for row in study.rows:
        for metric in study.metrics:
            for key, value in study.values(row, metric).items():
                seed, category, draw, bank = key
                group, draw = of.get(category, ""), "" if draw is None else draw
                yield row, seed, category, group, draw, bank, metric, f"{value:.9g}"
