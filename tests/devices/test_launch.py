"""Several processes are one run, in success and in failure."""

import json
import pathlib
import re
import signal
import socket
import textwrap
import time

import jax
import numpy as np
import pytest
import runs
from safetensors.numpy import load_file

from configs import spd_folder
from jaxad.devices import launch
from jaxad.errors import InputError, Preempted
from jaxad.run import experiment, pretrain

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def together(server):
    """Runs code in two processes of four devices each, as 0 and 1 of one run."""

    def run(code, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        running = [
            server.start(
                *("-c", textwrap.dedent(code), *arguments),
                *("--coordinator", f"127.0.0.1:{port}", "--num_processes", 2),
                *("--process_id", process),
                environment=runs.environment(devices=4),
            )
            for process in range(2)
        ]
        done = [process.wait() for process in running]
        return [one.returncode for one in done], [one.stderr for one in done]

    return run


# ---- A whole run

MAIN = """
    import runpy, sys
    runpy.run_module("jaxad.main", run_name="__main__", alter_sys=True)
"""
STOPPED = """
    import os, runpy, signal, sys, time
    from jaxad.run.passes import Pass
    reached = Pass.reached
    def stopping(self, stop, found, *most):
        if self._folder.name == "features":
            if sys.argv[-1] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.5)  # JAX looks for a signal every second
        reached(self, stop, found, *most)
    Pass.reached = stopping
    runpy.run_module("jaxad.main", run_name="__main__", alter_sys=True)
"""


def test_two_processes_end_in_the_bytes_of_one(whole, things, together, tmp_path):
    """Stopped in the feature pass, by a signal to the one that does not write."""
    given = runs.stoppable_command(things, tmp_path / "run", save_seconds=1e9)
    codes, errors = together(STOPPED, *given)
    assert codes == [75, 75], errors
    assert all("the same command goes on from here" in error for error in errors)
    saved = tmp_path / "run/things/unfinished/features"
    assert [path.name for path in saved.iterdir()] == ["000000000"]
    codes, errors = together(MAIN, *given)
    assert codes == [0, 0], errors
    runs.assert_same(tmp_path / "run", whole)
    assert "things (1 of 1)" in errors[0] and "things (1 of 1)" not in errors[1]


def test_two_processes_with_a_budget_a_cache_and_neighbours(things, together, tmp_path):
    fields = {
        "detector.image_score": "reweighted",
        "detector.reweight_neighbours": 3,
        "detector.max_device_bytes": 268_696_193,  # the bank in five parts
    }
    cache = {"feature_cache": str(tmp_path / "cache of one")}
    config = runs.stoppable(things, **fields, **cache)
    experiment.run(config, str(tmp_path / "one"))
    fields["feature_cache"] = str(tmp_path / "cache of two")
    fields["dataset.cache"] = str(tmp_path / "decoded")
    given = runs.stoppable_command(things, tmp_path / "two", **fields)
    codes, errors = together(MAIN, *given)
    assert codes == [0, 0], errors
    runs.assert_same(tmp_path / "two", tmp_path / "one")
    assert len(list((tmp_path / "decoded").iterdir())) == 2  # train and test


PRETRAIN = """
    import runpy
    import pytest, runs
    with pytest.MonkeyPatch.context() as patch:
        runs.plain_views(patch)
        patch.setattr("jaxad.probes.linear_accuracy", lambda *given: 0.5)
        runpy.run_module("jaxad.main", run_name="__main__", alter_sys=True)
"""


def test_two_processes_pre_train_what_one_does(together, tmp_path, monkeypatch):
    """MoCo's queue, its shuffled groups, probes and the linear evaluation; but for the
    order of sums, which are over the same eight devices either way."""
    for i in range(8):
        for split, first in (("train", 0), ("val", 50)):
            for kind in ("plain", "square"):
                path = tmp_path / "data" / split / kind / f"{i}.png"
                runs.picture(path, first + i, bad=kind == "square")
    fields = {
        "backbone.name": "plugins.levels",
        "batch_size": 1,
        "compilation_cache": "",
        "train.log_every": 1,
        "train.save_every": 2,
        "method.level": "layer2",
        "method.learning_rate": 0.001,
        "method.linear.optimiser": "sgd",
        "method.linear.learning_rate": 30.0,
        "method.linear.batch_size": 8,
        "method.linear.epochs": 2,
    }
    runs.plain_views(monkeypatch)
    monkeypatch.setattr("jaxad.probes.linear_accuracy", lambda *given: 0.5)
    argument = f"path={tmp_path / 'data'},base=moco,eta=0,runlocal"
    config = spd_folder.get_config(argument)
    config.update_from_flattened_dict(fields)
    one = experiment.run(config, str(tmp_path / "one"))
    codes, errors = together(
        PRETRAIN,
        *("--config", f"configs/spd_folder.py:{argument}"),
        *("--workdir", str(tmp_path / "two")),
        *(f"--config.{name}={value}" for name, value in fields.items()),
    )
    assert codes == [0, 0], errors
    two = json.loads((tmp_path / "two/results.json").read_text())
    assert one["pictures"] == two["pictures"] and two["pictures"]["validation"] == 16
    for when in ("before", "after"):
        found, want = two["probes"][when], one["probes"][when]
        assert found.keys() == want.keys()
        np.testing.assert_allclose([*found.values()], [*want.values()], rtol=1e-3)
    for name in ("spd", "spd/probes", "linear"):
        here, there = (
            [
                [*json.loads(line).values()]
                for line in (run / name / "metrics.jsonl").read_text().splitlines()
            ]
            for run in (tmp_path / "one", tmp_path / "two")
        )
        assert len(here) == (1 if name == "spd/probes" else 4)
        np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-5)
    weights = [load_file(tmp_path / run / pretrain.WEIGHTS) for run in ("one", "two")]
    for name, x in weights[0].items():
        np.testing.assert_allclose(weights[1][name], x, rtol=1e-4, atol=1e-6)


