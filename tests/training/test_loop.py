import dataclasses
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import rng
from jaxad.devices import sharding
from jaxad.errors import InputError
from jaxad.methods.base import Stage
from jaxad.training import checkpoint, feed, loop
from jaxad.training.feed import Images
from jaxad.training.loop import Options, Preempted


def make_stage(inputs="patches", batch_size=4, steps=10, breaks_at=None, name="toy"):
    """A mean that follows the batches, pushed about by the step's own noise."""

    def init(key, params, item):
        assert item == (3,)
        return {"mean": params["start"], "noise": jax.random.normal(key, (3,))}

    def step(state, batch, key):
        rows = batch["patches"] if inputs == "patches" else batch["image"]
        rate = 0.5 * (1 - batch["progress"])
        target = rows.mean(0) + 0.1 * jax.random.normal(key, (3,))
        mean = state["mean"] + rate * (target - state["mean"])
        loss = ((target - mean) ** 2).sum()
        if breaks_at is not None:
            loss = jnp.where(batch["progress"] * steps >= breaks_at - 1, jnp.nan, loss)
        return {**state, "mean": mean}, {"loss": loss, "rate": rate}

    def finish(state, params):
        return {**params, "mean": state["mean"], "noise": state["noise"]}

    return Stage(name, inputs, batch_size, lambda n: steps, init, step, finish)


PATCHES = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
OPTIONS = Options(log_every=2, save_every=4)


def params():
    return {"start": jnp.ones(3)}


def run(workdir, stage=None, items=PATCHES, seed=7, options=OPTIONS, mesh=None):
    return loop.train(
        stage or make_stage(),
        params(),
        items,
        seed=seed,
        workdir=workdir,
        options=options,
        mesh=mesh,
    )


