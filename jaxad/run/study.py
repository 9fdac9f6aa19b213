"""A study: the runs of a config's rows and seeds, of which processes take their share.

Every process that is given the folder of a study goes through its jobs, and does those
that nobody else works on. A run that fails is recorded beside its folder, and the
others go on.
"""

import contextlib
import dataclasses
import logging
import pathlib
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from jaxad import data, methods
from jaxad import fields as fields_lib
from jaxad.devices import locks, processes
from jaxad.errors import InputError, did_you_mean
from jaxad.inference import folder as detector_folder
from jaxad.progress import in_words
from jaxad.run import identity, results
from jaxad.run import pipeline as pipeline_lib

_LOG = logging.getLogger(__name__)

Rows = dict[str, dict]
PLAN, FAILED = "study.json", ".failed.txt"
_POLL = 1.0  # seconds between two looks at what others work on


class Repeat(NamedTuple):
    """One of the runs of a row.

    Attributes:
      seed: of all that is random.
      draw: of few shots, where seeds have several; else None, and it is the seed's.
    """

    seed: int
    draw: int | None = None

    @property
    def folder(self) -> str:
        return str(self.seed) if self.draw is None else f"{self.seed}.{self.draw}"

    @classmethod
    def of_folder(cls, name: str) -> "Repeat | None":
        """None of a folder that is no run's."""
        numbers = name.split(".")
        known = len(numbers) <= 2 and all(map(str.isdecimal, numbers))
        return cls(*map(int, numbers)) if known else None

    def __str__(self) -> str:
        return str(self.seed) if self.draw is None else f"{self.seed}, draw {self.draw}"


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process does at a time.

    Attributes:
      row: its name.
      repeats: one, or those whose heads train in one program.
      configs: one of each.
      place: the row's folder, in which each has its own.
    """

    row: str
    repeats: list[Repeat]
    configs: list[ml_collections.ConfigDict]
    place: pathlib.Path

    @property
    def places(self) -> list[pathlib.Path]:
        return [self.place / repeat.folder for repeat in self.repeats]

    @property
    def runs(self) -> list[tuple[ml_collections.ConfigDict, str]]:
        """What `experiment.run_together` takes."""
        return list(zip(self.configs, map(str, self.places), strict=True))

    @property
    def name(self) -> str:
        many = "seed" if len(self.repeats) == 1 else "seeds"
        return f"{self.row}, {many} {', '.join(map(str, self.repeats))}"

    @contextlib.contextmanager
    def tried(self) -> Iterator[bool]:
        """Holds the locks of all seeds; gives whether they were to be had."""
        with contextlib.ExitStack() as stack:
            yield all(stack.enter_context(locks.tried(x)) for x in self.places)

    @property
    def is_locked(self) -> bool:
        return any(map(locks.is_locked, self.places))

    @property
    def is_finished(self) -> bool:
        return all((place / "results.json").exists() for place in self.places)

    def failures(self) -> list[pathlib.Path]:
        """Where it is recorded that its runs have failed."""
        return [place.with_name(f"{place.name}{FAILED}") for place in self.places]


def jobs(
    config: ml_collections.ConfigDict,
    rows: Rows,
    seeds: Sequence[int],
    folder: pathlib.Path,
    draws: Sequence[int] = (),
) -> list[Job]:
    """Every row with every seed.

    Args:
      config: what every row starts from; `{seed}` in its weights, or a row's, is the
        seed, so that what was pre-trained with one goes on with it.
      rows: name -> {"a.b": value}.
      seeds: of every row; of one that takes few shots they are its draws as well.
      folder: of the study.
      draws: of rows that take few shots, each with every seed.

    Raises:
      InputError: a field that does not exist, or rows whose names are one as folders.
    """
    found, names = [], {}
    of_rows = {name: _with(config, name, fields) for name, fields in rows.items()}
    if draws and not any(row.dataset.shots for row in of_rows.values()):
        raise InputError(
            "--draws has no effect, since no row takes few shots; leave it out, or set "
            "config.dataset.shots"
        )
    for name, row in of_rows.items():
        if _leaves(row) == "detector":
            row.feature_cache = row.feature_cache or str(folder / "features")
            row.train.stage_cache = row.train.stage_cache or str(folder / "stages")
        place = _folder_of(name)
        if place in names or place in ("features", "stages"):
            other = names.get(place, place)
            raise InputError(
                f"the rows {other!r} and {name!r} of the sweep would share the folder "
                f"{place}; rename one"
            )
        names[place] = name
        few = row.dataset.shots > 0
        repeats = [
            Repeat(seed, draw) for seed in seeds for draw in few and draws or (None,)
        ]
        configs = [_with(row, name, _fields_of(repeat, row)) for repeat in repeats]
        alike = len({one.backbone.weights for one in configs}) == 1
        together = row.method.get("vectorize", 1) != 1 and not few and alike
        size = len(repeats) if together else 1
        for at in range(0, len(repeats), size):
            part = slice(at, at + size)
            found.append(Job(name, repeats[part], configs[part], folder / place))
    return found


def _fields_of(repeat: Repeat, row: ml_collections.ConfigDict) -> dict:
    weights = row.backbone.weights.replace("{seed}", str(repeat.seed))
    found = {"seed": repeat.seed, "backbone.weights": weights}
    if row.dataset.shots:
        found["dataset.draw"] = repeat.seed if repeat.draw is None else repeat.draw
    return found


def _leaves(row) -> str | None:
    try:
        return methods.leaves(row)
    except Exception as error:  # its runs fail of it, are recorded, and others go on
        _LOG.debug("nobody knows what the method leaves: %r", error)
        return None


def _folder_of(row: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", row)


def _with(config, name, fields) -> ml_collections.ConfigDict:
    row = config.copy_and_resolve_references().lock()
    for field, value in fields.items():
        try:
            row.update_from_flattened_dict({field: value})
        except (KeyError, AttributeError, TypeError) as error:
            raise InputError(
                f"row {name!r} of the sweep sets {field}={value!r}, which the config "
                f"cannot take: {str(error).splitlines()[0]}"
            ) from None
    return row


def begin(
    all_of: Sequence[Job],
    folder: pathlib.Path,
    baseline: str | None = None,
    baselines: Mapping[str, str] | None = None,
) -> None:
    """Writes down which rows a study has, for whoever reads its results.

    Args:
      baseline: the row that others are compared with.
      baselines: without one, row -> that which it is compared with; by default each
        with the first.

    Raises:
      InputError: there is no such row, or a row has been run with other fields.
    """
    rows = {job.row: job.place.name for job in all_of}
    if baseline is not None and baseline not in rows:
        raise InputError(
            f"--baseline={baseline} is no row of the sweep"
            f"{did_you_mean(baseline, rows)}"
        )
    if baseline or not baselines:
        first = baseline or next(iter(rows))
        baselines = {row: first for row in rows if row != first}
    for job in all_of:
        _require_same_runs(job, folder)
    results.write_json(folder / PLAN, {"rows": rows, "baselines": dict(baselines)})


def _require_same_runs(job: Job, folder: pathlib.Path) -> None:
    for config, place in job.runs:
        try:
            member = pipeline_lib.members(config)[0]
            there = identity.changed(pathlib.Path(place), member)
        except Exception as error:  # its run fails of it, is recorded, others go on
            _LOG.debug("nobody knows whether %s is another run: %r", place, error)
            continue
        if member.method.get("classes") == 0:
            there.pop("method.classes", None)  # which a run fills in from its corpus
        if there:
            names = ", ".join(
                f"config.{name}={fields_lib.shown(value)}"
                for name, value in sorted(there.items())
            )
            raise InputError(
                f"the row {job.row!r} of the study in {folder} has been run with "
                f"{names}, which is another value now; choose another --workdir, or "
                "put back what was"
            )


def plan(
    all_of: Sequence[Job],
    folder: pathlib.Path,
    seconds: Callable[[ml_collections.ConfigDict], float],
) -> Iterator[str]:
    """What is going to be done: lines for people, each as soon as it is known.

    No image is loaded for it, so a row that cannot work may fail later on.

    Args:
      seconds: that a run of a config takes, asked of the first row where no run is
        finished; what it raises that row's run will.
    """
    runs = sum(len(job.repeats) for job in all_of)
    finished = [job for job in all_of if job.is_finished]
    done = sum(len(job.repeats) for job in finished)
    rows = {job.row: None for job in all_of}
    yield (
        f"Study: {_many(len(rows), 'row')}, {_many(runs, 'run')}"
        + (f", {done} of them finished" if done else "")
        + _categories(all_of)
    )
    yield f"Table: {folder / 'study.md'}, as it grows"
    passes, stages, told = _shared(all_of)
    if passes:
        count = _many(len(passes), "feature pass", "feature passes")
        yield f"Shared: {count} of frozen backbones, kept in features/"
    for name, keys in stages.items():
        yield f"Shared: stage {name}, trained {_times(len(keys))}"
    compiled = _times(len(rows))
    yield f"Shared: programs, compiled {compiled} at most and kept for all seeds"
    yield from told
    if done < runs:
        yield f"Time: {_left(all_of) or _guess(all_of, seconds)}"


def _guess(all_of: Sequence[Job], seconds) -> str:
    """From the programs of the first row, which its run then need not compile."""
    unknown = "told after the first run"
    if jax.process_count() > 1:
        return unknown  # where one fails, the others would wait for it
    try:
        each = seconds(all_of[0].configs[0])
    except Exception as error:  # the run fails of it, is recorded, and others go on
        _LOG.debug("no guess at the time of a study: %r", error)
        return unknown
    if each < 1:
        return unknown
    runs = sum(len(job.repeats) for job in all_of)
    return (
        f"some {in_words(runs * each)}, if every run takes what the programs of "
        f"{all_of[0].row} do and shares none of it; reading, scoring and compiling "
        "come on top; told better after the first run"
    )


def _many(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {many or one + 's'}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _categories(all_of: Sequence[Job]) -> str:
    try:
        counts = {
            len(data.categories(dataset)): None
            for dataset in {
                repr(job.configs[0].dataset): job.configs[0].dataset for job in all_of
            }.values()
        }
    except Exception as error:  # which the run says better
        _LOG.debug("nobody knows how many categories there are: %r", error)
        return ""
    each = " or ".join(map(str, sorted(counts)))
    return f", of {each} {'category' if each == '1' else 'categories'} each"


def _shared(all_of: Sequence[Job]):
    """(keys of feature passes, name -> keys of first stages, what cannot work)."""
    passes: set[str] = set()
    stages: dict[str, set[str]] = {}
    told = {}
    for job in all_of:
        try:
            for config in job.configs:
                for member in pipeline_lib.members(config):
                    _add_shared(member, passes, stages)
        except Exception as error:  # of a method of somebody's own, of any kind
            reason = error if isinstance(error, InputError) else repr(error)
            told[job.row] = f"The row {job.row!r} cannot work: {reason}"
    return passes, stages, list(told.values())


def _add_shared(member, passes, stages) -> None:
    method = detector_folder.networks(member).method
    kinds = method.stages
    start = [member.dataset.to_json(), member.backbone.to_json(), member.precision]
    if member.backbone.weights == "random":
        start.append(member.seed)
    if method.grid is None and not any(stage.tunes for stage in kinds):
        key = (*start, member.patches.to_json(), member.batch_size)
        passes.add(repr(key))
    first = kinds[0] if kinds else None
    if first and first.fields:
        fields = [member.method[name] for name in first.fields]
        key = (*start, member.seed, member.method.name, fields)
        stages.setdefault(first.name, set()).add(repr(key))


def run(
    all_of: Sequence[Job],
    attempt: Callable[[Job], list[dict]],
    *,
    told: Callable[[str], None] = print,
    changed: Callable[[], None] = lambda: None,
) -> int:
    """Does the jobs that nobody else works on, until all are finished or have failed.

    Args:
      all_of: of `jobs`.
      attempt: does one: `experiment.run_together(job.runs)`.
      told: prints a line.
      changed: called whenever a run has ended.

    Returns:
      How many runs have failed, here or elsewhere while this was going on.

    Raises:
      InputError: a run of several processes fails, which ends all of it.
    """
    old = {place: _stamp(place) for job in all_of for place in job.failures()}
    pending, failed = list(all_of), 0
    while pending:
        waits = True
        for job in list(pending):
            with job.tried() as mine:
                if not mine:
                    continue
                waits = False
                pending.remove(job)
                new = [x for x in job.failures() if _stamp(x) not in (None, old[x])]
                if not processes.decided(bool(new)):
                    failed += len(job.repeats) * (not _do(job, attempt, all_of, told))
                    changed()
                else:  # by another process, just now
                    failed += len(job.repeats)
        if waits:
            time.sleep(_POLL)
    return failed


def _stamp(place: pathlib.Path) -> int | None:
    try:
        return place.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _do(job: Job, attempt, all_of: Sequence[Job], told) -> bool:
    """Does a job, and tells that it begins and how it went, unless it is finished."""
    finished, start = job.is_finished, time.monotonic()
    if not finished:
        told(f"{job.name} begins")
    try:
        outcomes = attempt(job)
    except Exception as error:
        if jax.process_count() > 1:
            raise  # the others may wait for this process where it has been
        reason = str(error) if isinstance(error, InputError) else repr(error)
        text = f"{reason}\n\n{traceback.format_exc()}"
        for place in job.failures():
            results.write_text(place, text)
        known = isinstance(error, InputError)
        more = "" if known else f" ({job.failures()[0]} has all of it)"
        told(f"{_count(all_of)} {job.name} failed: {reason.splitlines()[0]}{more}")
        return False
    if processes.first():
        for place in job.failures():
            place.unlink(missing_ok=True)
    if not finished:
        spent, left = in_words(time.monotonic() - start), _left(all_of)
        more = f"; {left} left" if left else ""
        told(f"{_count(all_of)} {job.name}: {_metrics(outcomes)}in {spent}{more}")
    return True


def _count(all_of: Sequence[Job]) -> str:
    done = sum(len(job.repeats) for job in all_of if _has_ended(job))
    return f"[{done} of {sum(len(job.repeats) for job in all_of)}]"


def _has_ended(job: Job) -> bool:
    return job.is_finished or any(place.exists() for place in job.failures())


def _metrics(outcomes: Sequence[dict]) -> str:
    """What the line of a job says of its results."""
    means = [outcome.get("banks", outcome)["mean"] for outcome in outcomes]
    if "probes" in outcomes[0]:
        parts = [f"{name} {x:.4g}" for name, x in means[0].items() if x is not None]
        return "".join(f"{part}, " for part in parts)
    return "".join(
        f"{name} {100 * np.mean([mean[name] for mean in means]):.2f}, "
        for name in results.COLUMNS
        if all(mean.get(name) is not None for mean in means)
    )


def _left(all_of: Sequence[Job]) -> str | None:
    """How long the rest will take, from what is finished; None where nothing is, or
    nothing is left.

    A row takes as long as it has taken with other seeds, one that nobody has done as
    long as the mean of all others. Whoever works on the study now goes on.
    """
    spent: dict[str, list[float]] = {}
    for job in all_of:
        if job.is_finished:
            for place in job.places:
                outcome = results.read_json(place / "results.json")
                seconds = outcome["seconds"]["total"]
                spent.setdefault(job.row, []).append(seconds)
    if not spent:
        return None
    means = {row: float(np.mean(values)) for row, values in spent.items()}
    other = float(np.mean(list(means.values())))
    rest = [job for job in all_of if not _has_ended(job)]
    if not rest:
        return None
    seconds = sum(len(job.repeats) * means.get(job.row, other) for job in rest)
    workers = max(1, sum(job.is_locked for job in all_of))
    return f"about {in_words(seconds / workers)}"
