"""The one training loop, for every stage of every method.

The order of operations, which resuming relies on:

  1. save, if a checkpoint is due
  2. leave, if the process has been told to stop
  3. draw the batches of the next steps
  4. run these steps
  5. check that all is finite, and log, if one of these is due next

A batch and a step's randomness are functions of (seed, stage, step) alone, so the state
at step s is all there is to save, and a run that was stopped ends in the same bytes as
one that was not.

Steps can take less time than Python needs to start them. Several are therefore run by
one call: a loop on the device, whose length is an argument, so that the very same
program runs whatever lies between two calls.
"""

import contextlib
import dataclasses
import functools
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxad import rng
from jaxad.checkpoint import Checkpoints
from jaxad.errors import InputError
from jaxad.methods.base import Params, Stage
from jaxad.writer import Writer

Batch = dict[str, Any]

# Steps a call, at most, where batches are drawn from a table on the device.
_STEPS_A_CALL = 128


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


@dataclasses.dataclass(frozen=True)
class Images:
    """Training images, for a stage whose inputs are images.

    Attributes:
      count: how many there are.
      batches: `start_step -> iterator` over the batches of that step and all later
        ones, dictionaries of numpy arrays.
    """

    count: int
    batches: Callable[[int], Iterator[Batch]]


class Preempted(Exception):
    """The process was told to stop (SIGTERM); everything is saved. Start it again."""


def train(
    stage: Stage,
    params: Params,
    items: Images | np.ndarray,
    *,
    seed: int,
    workdir: str | pathlib.Path,
    options: Options = Options(),
) -> Params:
    """Runs a stage from its latest checkpoint, or its start, to its end.

    Leaves checkpoints and `metrics.jsonl` in `workdir`. A stage that is finished is
    restored, not run again.

    Args:
      stage: of a method.
      params: what the stages before it have handed on.
      items: what it trains on: `Images`, or descriptors [..., c] where its inputs are
        patches, which are drawn in an order that is shuffled anew each epoch.
      seed: of the run.
      workdir: of this stage alone.
      options: how often to log and to save.

    Returns:
      What the stage hands on.

    Raises:
      InputError: fewer items than a batch, items that are not finite, a checkpoint
        that cannot be read, or training that diverges. It then stops at the first step
        with a value that is not finite, and the checkpoint before it stays.
      Preempted: SIGTERM came.
    """
    source = (_Table if stage.inputs == "patches" else _Stream)(stage, items, seed)
    total = stage.num_steps(source.count)
    state = _loop(
        stage.name,
        source,
        functools.partial(jax.jit(stage.init), *_init_arguments(stage, params, seed)),
        functools.partial(
            _compile(_one(stage), source), key=rng.stream(seed, stage.name), total=total
        ),
        total,
        workdir,
        options,
    )
    return stage.finish(state, params)


@dataclasses.dataclass(frozen=True)
class Run:
    """One of several runs of a stage: the arguments of `train` that differ."""

    params: Params
    items: np.ndarray
    seed: int