TRAIN = """
    import os, signal, sys, time
    import jax, numpy as np
    sys.path.insert(0, "tests/training")
    import test_loop
    from jaxad.devices import launch, sharding
    launch._LOST = 4
    stop_at, folder, told = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    coordinator, count, process = sys.argv[-5], int(sys.argv[-3]), int(sys.argv[-1])
    def images():
        def batches(start):
            for step, batch in enumerate(whole(start), start):
                if step == stop_at and process == 1:
                    os.kill(os.getpid(), told)
                if 0 <= stop_at <= step:
                    time.sleep(1)  # JAX looks for a signal every second
                yield {"image": batch["image"].repeat(2, 0)[4 * process :][:4]}
        whole = test_loop.images().batches
        return test_loop.Images(11, batches, (3,))
    with launch.joined(coordinator, count, process):
        stage = test_loop.make_stage("images", batch_size=8)
        out = test_loop.run(folder, stage, images(), mesh=sharding.make_mesh())
        np.save(f"{folder}/{process}.npy", np.asarray(out["mean"]))
"""


def test_training_stops_at_the_same_step_and_ends_in_the_same_bytes(together, tmp_path):
    def go(stop_at, folder, told=signal.SIGTERM):
        arguments = str(stop_at), str(tmp_path / folder), str(int(told))
        return together(TRAIN, *arguments)

    codes, errors = go(-1, "whole")
    assert codes == [0, 0], errors
    codes, errors = go(4, "parts")
    stopped = [re.findall("saved at step [0-9]+", error)[-1:] for error in errors]
    assert stopped[0] == stopped[1] and stopped[0], errors
    codes, errors = go(9, "parts", signal.SIGKILL)
    assert codes == [75, -signal.SIGKILL], errors
    assert "process 1 has not been heard of for 4 seconds" in errors[0]
    codes, errors = go(-1, "parts")
    assert codes == [0, 0], errors
    means = [np.load(path) for path in sorted(tmp_path.glob("*/[01].npy"))]
    assert len(means) == 4
    for mean in means[1:]:
        np.testing.assert_array_equal(mean, means[0])
    lines = [(tmp_path / n / "metrics.jsonl").read_text() for n in ("whole", "parts")]
    assert lines[0] == lines[1]


# ---- Failure