def lines(workdir):
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def same_bytes(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def images(stop_at=None, act=None):
    """Batches of rows as a function of the step; `act()` when one step is drawn."""

    def batches(start):
        for step in itertools.count(start):
            if step == stop_at:
                act()
            yield {"image": np.random.default_rng(step).normal(size=(4, 3))}

    return Images(11, batches, (3,))


def test_against_a_plain_loop(tmp_path):
    """What the documentation promises, one step at a time, without jit."""
    stage, state = make_stage(), None
    state = stage.init(rng.stream(7, "toy.init"), params(), (3,))
    losses = []
    for step in range(10):
        epoch, within = divmod(step, 11 // 4)
        order = np.random.default_rng((7, epoch)).permutation(11)
        rows = order[4 * within : 4 * within + 4]
        batch = {"patches": jnp.asarray(PATCHES[rows]), "progress": step / 10}
        state, metrics = stage.step(state, batch, rng.at(rng.stream(7, "toy"), step))
        losses.append(float(metrics["loss"]))
    got = run(tmp_path)
    np.testing.assert_allclose(got["mean"], state["mean"], rtol=1e-5)
    np.testing.assert_array_equal(got["noise"], state["noise"])
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6, 8, 10]
    got = [line["loss"] for line in lines(tmp_path)]
    np.testing.assert_allclose(got, losses[1::2], rtol=1e-4)


def test_epochs_see_every_patch_once():
    table = feed.Table(make_stage(batch_size=3), PATCHES[:9].reshape(3, 3, 3), 0, None)
    rows = table.rows(0, 6)
    assert rows.shape == (feed.STEPS_A_CALL, 3) and rows.dtype == np.int32
    first, second = rows[:3].ravel(), rows[3:6].ravel()
    assert sorted(first) == sorted(second) == list(range(9))
    assert list(first) != list(second)
    np.testing.assert_array_equal(table.rows(2, 5)[:3], rows[2:5])
    drawn = table.draw(2, 5)
    np.testing.assert_array_equal(drawn["index"][:3], rows[2:5])
    np.testing.assert_array_equal(drawn["patches"][:3], PATCHES[rows[2:5]])


def test_what_is_drawn_is_the_same_bits_spread_over_devices():
    items = np.where(PATCHES < 0, -0.0, np.float32(1e-42)).astype(np.float32)
    for devices, batch_size in ((2, 4), (4, 4), (4, 3)):
        stage = make_stage(batch_size=batch_size)
        table = feed.Table(stage, items, 0, mesh_of(devices))
        assert table.array.addressable_shards[0].data.shape[0] == -(-11 // devices)
        want, got = feed.Table(stage, items, 0, None).draw(0, 2), table.draw(0, 2)
        for name, shape in table.drawn().items():
            assert got[name].sharding.is_equivalent_to(shape.sharding, shape.ndim)
            assert (got[name].shape, got[name].dtype) == (shape.shape, shape.dtype)
            assert np.asarray(got[name]).tobytes() == np.asarray(want[name]).tobytes()


def test_batches_of_a_call_are_bounded(monkeypatch):
    monkeypatch.setattr(feed, "_CALL_BYTES", 100)
    table = feed.Table(make_stage(), PATCHES, 0, None)  # 48 bytes a batch
    assert table.steps_a_call == len(table.draw(0, 2)["patches"]) == 2
    assert feed.Tables(make_stage(), [PATCHES] * 3, range(3), None).steps_a_call == 1


@pytest.mark.parametrize("options", [Options(), Options(3, 5)], ids=str)
def test_how_often_it_logs_and_saves_changes_no_bit(tmp_path, options):
    same_bytes(run(tmp_path / "a"), run(tmp_path / "b", options=options))


@pytest.mark.parametrize("stop_at", [3, 4, 9])
def test_sigterm_saves_and_the_resumed_run_ends_in_the_same_bytes(tmp_path, stop_at):
    stage = make_stage("images")
    whole = run(tmp_path / "whole", stage, images())

    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match=f"'toy' is saved at step {stop_at + 1}"):
        run(tmp_path / "parts", stage, images(stop_at, terminate))
    assert signal.getsignal(signal.SIGTERM) is before
    same_bytes(run(tmp_path / "parts", stage, images()), whole)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_kill_costs_at_most_one_interval(tmp_path):
    """A process killed while it draws step 10 (0-based 9) goes on from step 8."""
    script = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[1])
        import test_loop
        from jaxad.training.loop import Options
        kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
        stage = test_loop.make_stage("images")
        test_loop.run(sys.argv[2], stage, test_loop.images(9, kill))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    command += [str(pathlib.Path(__file__).parent), str(tmp_path / "killed")]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with checkpoint.Checkpoints(tmp_path / "killed") as checkpoints:
        assert checkpoints.latest_step() in (4, 8)  # 8 may be half on disk
    with open(tmp_path / "killed/metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')  # as a kill leaves it
    stage = make_stage("images")
    whole = run(tmp_path / "whole", stage, images())
    same_bytes(run(tmp_path / "killed", stage, images()), whole)
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")


def test_finished_stage_is_restored_not_run(tmp_path):
    stage = make_stage("images")
    whole = run(tmp_path, stage, images())

    def never(start):
        raise AssertionError("a finished stage drew a batch")

    same_bytes(run(tmp_path, stage, Images(11, never, (3,))), whole)


def test_params_survive_donation(tmp_path):
    given = params()
    stage = make_stage()
    loop.train(stage, given, PATCHES, seed=0, workdir=tmp_path, options=OPTIONS)
    np.testing.assert_array_equal(given["start"], np.ones(3))


def test_no_steps(tmp_path):
    np.testing.assert_array_equal(
        run(tmp_path, make_stage(steps=0))["mean"], np.ones(3)
    )


def test_one_compilation_whatever_the_call_lengths(tmp_path):
    traced = []
    stage = make_stage(steps=13)

    plain = stage.step

    def counted(*args):
        traced.append(1)
        return plain(*args)

    stage = dataclasses.replace(stage, step=counted)
    run(tmp_path, stage, options=Options(log_every=3, save_every=5))
    assert len(traced) <= 2  # its shapes, and its program


@pytest.mark.parametrize("devices", [None, 2])
def test_one_compilation_whatever_the_number_of_items(tmp_path, devices):
    traced, stage = [], make_stage(steps=3)

    def counted(*args):
        traced.append(1)
        return stage.step(*args)

    same = dataclasses.replace(stage, step=counted)
    mesh = devices and mesh_of(devices)
    for count in (4, 7, 11):
        run(tmp_path / str(count), same, PATCHES[:count], mesh=mesh)
    assert len(traced) <= 2  # its shapes, and its program


@pytest.mark.parametrize("breaks_at", [2, 6, 10])
def test_divergence_names_the_step_and_keeps_the_last_checkpoint(tmp_path, breaks_at):
    kept = {2: "none was saved yet", 6: "step 4 is kept", 10: "step 8 is kept"}
    with pytest.raises(InputError) as error:
        run(tmp_path, make_stage(breaks_at=breaks_at))
    assert f"loss not finite at step {breaks_at} " in str(error.value)
    assert kept[breaks_at] in str(error.value)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == {2: None, 6: 4, 10: 8}[breaks_at]


def test_state_that_is_not_finite_is_never_saved(tmp_path):
    """A loss can be fine at the step whose update is not."""

    def step(state, batch, key):
        return {"w": state["w"] / 0}, {"loss": jnp.float32(1)}

    stage = Stage(
        "bad",
        "patches",
        4,
        lambda n: 1,
        lambda k, p, item: {"w": p["start"]},
        step,
        lambda s, p: p,
    )
    with pytest.raises(InputError, match="the state not finite at step 1"):
        run(tmp_path, stage)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None


def runs_of_three(workdir):
    """Three runs that differ in their patches, their number, or their seed."""
    return [
        loop.Run(params(), PATCHES, 7, workdir / "0"),
        loop.Run(params(), PATCHES[:6] + 1, 7, workdir / "1"),
        loop.Run({"start": jnp.zeros(3)}, PATCHES, 8, workdir / "2"),
    ]


def as_many_steps_as_items(**changed):
    return dataclasses.replace(make_stage(), num_steps=lambda n: n, **changed)


def alone(run, stage, workdir=None):
    return loop.train(
        stage,
        run.params,
        run.items,
        seed=run.seed,
        workdir=workdir or run.workdir,
        options=OPTIONS,
    )


def close(got, want):
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6)


