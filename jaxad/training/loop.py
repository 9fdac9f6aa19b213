"""The one training loop, for every stage of every method.

The order of operations, which resuming relies on:

  1. save, if a checkpoint is due
  2. leave, if the process has been told to stop
  3. probe, where a checkpoint was due
  4. draw the batches of the next steps
  5. run these steps
  6. check that all is finite, and log, if one of these is due next

A batch and a step's randomness are functions of (seed, stage, step) alone, so the state
at step s is all there is to save, and a run that was stopped ends in the same bytes as
one that was not. One call runs several steps (`training.steps`).

On several devices a batch is spread over them, and the state is the same on all. What a
step computes is then the same but for the order of sums; on the same devices it is the
same bytes.
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxad import rng
from jaxad.devices import processes, sharding
from jaxad.devices.rows import Sharded
from jaxad.errors import InputError, Preempted
from jaxad.methods.base import Metrics, Params, Stage
from jaxad.training import feed, steps
from jaxad.training.checkpoint import Checkpoints
from jaxad.training.writer import Writer

_ANOTHER = (
    "that is another run: in another --workdir or, of a study, in a row of another name"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """How often the loop logs and saves.

    Attributes:
      log_every: steps between two lines of the curves.
      save_every: steps between two checkpoints; what a kill costs at most.
      keep: checkpoints that are kept.
    """

    log_every: int = 100
    save_every: int = 1000
    keep: int = 2


def train(
    stage: Stage,
    params: Params,
    items: feed.Images | np.ndarray | Sharded,
    *,
    seed: int,
    workdir: str | pathlib.Path,
    options: Options = Options(),
    mesh: sharding.Mesh | None = None,
    probe: Callable[[Params], Metrics] | None = None,
) -> Params:
    """Runs a stage from its latest checkpoint, or its start, to its end.

    Leaves checkpoints and `metrics.jsonl` in `workdir`. A stage that is finished is
    restored, not run again.

    Args:
      stage: of a method.
      params: what the stages before it have handed on.
      items: what it trains on: `feed.Images`, or descriptors [..., c] where its inputs
        are patches, which are drawn in an order that is shuffled anew each epoch.
      seed: of the run.
      workdir: of this stage alone.
      options: how often to log and to save.
      mesh: the devices that share a batch, on all of which `params` lie. A batch whose
        size they do not divide is worked on by each of them, whole.
      probe: what looks at the params that the stage would hand on, every
        `options.save_every` steps but the last; its numbers are the curves in
        `probes/metrics.jsonl`.

    Returns:
      What the stage hands on.

    Raises:
      InputError: fewer items than a batch, items that are not finite, a checkpoint
        that cannot be read, or training that diverges. It then stops at the first step
        with a value that is not finite, and the checkpoint before it stays.
      Preempted: SIGTERM came.
    """
    source = feed.Table if stage.inputs == "patches" else feed.Stream
    source = source(stage, items, seed, mesh)
    total = stage.num_steps(source.count)
    program = functools.partial(
        steps.alone(stage, source), key=rng.stream(seed, stage.name), total=total
    )
    (state,) = _loop(
        stage,
        source,
        steps.starts(
            stage,
            [steps.init(stage, params, seed, source.item)],
            [source.item],
            mesh,
        ),
        lambda starts: program,
        [total],
        [workdir],
        options,
        probe and (lambda state: probe(stage.finish(state, params))),
    )
    return stage.finish(state, params)


@dataclasses.dataclass(frozen=True)
class Run:
    """One of several runs of a stage: the arguments of `train` that differ."""

    params: Params
    items: np.ndarray | Sharded
    seed: int
    workdir: str | pathlib.Path


def train_together(
    stage: Stage,
    runs: Sequence[Run],
    *,
    options: Options = Options(),
    mesh: sharding.Mesh | None = None,
) -> list[Params]:
    """Runs a stage whose inputs are patches for several categories or seeds at once.

    One program steps all runs; a run that has fewer steps than the longest waits, and
    so does one whose checkpoint is later than another's. Each run ends in what `train`
    would have given it, but for rounding, and leaves what `train` would have left in
    its folder. Items that several runs share lie on the device once.

    Args:
      stage: of a method.
      runs: their params and items may differ, the shapes of their states may not.
      options: how often to log and to save.
      mesh: as `train` takes it.

    Returns:
      What the stage hands on, for each run.

    Raises:
      InputError: as `train`; states of different shapes.
      Preempted: as `train`.
    """
    items, seeds = [run.items for run in runs], [run.seed for run in runs]
    source = feed.Tables(stage, items, seeds, mesh)
    totals = np.array([stage.num_steps(t.count) for t in source.tables], np.int32)
    keys = jnp.stack([rng.stream(run.seed, stage.name) for run in runs])
    inits = [
        steps.init(stage, run.params, run.seed, table.item)
        for run, table in zip(runs, source.tables, strict=True)
    ]
    _require_same_shapes(stage, inits)
    program = steps.together(stage, len(runs), source)
    states = _loop(
        stage,
        source,
        steps.starts(stage, inits, [table.item for table in source.tables], mesh),
        lambda starts: functools.partial(program, key=keys, total=(starts, totals)),
        totals.tolist(),
        [run.workdir for run in runs],
        options,
    )
    return [
        stage.finish(state, run.params) for state, run in zip(states, runs, strict=True)
    ]


def _require_same_shapes(stage: Stage, inits) -> None:
    first, *others = (jax.eval_shape(*init) for init in inits)
    for i, other in enumerate(others, start=1):
        if other != first:
            ours, theirs = (jax.tree.map(lambda x: x.shape, s) for s in (first, other))
            raise InputError(
                f"stage {stage.name!r} cannot train runs 0 and {i} together: their "
                f"states have the shapes {ours} and {theirs}; train them apart"
            )


def _loop(stage, source, init, program, totals, workdirs, options: Options, probe=None):
    """From the latest checkpoints, or the start, to the states after the last step.

    Args:
      stage: of a method.
      source: a `feed.Table`, `feed.Tables` or `feed.Stream`.
      init: `() -> [state of each run]`.
      program: `[first step of each run] -> steps`, their key and total given.
      totals: steps of each run.
      workdirs: of each run.
      probe: `state -> {name: number}`, or None.
    """
    name, told = stage.name, stage.stop
    with contextlib.ExitStack() as stack:
        # First in, last out: the last checkpoint is on disk before a signal can kill.
        told_to_stop = stack.enter_context(processes.stoppable())
        folders = [
            _Folder(stack, workdir, total, options, probe)
            for workdir, total in zip(workdirs, totals, strict=True)
        ]
        states = _states(folders, init, source.mesh)
        run = program(np.array([folder.start for folder in folders], np.int32))
        step, total = min(folder.start for folder in folders), max(totals)
        bar = stack.enter_context(
            processes.progress(total=total, initial=step, desc=name, unit="step")
        )
        # On all devices, as the program leaves it: it would be compiled for either.
        stop, broken = False, sharding.replicate(np.int32(0), source.mesh)
        while True:
            for folder, state in zip(folders, states, strict=True):
                if folder.saves(step, stop):
                    folder.save(step, state)
            if stop:
                raise Preempted(f"stage {name!r} is saved at step {step}")
            if step == total:
                return states
            # Behind the checkpoint, for a signal may leave seconds: what goes on there
            # looks first.
            for folder, state in zip(folders, states, strict=True):
                folder.look(step, state)

            end = min(
                step + source.steps_a_call,
                _next(step, options.log_every),
                _next(step, options.save_every),
                *(total for total in totals if total > step),
            )
            drawn = source.draw(step, end)
            jax.block_until_ready(broken)  # one call ahead of the device, no more
            states, metrics, broken = run(states, drawn, broken, step, end)
            bar.update(end - step)
            step = end

            stop = told_to_stop()
            if stop or any(f.logs(step) or f.saves(step) for f in folders):
                metrics = jax.device_get(metrics)
                _check(name, folders, states, metrics, int(broken), step)
            for folder, values in zip(folders, metrics, strict=True):
                if folder.logs(step):
                    folder.writer.write(step, values)
                    folder.require_use(name, step, told(values, step / folder.total))
                    bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()})


class _Folder:
    """Where a run keeps its checkpoints and its curves.

    Attributes:
      start: the step that the run goes on from.
      saved: the step of the latest checkpoint, -1 where there is none.
    """

    def __init__(self, stack, workdir, total: int, options: Options, probe):
        self.checkpoints = stack.enter_context(Checkpoints(workdir, keep=options.keep))
        latest = self.checkpoints.latest_step()
        self.saved, self.start = (-1, 0) if latest is None else (latest, latest)
        if self.start > total:
            raise InputError(
                f"{workdir} holds step {self.start} of a stage that has {total} now; "
                "remove it, or choose another --workdir"
            )
        self.writer = stack.enter_context(Writer(workdir, start_step=self.start))
        self.workdir, self.total, self._options = workdir, total, options
        self._probe = probe if options.save_every < total else None
        if self._probe is not None:  # again at the step that the run goes on from
            probes = Writer(pathlib.Path(workdir, "probes"), start_step=self.start - 1)
            self._probes = stack.enter_context(probes)

    def saves(self, step: int, stop: bool = False) -> bool:
        """Whether a checkpoint is due."""
        due = stop or _due(step, self._options.save_every, self.total)
        return due and self.saved < step <= self.total

    def logs(self, step: int) -> bool:
        """Whether a line of the curves is due."""
        due = _due(step, self._options.log_every, self.total)
        return due and self.start < step <= self.total

    def require_use(self, name: str, step: int, reason: str | None) -> None:
        """Raises InputError where a stage says why it is of no use to go on."""
        if reason is not None:
            raise InputError(
                f"stage {name!r} stopped at step {step} of {self.total} in "
                f"{self.workdir}: {reason}; {_ANOTHER}"
            )

    def restore(self, shapes, mesh: sharding.Mesh | None):
        state = self.checkpoints.restore(self.saved, sharding.shapes_on(shapes, mesh))
        # On one device bound to none, as a new state is.
        return state if mesh else jax.tree.map(jnp.asarray, jax.device_get(state))

    def look(self, step: int, state) -> None:
        """Writes what the probe says, where that is due."""
        due = step > 0 and step % self._options.save_every == 0
        if self._probe is not None and due and step < self.total:
            self._probes.write(step, self._probe(state))

    def save(self, step: int, state) -> None:
        self.checkpoints.save(step, state)
        self.saved = step


def _states(folders: list[_Folder], init, mesh: sharding.Mesh | None):
    """Of all runs, from their latest checkpoints or as they start."""
    shapes = jax.eval_shape(init)
    # Copied, because jit hands inputs through and `params` outlives donation.
    new = any(folder.saved < 0 for folder in folders)
    fresh = jax.tree.map(jnp.copy, init()) if new else shapes
    return [
        state if folder.saved < 0 else folder.restore(shape, mesh)
        for folder, state, shape in zip(folders, fresh, shapes, strict=True)
    ]


def _next(step: int, every: int) -> int:
    """The first multiple of `every` after `step`."""
    return step - step % every + every


def _due(step: int, every: int, total: int) -> bool:
    return step == total or (step > 0 and step % every == 0)


def _finite(state) -> bool:
    # On the host: a program with a reduction a leaf takes seconds to compile.
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def _check(name: str, folders, states, metrics, broken: int, step: int):
    """Stops runs of which one has diverged, before anything of it is saved."""
    bad = [[n for n, v in values.items() if not np.isfinite(v)] for values in metrics]
    for folder, state, values, names in zip(folders, states, metrics, bad, strict=True):
        if broken:
            # One step a call may go on past it, and be finite again.
            if any(bad) and not names:
                continue
            what, at = " and ".join(names or values), broken
        elif not _finite(state):
            what, at = "the state", step
        else:
            continue
        kept = f"the checkpoint of step {folder.saved} is kept"
        raise InputError(
            f"stage {name!r} diverged in {folder.workdir}: {what} not finite at step "
            f"{at} ({kept if folder.saved > 0 else 'none was saved yet'}); lower the "
            f"learning rate in config.method; {_ANOTHER}"
        )