def train_together(
    stage: Stage,
    runs: Sequence[Run],
    *,
    workdir: str | pathlib.Path,
    options: Options = Options(),
) -> list[Params]:
    """Runs a stage whose inputs are patches for several categories or seeds at once.

    One program steps all runs; a run that has fewer steps than the longest waits. Each
    run ends in what `train` would have given it, but for rounding. The curves are
    named `<number of the run>/<name>`.

    Args:
      stage: of a method.
      runs: their params and items may differ, the shapes of their states may not.
      workdir: of this stage and all runs.
      options: how often to log and to save.

    Returns:
      What the stage hands on, for each run.

    Raises:
      InputError, Preempted: as `train`.
    """
    source = _Tables(stage, runs)
    totals = np.array([stage.num_steps(t.count) for t in source.tables], np.int32)
    one = jax.vmap(_one(stage), in_axes=(0, 0, 0, None, 0))

    def init(*arguments):
        states = [stage.init(*each) for each in arguments]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def together(state, batch, keys, step, totals):
        ahead, metrics = one(state, batch, keys, step, totals)
        going = step < totals

        def select(new, old):
            return jnp.where(going.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        numbered = {
            f"{i}/{name}": value[i]
            for name, value in metrics.items()
            for i in range(len(runs))
        }
        return jax.tree.map(select, ahead, state), numbered

    keys = jnp.stack([rng.stream(run.seed, stage.name) for run in runs])
    state = _loop(
        stage.name,
        source,
        functools.partial(
            jax.jit(init),
            *(_init_arguments(stage, run.params, run.seed) for run in runs),
        ),
        functools.partial(_compile(together, source), key=keys, total=totals),
        int(totals.max()),
        workdir,
        options,
    )
    return [
        stage.finish(jax.tree.map(lambda x, i=i: x[i], state), run.params)
        for i, run in enumerate(runs)
    ]


def _init_arguments(stage: Stage, params: Params, seed: int):
    return rng.stream(seed, f"{stage.name}.init"), params


def _loop(name, source, init, run, total: int, workdir, options: Options):
    """From the latest checkpoint, or the start, to the state after `total` steps.

    Args:
      name: of the stage.
      source: a `_Table`, `_Tables` or `_Stream`.
      init: `() -> state`.
      run: of `_compile`, with its key and total.
    """
    with contextlib.ExitStack() as stack:
        # First in, last out: the last checkpoint is on disk before a signal can kill.
        told_to_stop = stack.enter_context(_sigterm())
        checkpoints = stack.enter_context(Checkpoints(workdir, keep=options.keep))
        step = saved = checkpoints.latest_step()
        if saved is None:
            # Copied, because jit hands inputs through and `params` outlives donation.
            step, state = 0, jax.tree.map(jnp.copy, init())
        else:
            state = checkpoints.restore(saved, jax.eval_shape(init))
        writer = stack.enter_context(Writer(workdir, start_step=step))
        bar = stack.enter_context(
            tqdm(total=total, initial=step, desc=name, unit="step", disable=None)
        )
        stop, broken = False, jnp.int32(0)
        while True:
            if step != saved and (stop or _due(step, options.save_every, total)):
                checkpoints.save(step, state)
                saved = step
            if step == total:
                return state
            if stop:
                raise Preempted(f"stage {name!r} is saved at step {step}")

            end = min(
                step + source.steps_a_call,
                _next(step, options.log_every),
                _next(step, options.save_every),
                total,
            )
            drawn = source.draw(step, end)
            jax.block_until_ready(broken)  # one call ahead of the device, no more
            state, metrics, broken = run(state, source.table, drawn, broken, step, end)
            bar.update(end - step)
            step = end

            stop = told_to_stop.is_set() or checkpoints.preempted(step)
            log = _due(step, options.log_every, total)
            if log or stop or _due(step, options.save_every, total):
                metrics = jax.device_get(metrics)
                _check(name, state, metrics, int(broken), step, saved)
            if log:
                writer.write(step, metrics)
                bar.set_postfix({k: f"{v:.4g}" for k, v in metrics.items()})


def _next(step: int, every: int) -> int:
    """The first multiple of `every` after `step`."""
    return step - step % every + every


def _due(step: int, every: int, total: int) -> bool:
    return step == total or (step > 0 and step % every == 0)


# ---- Where batches come from


class _Table:
    """Rows of one array that lies on the device, shuffled anew each epoch."""

    steps_a_call = _STEPS_A_CALL

    def __init__(self, stage: Stage, items: np.ndarray, seed: int):
        rows = items.reshape(-1, items.shape[-1])
        self.count, self._batch_size, self._seed = len(rows), stage.batch_size, seed
        _enough(stage, self.count)
        if not np.isfinite(rows).all():
            raise InputError(
                f"stage {stage.name!r} is given features that are not finite; check "
                "config.backbone.weights and the training images"
            )
        self.table = jnp.asarray(rows)

    def draw(self, start: int, end: int) -> np.ndarray:
        """Row numbers of steps start to end, int32 [steps_a_call, b], padded."""
        rows = np.zeros((self.steps_a_call, self._batch_size), np.int32)
        steps_an_epoch = self.count // self._batch_size
        for i, step in enumerate(range(start, end)):
            epoch, within = divmod(step, steps_an_epoch)
            first = within * self._batch_size
            order = _order(self._seed, epoch, self.count)
            rows[i] = order[first : first + self._batch_size]
        return rows

    @staticmethod
    def batch(table: jax.Array, rows: jax.Array) -> Batch:
        return {"patches": table[rows], "index": rows}


class _Tables:
    """Several tables, a batch of each."""

    steps_a_call = _STEPS_A_CALL

    def __init__(self, stage: Stage, runs: Sequence[Run]):
        self.tables = [_Table(stage, run.items, run.seed) for run in runs]
        self.table = [table.table for table in self.tables]

    def draw(self, start: int, end: int) -> np.ndarray:
        """Row numbers, int32 [steps_a_call, tables, b]."""
        return np.stack([table.draw(start, end) for table in self.tables], axis=1)

    @staticmethod
    def batch(table: list[jax.Array], rows: jax.Array) -> Batch:
        patches = jnp.stack([t[r] for t, r in zip(table, rows, strict=True)])
        return {"patches": patches, "index": rows}


class _Stream:
    """Batches of images as an iterator gives them, one a call."""

    steps_a_call = 1
    table = None

    def __init__(self, stage: Stage, items: Images, seed: int):
        del seed  # the order of images is the iterator's
        self.count, self._items = items.count, items
        self._iterator, self._at = None, None
        _enough(stage, self.count)

    def draw(self, start: int, end: int) -> Batch:
        if self._at != start:
            self._iterator = self._items.batches(start)
        self._at = end
        return jax.tree.map(lambda x: x[None], next(self._iterator))

    @staticmethod
    def batch(table: None, drawn: Batch) -> Batch:
        return drawn


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


def _enough(stage: Stage, count: int) -> None:
    if count < stage.batch_size:
        raise InputError(
            f"stage {stage.name!r} trains on batches of {stage.batch_size} and the "
            f"training split has only {count} {stage.inputs}; lower its batch size in "
            "config.method"
        )


# ---- Steps


def _one(stage: Stage):
    """`(state, batch, key of the stage, step, total) -> (state, metrics)`."""

    def one(state, batch, key, step, total):
        batch = {**batch, "progress": step / total.astype(jnp.float32)}
        return stage.step(state, batch, rng.at(key, step))

    return one


def _compile(one, source):
    """Steps `start` to `end` as one program, which stops where a value is not finite.

    Returns:
      `(state, table, drawn, broken, start, end, key, total) -> (state, metrics,
      broken)`: the metrics of the last step that ran, and the number of the first step,
      counted from one, with a metric that is not finite; 0 if there is none. `state` is
      donated.
    """

    def advance(state, table, drawn, key, step, total):
        state, metrics = one(state, source.batch(table, drawn), key, step, total)
        return state, {n: v.astype(jnp.float32) for n, v in metrics.items()}

    @functools.partial(jax.jit, donate_argnums=0)
    def run_one(state, table, drawn, broken, start, end, *, key, total):
        del end
        now = jax.tree.map(lambda x: x[0], drawn)
        state, metrics = advance(state, table, now, key, start, total)
        finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
        now_broken = jnp.where(finite, 0, start + 1).astype(jnp.int32)
        return state, metrics, jnp.where(broken > 0, broken, now_broken)

    if source.steps_a_call == 1:
        # A network inside a loop is ten times slower on a CPU.
        return run_one

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state, table, drawn, broken, start, end, *, key, total):
        def body(carry):
            state, _, broken, step = carry
            now = jax.tree.map(lambda x: x[step - start], drawn)
            state, metrics = advance(state, table, now, key, step, total)
            finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
            step += 1
            return state, metrics, jnp.where(finite, jnp.int32(0), step), step

        def goes_on(carry):
            *_, broken, step = carry
            return (step < end) & (broken == 0)

        first = jax.tree.map(lambda x: x[0], drawn)
        _, metrics = jax.eval_shape(advance, state, table, first, key, start, total)
        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
        carry = state, metrics, broken, jnp.int32(start)
        return jax.lax.while_loop(goes_on, body, carry)[:3]

    return run


@jax.jit
def _finite(state) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()


def _check(name: str, state, metrics, broken: int, step: int, saved: int | None):
    """Stops a run that has diverged, before anything of it is saved."""
    if broken:
        # One step a call may go on past it, and be finite again.
        bad = [n for n, v in metrics.items() if not np.isfinite(v)] or list(metrics)
        what, step = " and ".join(bad), broken
    elif not _finite(state):
        what = "the state"
    else:
        return
    kept = f"the checkpoint of step {saved} is kept" if saved else "none was saved yet"
    raise InputError(
        f"stage {name!r} diverged: {what} not finite at step {step} ({kept}); "
        "lower the learning rate in config.method and choose another --workdir"
    )


# ---- Being told to stop


@contextlib.contextmanager
def _sigterm():
    """Turns SIGTERM into an event while the block runs."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)