# ---- On several devices


def mesh_of(devices):
    return sharding.make_mesh(jax.devices()[:devices])


def watched(stage, seen):
    """The stage, telling how the rows of its batches lie."""

    def step(state, batch, key):
        rows = batch["patches"] if stage.inputs == "patches" else batch["image"]
        jax.debug.inspect_array_sharding(rows, callback=seen.append)
        return stage.step(state, batch, key)

    return dataclasses.replace(stage, step=step)


@pytest.mark.parametrize("inputs", ["patches", "images"])
@pytest.mark.parametrize("devices", [2, 4])
def test_devices_share_the_batch_and_agree_with_one(tmp_path, inputs, devices):
    stage, seen = make_stage(inputs), []
    items = PATCHES if inputs == "patches" else images()
    want = run(tmp_path / "one", stage, items)
    mesh = mesh_of(devices)
    got = run(tmp_path / "many", watched(stage, seen), items, mesh=mesh)
    assert {x.shard_shape((4, 3))[0] for x in seen} == {4 // devices}
    close(got, want)
    np.testing.assert_array_equal(got["noise"], want["noise"])
    assert all(leaf.sharding.is_fully_replicated for leaf in got.values())
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "many"), strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)


@pytest.mark.parametrize("inputs", ["patches", "images"])
def test_a_batch_that_does_not_divide_is_each_device_s(tmp_path, inputs, caplog):
    items = PATCHES if inputs == "patches" else images()
    want = run(tmp_path / "one", make_stage(inputs), items)
    got = run(tmp_path / "many", make_stage(inputs), items, mesh=mesh_of(3))
    close(got, want)
    assert "each of the 3 devices works on the whole batch of 4" in caplog.text


@pytest.mark.parametrize("inputs", ["patches", "images"])
def test_a_resume_on_the_same_devices_ends_in_the_same_bytes(tmp_path, inputs):
    items = PATCHES if inputs == "patches" else images()
    mesh = mesh_of(4)
    want = run(tmp_path / "whole", make_stage(inputs), items, mesh=mesh)
    with pytest.raises(InputError, match="diverged"):
        run(tmp_path / "parts", make_stage(inputs, breaks_at=7), items, mesh=mesh)
    same_bytes(run(tmp_path / "parts", make_stage(inputs), items, mesh=mesh), want)


@pytest.mark.parametrize("meshes", [(None, 4), (4, None), (4, 2)])
def test_a_resume_on_other_devices(tmp_path, meshes):
    before, after = (mesh and mesh_of(mesh) for mesh in meshes)
    want = run(tmp_path / "whole")
    with pytest.raises(InputError, match="diverged"):
        run(tmp_path / "parts", make_stage(breaks_at=7), mesh=before)
    close(run(tmp_path / "parts", mesh=after), want)


def test_runs_together_on_several_devices(tmp_path):
    stage = as_many_steps_as_items()
    want = loop.train_together(stage, runs_of_three(tmp_path / "a"), options=OPTIONS)
    got = loop.train_together(
        stage, runs_of_three(tmp_path / "b"), options=OPTIONS, mesh=mesh_of(2)
    )
    for a, b in zip(got, want, strict=True):
        close(a, b)


