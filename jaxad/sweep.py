r"""An ablation study: the runs that a config's `sweep(add)` names, and their table.

  python -m jaxad.sweep --config configs/ablations/reconpatch_dim.py \
      --workdir runs/dim --seeds 0,1,2

`add(name, {"method.dim": 64, ...})` names a row and the fields that make it; all else
is `get_config()` and the command's `--config.field=value`; a `sweep(add, arg)` also
gets the argument of `--config FILE:arg`, None without one. A third argument of `add` is
the row that this one is compared with. Every row and seed is a run of its own below
`--workdir`, so a study that was interrupted goes on, and a row added later is all that
is run. The same command in several shells, or on several hosts with one file system,
shares the runs among them: each takes what nobody else works on. Of a row that takes
few shots (`config.dataset.shots`) every seed has the draw of its number, or all of
`--draws`. `{seed}` in `config.backbone.weights` is the run's seed.

A run that fails is told of, and recorded beside its folder; the others go on, and the
exit status is 1. The same command tries it again.
"""

import inspect
import logging
import pathlib
import runpy

from absl import flags
from ml_collections import config_flags

from jaxad import command_line
from jaxad import fields as fields_lib
from jaxad.errors import InputError, did_you_mean

_LOG = logging.getLogger(__name__)

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file or name, with an optional argument: FILE[:arg]. It has a sweep.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the study; by default runs/ and the config's name."
)
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds of every row; by default config.seed.")
_DRAWS = flags.DEFINE_list(
    "draws",
    None,
    "Of rows that take few shots, each with every seed; by default the seed's number.",
)
_BASELINE = flags.DEFINE_string(
    "baseline",
    None,
    "The row that others are compared with; by default what the sweep says, or the "
    "first.",
)
_JOIN = command_line.define_processes()


def rows(path: str, arg: str | None = None) -> tuple[dict[str, dict], dict[str, str]]:
    """What the file's `sweep` adds.

    Args:
      path: of the file.
      arg: what its `get_config` is given.

    Returns:
      (row -> its fields, row -> the one that it is compared with, if it names one).

    Raises:
      InputError: the file has no sweep, names a row twice, or compares with none.
    """
    module = runpy.run_path(path)
    if "sweep" not in module:
        raise InputError(f"{path} has no sweep(add); run it with python -m jaxad.main")
    added: dict[str, dict] = {}
    baselines: dict[str, str] = {}

    def add(name: str, fields: dict, baseline: str | None = None) -> None:
        if name in added:
            raise InputError(f"{path}: sweep adds the row {name!r} twice")
        added[name] = dict(fields)  # which the config may go on with
        if baseline is not None:
            baselines[name] = baseline

    wants_arg = len(inspect.signature(module["sweep"]).parameters) > 1
    module["sweep"](add, *((arg,) if wants_arg else ()))
    for name, baseline in baselines.items():
        if baseline not in added or baseline == name:
            raise InputError(
                f"{path}: sweep compares the row {name!r} with {baseline!r}, which is "
                f"no other row{did_you_mean(baseline, added)}"
            )
    return added, baselines


def tell_overruled(config, defaults, added: dict[str, dict]) -> None:
    """Warns of fields that the command line sets, and every row or `--seeds` as well.

    Args:
      config: what rows start from, and `defaults` the same without the command line.
      added: of `rows`.
    """
    given = fields_lib.differing(defaults.to_dict(), config.to_dict())
    values = dict(fields_lib.flat(config.to_dict()))
    by = dict.fromkeys(_of_all(added), "every row")
    by |= {"seed": "--seeds"} if _SEEDS.value else {}
    for name in sorted(by.keys() & given):
        value = fields_lib.shown(values[name])
        _LOG.warning(
            "without effect: config.%s=%s, which %s sets", name, value, by[name]
        )


def _of_all(added: dict[str, dict]) -> set[str]:
    """The fields that all rows set."""
    return set.intersection(*map(set, added.values())) if added else set()


def overruled(path: str, arg: str) -> dict[str, set[str]]:
    """What of a config's argument changes nothing but fields that every row sets.

    Args:
      path: of the file.
      arg: what its `get_config` is given.

    Returns:
      item of the argument -> those fields.
    """
    if not arg:
        return {}
    read, found = runpy.run_path(path)["get_config"], {}
    whole, (added, _), items = read(arg).to_dict(), rows(path, arg), arg.split(",")
    for item in filter(None, items):
        rest = ",".join(other for other in items if other != item) or None
        try:
            changed = fields_lib.differing(read(rest).to_dict(), whole)
            others, _ = rows(path, rest)
        except Exception:  # whatever the file raises, it cannot do without the item
            continue
        if changed and changed <= _of_all(added) and others == added:
            found[item] = changed
    return found


def _numbers(flag: str, given: list[str]) -> list[int]:
    said = f"--{flag}={','.join(given)}"
    if not all(number.isdecimal() for number in given):
        raise InputError(f"{said} must be numbers of 0 or more")
    if len({*map(int, given)}) < len(given):
        raise InputError(f"{said} names one twice")
    return [*map(int, given)]


def main() -> int:
    config, workdir = _CONFIG.value, command_line.workdir(_WORKDIR.value)
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    seeds = _numbers("seeds", _SEEDS.value or [str(config.seed)])
    draws = _numbers("draws", _DRAWS.value or [])
    path, _, arg = path.partition(":")
    added, baselines = rows(path, arg or None)
    differ = {field for row in added.values() for field in row}
    if not pathlib.Path(workdir).exists():
        if "backbone.weights" not in differ:
            for seed in seeds:
                weights = config.backbone.weights.replace("{seed}", str(seed))
                command_line.require_weights(weights)
        if not any(field.startswith("dataset.") for field in differ):
            command_line.look_for_data(config)
    from jaxad.devices import processes

    command_line.use_compilation_cache(config)
    command_line.tell_warnings_once()
    with _JOIN():
        from jaxad.reporting import pages
        from jaxad.run import dry_run, experiment, identity, study

        file, defaults = command_line.config_file()
        tell_overruled(config, defaults, added)
        for item, names in overruled(path, arg).items():
            named = " and ".join(f"config.{name}" for name in sorted(names))
            _LOG.warning("without effect: :%s, for every row sets %s", item, named)
        folder, first = pathlib.Path(workdir), processes.first()
        jobs = study.jobs(config, added, seeds, folder, draws)

        def told(line: str) -> None:
            if first:
                print(line, flush=True)

        def attempt(job: study.Job) -> list[dict]:
            def run(config):
                for other in job.configs:
                    other.dataset.download = config.dataset.download
                outcomes = experiment.run_together(job.runs)
                for one, place in job.runs:
                    identity.note_config_file(pathlib.Path(place), file, defaults, one)
                return outcomes

            return command_line.asking(job.configs[0], run)

        def changed() -> None:
            if first:
                pages.study_so_far(folder)

        study.begin(jobs, folder, _BASELINE.value, baselines)
        told(f"Workdir: {workdir}")

        def seconds(config) -> float:
            return dry_run.run(config, None, lambda line: None)

        for line in study.plan(jobs, folder, seconds):
            told(line)
        failed = study.run(jobs, attempt, told=told, changed=changed)
        if first:
            page = pages.after_study(workdir)
            print(pages.table_of_study(folder), end="")
            print(f"Tests: {folder / 'study.md'}")
            if page is not None:
                print(f"Report: {page}")
    return 1 if failed else 0


if __name__ == "__main__":
    command_line.run(main, "sweep", ("config",))
