"""The programs of the training loop: a stage's start, and its steps.

A step's randomness and its schedules are functions of (seed, stage, step) alone. Steps
can take less time than Python needs to start them. Several are therefore run by one
call: a loop on the device, whose length is an argument, so that the very same program
runs whatever lies between two calls.
"""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxad import rng
from jaxad.devices import sharding
from jaxad.devices.programs import Program
from jaxad.methods.base import Params, Stage
from jaxad.training import feed


def init(stage: Stage, params: Params, seed: int, item: tuple[int, ...]):
    """A function that makes a run's state as it starts, and its arguments."""
    return (
        lambda key, params: stage.init(key, params, item),
        rng.stream(seed, f"{stage.name}.init"),
        params,
    )


def starts(stage: Stage, inits, items, mesh: sharding.Mesh | None):
    """A function that makes the runs' states as they start, of an `init` each."""
    program = _starting(stage, tuple(items), mesh)
    return functools.partial(program, [arguments for _, *arguments in inits])


def alone(stage: Stage, source: feed.Table | feed.Stream):
    """The steps of one run, as `_compile` gives them for a list of one state."""
    return _stepping(stage, 1, source.mesh, source.steps_a_call)


def together(stage: Stage, runs: int, source: feed.Tables):
    """The steps of several runs, for the list of their states."""
    return _stepping(stage, runs, source.mesh, source.steps_a_call)


# One for all categories of a run: what is made anew would be compiled anew.


@functools.lru_cache(maxsize=16)
def _starting(stage: Stage, items, mesh: sharding.Mesh | None):
    def start(arguments):
        return [
            stage.init(*given, item)
            for given, item in zip(arguments, items, strict=True)
        ]

    return jax.jit(start, out_shardings=sharding.everywhere(mesh))


@functools.lru_cache(maxsize=16)
def _stepping(stage: Stage, runs: int, mesh, steps_a_call: int):
    if runs == 1:
        return _compile(_alone(stage), mesh, steps_a_call)
    return _stacked(_compile(_together(stage, runs), mesh, steps_a_call), mesh)


def programs(
    stage: Stage,
    params: Params,
    items: feed.Images | jax.ShapeDtypeStruct,
    *,
    runs: int = 1,
    mesh: sharding.Mesh | None = None,
) -> list[Program]:
    """What a stage compiles, from shapes alone: its start and its steps.

    Args:
      stage: of a method.
      params: shapes of what the stages before it have handed on.
      items: of which kind it trains on; of descriptors the shape [n, c].
      runs: so many train in one program.
      mesh: the devices that share a batch.
    """
    keys = jax.eval_shape(lambda: rng.stream(0, stage.name))
    count, first = (jax.ShapeDtypeStruct((), np.int32, weak_type=True),) * 2
    if runs > 1:
        # Categories of their own: a table each.
        tables = [copy.copy(items) for _ in range(runs)]
        source = feed.Tables(stage, tables, range(runs), mesh)
        step, item = together(stage, runs, source), source.tables[0].item
        keys = jax.ShapeDtypeStruct((runs,), keys.dtype)
        count = (jax.ShapeDtypeStruct((runs,), np.int32),) * 2
    else:
        kind = feed.Table if stage.inputs == "patches" else feed.Stream
        source = kind(stage, items, 0, mesh)
        step, item = alone(stage, source), source.item
    inits = [init(stage, params, 0, item)] * runs
    start = starts(stage, inits, [item] * runs, mesh)
    states = sharding.shapes_on(jax.eval_shape(start), mesh)
    broken = sharding.shapes_on(jax.ShapeDtypeStruct((), np.int32), mesh)
    arguments = states, source.drawn(), broken, first, first
    options = {"key": keys, "total": count}
    return [
        Program(f"{stage.name}: start", start.func, start.args, heads=runs),
        *source.programs(stage.name),
        Program(
            f"{stage.name}: step",
            step,
            arguments,
            options,
            calls=stage.num_steps(source.count if runs == 1 else len(items)),
            heads=runs,
            lower=f"the batch of {stage.batch_size} in config.method",
        ),
    ]


