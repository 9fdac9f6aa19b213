"""Trains, fits and evaluates a detector for every category of a config.

  python -m jaxad.main --config configs/patchcore_elpv.py --workdir runs/demo

A config of ours has a name, `--config patchcore_elpv`, that works from anywhere.
`--config FILE:category=poly,runlocal` gives the config file arguments, which its first
lines name, and `--config.a.b=value` sets any field. A run that was interrupted goes on
when the same command is given again.

`--dry_run` tells what a run takes before it begins, of the devices that are here or,
with `--slice=v5e-8`, of a TPU slice that is not; docs/accelerators.md has the details.

On several hosts it is the same command in each, with `--coordinator`, `--num_processes`
and `--process_id` where no cluster tells them; README.md has the details.
"""

import functools
import os
import pathlib

from absl import flags
from ml_collections import config_flags

from jaxad import command_line
from jaxad.errors import InputError

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file or name, with an optional argument: FILE[:arg].",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: results, maps, detectors, checkpoints; by default runs/ and "
    "the config's name.",
)

_DRY_RUN = flags.DEFINE_boolean(
    "dry_run",
    False,
    "Tells memory, steps and time, and runs nothing.",
)
_SLICE = flags.DEFINE_string(
    "slice", None, "With --dry_run: a TPU slice that need not be there, such as v5e-8."
)

_JOIN = command_line.define_processes()


def main() -> None:
    from jaxad import data

    config, workdir = _CONFIG.value, command_line.workdir(_WORKDIR.value)
    finished = os.path.exists(os.path.join(workdir, "results.json"))
    if _SLICE.value and not _DRY_RUN.value:
        raise InputError(f"--slice={_SLICE.value} has no effect without --dry_run")
    if not finished:  # before JAX is imported
        data.require_named(config.dataset)
        if not _DRY_RUN.value:  # which needs neither
            command_line.require_weights(config.backbone.weights)
            command_line.look_for_data(config)
    command_line.use_compilation_cache(config)
    if _DRY_RUN.value:
        from jaxad.run import dry_run

        dry_run.run(config, _SLICE.value, functools.partial(print, flush=True))
        return
    with _JOIN():
        if not finished:
            data.require_known(config.dataset)  # before all the rest is imported
        from jaxad.devices import processes
        from jaxad.reporting import pages
        from jaxad.run import experiment, identity, pretrain, results

        if processes.first():
            print(f"Workdir: {workdir}", flush=True)
        outcome = command_line.asking(
            config, lambda config: experiment.run(config, workdir)
        )
        file, defaults = command_line.config_file()
        identity.note_config_file(pathlib.Path(workdir), file, defaults, config)
        if not processes.first():
            return
        if finished:
            print("This run is finished: nothing to do")
    if "backbone" not in outcome:
        pages.after(workdir)
    print(results.table(outcome), end="")
    print(f"Results: {os.path.join(workdir, 'results.json')}")
    if "backbone" in outcome:
        print(f"Backbone: {os.path.join(workdir, pretrain.WEIGHTS)}")
        return
    print(f"Report: {os.path.join(workdir, pages.REPORT)}")
    for category in outcome["categories"]:
        print(f"Heat maps: {os.path.join(workdir, category, 'maps')}")


if __name__ == "__main__":
    command_line.run(main, "main", ("config",))