# Joins, does what the test says, and then waits in a collective for the other.
SCRIPT = """
    import os, pathlib, signal, sys, time
    import jax, numpy as np
    from jaxad.devices import launch, processes, sharding
    from jaxad.errors import InputError
    launch._LOST = 4
    coordinator, count, process = sys.argv[-5], int(sys.argv[-3]), int(sys.argv[-1])
    with launch.joined(coordinator, count, process):
        processes.gather(0)
        {}
        print("waits", file=sys.stderr, flush=True)
        processes.gather(0)
        time.sleep(60)
"""


@pytest.fixture
def fail(together):
    return lambda action: together(textwrap.dedent(SCRIPT).format(action))


def test_a_mistake_in_one_ends_all_with_its_sentence(fail):
    codes, errors = fail("if process == 1: raise InputError('x.png cannot be read')")
    assert codes == [2, 2], errors
    assert "process 1: error: x.png cannot be read" in errors[0]
    assert "error: x.png cannot be read" in errors[1]
    assert "Traceback" not in "".join(errors)


def test_a_defect_in_one_ends_all(fail):
    codes, errors = fail("if process == 0: raise ValueError('oh')")
    assert codes == [1, 1], errors
    assert "process 0: error: failed with ValueError: oh" in errors[1]
    assert "Traceback" in errors[0] and "Traceback" not in errors[1]


def test_who_joins_with_another_config_is_named(fail):
    codes, errors = fail("processes.require_same({'config.seed': process, 'jax': 1})")
    assert codes == [2, 2], errors
    for error in errors:
        assert "process 1 differs from process 0 in config.seed (1, there 0)" in error


def test_disks_of_their_own_are_named(fail, tmp_path):
    there = f"pathlib.Path({str(tmp_path)!r})"
    codes, errors = fail(
        f"processes.require_shared({there} / 'both', 'one');"
        f"processes.require_shared({there} / str(process), 'two')"
    )
    assert codes == [2, 2], errors
    for error in errors:
        assert f"two={tmp_path}" in error and "is another folder on process 1" in error
    assert [list(folder.iterdir()) for folder in sorted(tmp_path.iterdir())] == [[], []]


def test_a_process_that_dies_takes_the_run_down(fail):
    before = time.monotonic()
    codes, errors = fail("if process == 1: os.kill(os.getpid(), signal.SIGKILL)")
    assert codes == [75, -signal.SIGKILL], errors
    assert "process 1 has not been heard of for 4 seconds" in errors[0]
    assert time.monotonic() - before < launch._HEARTBEAT


def test_the_first_process_is_missed_too(fail):
    codes, errors = fail("if process == 0: os.kill(os.getpid(), signal.SIGKILL)")
    # Whoever is faster: our thread, or JAX's, which aborts.
    assert codes[0] == -signal.SIGKILL and codes[1] in (75, -signal.SIGABRT), errors
    assert "process 0 has not been heard" in errors[1] or "another task" in errors[1]


@pytest.fixture
def in_a_new_process(server):
    """Joining is for a process that has not used JAX yet. Returns what it prints."""

    def run(code):
        code = "from jaxad.devices import launch\n" + textwrap.dedent(code)
        done = server.call("-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_what_is_needed_to_join_is_named(in_a_new_process):
    printed = in_a_new_process(
        """
        from jaxad.errors import InputError
        try:
            launch._initialise("127.0.0.1:1", None, None)
        except InputError as error:
            print(error)
        """
    )
    assert "--num_processes and --process_id" in printed


def test_a_cluster_that_does_not_tell_is_named(monkeypatch):
    def refuse(**options):
        raise RuntimeError("pods is forbidden")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(InputError, match="pods is forbidden.*--num_processes=1"):
        launch._initialise(None, None, None)


def test_alone_without_a_cluster(in_a_new_process):
    printed = in_a_new_process(
        """
        import signal
        before = signal.getsignal(signal.SIGTERM)
        print(launch._initialise(None, None, None))
        print(launch._initialise("127.0.0.1:1", 1, None))
        print(signal.getsignal(signal.SIGTERM) is before)
        """
    )
    assert printed.split() == ["False", "False", "True"]


def test_endings():
    assert launch.ending(InputError("a")) == (2, "error: a")
    assert launch.ending(Preempted("a"))[0] == 75
    assert launch.ending(KeyboardInterrupt())[0] == 130
    assert launch.ending(ValueError("a")) is None