def _one(stage: Stage):
    """`(state, batch, key of the stage, step, total) -> (state, metrics)`."""

    def one(state, batch, key, step, total):
        batch = {**batch, "progress": step / total.astype(jnp.float32)}
        return stage.step(state, batch, rng.at(key, step))

    return one


def _alone(stage: Stage):
    """`_one` on lists of one."""
    one = _one(stage)

    def alone(states, batch, key, step, total):
        state, metrics = one(*states, batch, key, step, total)
        return [state], [metrics]

    return alone


def _together(stage: Stage, runs: int):
    """`_one` on stacked states, with a key, a first step and a total of each run."""
    one = jax.vmap(_one(stage), in_axes=(0, 0, 0, None, 0))

    def together(state, batches, keys, step, spans):
        starts, totals = spans
        batch = jax.tree.map(lambda *each: jnp.stack(each), *batches)
        ahead, metrics = one(state, batch, keys, step, totals)
        going = (starts <= step) & (step < totals)

        def select(new, old):
            return jnp.where(going.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        metrics = {n: jnp.where(going, value, 0) for n, value in metrics.items()}
        return jax.tree.map(select, ahead, state), _unstack(metrics, runs)

    return together


def _stacked(program, mesh: sharding.Mesh | None):
    """A program of `_compile` for stacked states, on lists of them."""

    @functools.partial(
        jax.jit, donate_argnums=0, out_shardings=sharding.everywhere(mesh)
    )
    def run(states, *arguments, **options):
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        state, *rest = program(state, *arguments, **options)
        return _unstack(state, len(states)), *rest

    return run


def _unstack(tree, n: int) -> list:
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(n)]


def _compile(one, mesh: sharding.Mesh | None, steps_a_call: int):
    """Steps `start` to `end` as one program, which stops where a value is not finite.

    Returns:
      `(state, drawn, broken, start, end, key, total) -> (state, metrics, broken)`: the
      metrics of the last step that ran, and the number of the first step, counted from
      one, with a metric that is not finite; 0 if there is none. `state` is donated.
    """

    def advance(state, batch, key, step, total):
        state, metrics = one(state, batch, key, step, total)
        return state, jax.tree.map(lambda value: value.astype(jnp.float32), metrics)

    everywhere = sharding.everywhere(mesh)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=everywhere)
    def run_one(state, drawn, broken, start, end, *, key, total):
        del end
        now = jax.tree.map(lambda x: x[0], drawn)
        state, metrics = advance(state, now, key, start, total)
        finite = jnp.isfinite(jnp.stack(jax.tree.leaves(metrics))).all()
        now_broken = jnp.where(finite, 0, start + 1).astype(jnp.int32)
        return state, metrics, jnp.where(broken > 0, broken, now_broken)

    if steps_a_call == 1:
        # A network inside a loop is ten times slower on a CPU.
        return run_one

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=everywhere)
    def run(state, drawn, broken, start, end, *, key, total):
        def body(carry):
            state, _, broken, step = carry
            now = jax.tree.map(lambda x: x[step - start], drawn)
            state, metrics = advance(state, now, key, step, total)
            finite = jnp.isfinite(jnp.stack(jax.tree.leaves(metrics))).all()
            step += 1
            return state, metrics, jnp.where(finite, jnp.int32(0), step), step

        def goes_on(carry):
            *_, broken, step = carry
            return (step < end) & (broken == 0)

        first = jax.tree.map(lambda x: x[0], drawn)
        _, metrics = jax.eval_shape(advance, state, first, key, start, total)
        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
        carry = state, metrics, broken, jnp.int32(start)
        return jax.lax.while_loop(goes_on, body, carry)[:3]

    return run