def test_runs_together_leave_what_each_alone_would(tmp_path):
    stage = as_many_steps_as_items()
    runs = runs_of_three(tmp_path / "together")
    out = loop.train_together(stage, runs, options=OPTIONS)
    for i, (run, got) in enumerate(zip(runs, out, strict=True)):
        place = tmp_path / str(i)
        close(got, alone(run, stage, place))
        ours, theirs = lines(run.workdir), lines(place)
        assert [line["step"] for line in ours] == [line["step"] for line in theirs]
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)

        def never(state, batch, key):
            raise AssertionError("a finished run was stepped")

        same_bytes(alone(run, dataclasses.replace(stage, step=never)), got)


def test_runs_together_share_the_items_that_are_the_same():
    items, seeds = (PATCHES, PATCHES[:6], PATCHES), (7, 7, 8)
    source = feed.Tables(make_stage(), items, seeds, None)
    first, second, third = (table.array for table in source.tables)
    assert first is third and first is not second
    for i, drawn in enumerate(source.draw(0, 2)):
        want = feed.Table(make_stage(), items[i], seeds[i], None).draw(0, 2)
        same_bytes(drawn, want)


def test_runs_together_go_on_each_from_its_own_checkpoint(tmp_path):
    """One has ended, one is ahead by itself, one has not begun."""
    stage = as_many_steps_as_items()
    whole = runs_of_three(tmp_path / "whole")
    want = loop.train_together(stage, whole, options=OPTIONS)
    runs = runs_of_three(tmp_path / "parts")
    alone(runs[1], stage)

    def breaks(state, batch, key):
        state, metrics = stage.step(state, batch, key)
        late = batch["progress"] > 0.85
        return state, {**metrics, "loss": jnp.where(late, jnp.nan, metrics["loss"])}

    with pytest.raises(InputError, match="not finite at step 11 .*step 8 is kept"):
        alone(runs[2], dataclasses.replace(stage, step=breaks))
    for got, right in zip(
        loop.train_together(stage, runs, options=OPTIONS), want, strict=True
    ):
        close(got, right)
    for run, other in zip(runs, whole, strict=True):
        steps = [line["step"] for line in lines(run.workdir)]
        assert steps == [line["step"] for line in lines(other.workdir)]


def test_one_of_the_runs_together_diverges(tmp_path):
    """After another has ended: it is named, and what is kept of all is whole."""
    stage = as_many_steps_as_items()
    runs = runs_of_three(tmp_path / "parts")

    def breaks(state, batch, key):
        state, metrics = stage.step(state, batch, key)
        bad = (batch["progress"] > 0.85) & (state["noise"] == noise).all()
        return state, {**metrics, "loss": jnp.where(bad, jnp.nan, metrics["loss"])}

    noise = stage.init(rng.stream(8, "toy.init"), params(), (3,))["noise"]
    message = r"diverged in .*parts/2: loss not finite at step 11 .*step 8 is kept"
    with pytest.raises(InputError, match=message):
        loop.train_together(
            dataclasses.replace(stage, step=breaks), runs, options=OPTIONS
        )
    parts = loop.train_together(stage, runs, options=OPTIONS)
    whole = runs_of_three(tmp_path / "whole")
    same_bytes(parts, loop.train_together(stage, whole, options=OPTIONS))


def test_runs_together_have_states_of_one_shape(tmp_path):
    runs = runs_of_three(tmp_path)
    runs[2] = dataclasses.replace(runs[2], params={"start": jnp.ones(4)})
    with pytest.raises(InputError, match=r"runs 0 and 2 together: .*\(3,\).*\(4,\)"):
        loop.train_together(as_many_steps_as_items(), runs)


def test_fewer_items_than_a_batch(tmp_path):
    with pytest.raises(InputError, match="batches of 12 and .* only 11 patches"):
        run(tmp_path, make_stage(batch_size=12))
    with pytest.raises(InputError, match="batches of 12 and .* only 11 images"):
        run(tmp_path, make_stage("images", batch_size=12), images())


def test_fewer_steps_than_are_done(tmp_path):
    stage = as_many_steps_as_items()
    run(tmp_path, stage, items=PATCHES)
    with pytest.raises(InputError, match=r"holds step 11 of a stage that has 6 now"):
        run(tmp_path, stage, items=PATCHES[:6])


def test_features_that_are_not_finite(tmp_path):
    broken = PATCHES.copy()
    broken[3, 1] = np.inf
    with pytest.raises(InputError, match="features that are not finite"):
        run(tmp_path, items=broken)
