r"""An ablation study: the runs that a config's `sweep(add)` names, and their table.

  python -m jaxad.sweep --config configs/ablations/reconpatch_dim.py \
      --workdir runs/dim --seeds 0,1,2

`add(name, {"method.dim": 64, ...})` names a row and the fields that make it; all else
is `get_config()` and the command's `--config.field=value`. Every row and seed is a run
of its own below `--workdir`, so a study that was interrupted goes on, and a row added
later is all that is run.
"""

import pathlib
import re
import runpy

import ml_collections
from absl import flags
from ml_collections import config_flags

from jaxad import command_line
from jaxad.errors import InputError

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
_JOIN = command_line.define_processes()

Rows = dict[str, dict]


def rows(path: str) -> Rows:
    """Name -> fields of every row that the file's `sweep` adds.

    Raises:
      InputError: the file has no sweep, or names a row twice.
    """
    module = runpy.run_path(path)
    if "sweep" not in module:
        raise InputError(f"{path} has no sweep(add); run it with python -m jaxad.main")
    added: Rows = {}

    def add(name: str, fields: dict) -> None:
        if name in added:
            raise InputError(f"{path}: sweep adds the row {name!r} twice")
        added[name] = fields

    module["sweep"](add)
    return added


def run(
    config: ml_collections.ConfigDict, rows: Rows, seeds: list[int], workdir: str
) -> str:
    """Runs every row with every seed.

    Args:
      config: what every row starts from.
      rows: name -> {"a.b": value}.
      seeds: of every row.
      workdir: folder of the study.

    Returns:
      The table, which also lies in `sweep.md`: mean over categories of each metric, in
      per cent, mean ± standard deviation over seeds.

    Raises:
      InputError: a field that does not exist, or whatever stops a run.
    """
    from jaxad.run import experiment, results

    folder = pathlib.Path(workdir)
    outcomes = {}
    for name, fields in rows.items():
        row = _with(config, name, fields)
        row.feature_cache = row.feature_cache or str(folder / "features")
        row.train.stage_cache = row.train.stage_cache or str(folder / "stages")
        place = folder / re.sub(r"[^\w.=+-]+", "_", name)
        runs = [
            (_with(row, name, {"seed": seed}), str(place / str(seed))) for seed in seeds
        ]
        outcomes[name] = experiment.run_together(runs)
    text = table(outcomes)
    results.write_text(folder / "sweep.md", text)
    return text


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


def table(outcomes: dict[str, list[dict]]) -> str:
    """Markdown: a line a row, a column for every metric that some row has.

    Of runs that leave a backbone it has the probes, which are no per cents.
    """
    from jaxad.run import results

    means = {name: [o["mean"] for o in runs] for name, runs in outcomes.items()}
    probed = any("probes" in o for runs in outcomes.values() for o in runs)
    outcomes_of = [o for runs in outcomes.values() for o in runs]
    further = dict.fromkeys(m for o in outcomes_of for m in o.get("metrics", ()))
    known = (*results.COLUMNS, *further)
    if probed:
        known = dict.fromkeys(
            n for runs in means.values() for mean in runs for n in mean
        )
    columns = [
        metric
        for metric in known
        if any(mean.get(metric) is not None for runs in means.values() for mean in runs)
    ]
    lines = [
        "| " + " | ".join(("row", *columns)) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for name, runs in means.items():
        cells = [
            _cell([mean.get(metric) for mean in runs], probed) for metric in columns
        ]
        lines.append("| " + " | ".join((name, *cells)) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float | None], plain: bool) -> str:
    if any(value is None for value in values):
        return "-"
    import numpy as np

    scale, digits = (1, 4) if plain else (100, 2)
    mean = f"{scale * np.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {scale * np.std(values, ddof=1):.{digits}f}"


def main() -> None:
    config, workdir = _CONFIG.value, command_line.workdir(_WORKDIR.value)
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    try:
        seeds = [int(seed) for seed in _SEEDS.value or [config.seed]]
    except ValueError:
        raise InputError(f"--seeds={','.join(_SEEDS.value)} must be numbers") from None
    study = rows(path.split(":")[0])
    from jaxad.devices import processes

    command_line.use_compilation_cache(config)
    with _JOIN():
        if processes.first():
            print(f"Workdir: {workdir}", flush=True)
        text = command_line.asking(
            config, lambda config: run(config, study, seeds, workdir)
        )
        if processes.first():
            from jaxad.reporting import pages

            page = pages.after_study(workdir)
            print(text, end="")
            if page is not None:
                print(f"Report: {page}")


if __name__ == "__main__":
    command_line.run(main, "sweep", ("config",))
