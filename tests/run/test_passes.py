"""A run that is stopped goes on where it was, to the same bytes."""

import errno
import pathlib
import signal
import textwrap
import weakref

import numpy as np
import pytest
import runs

from jaxad.errors import InputError, Preempted
from jaxad.run import experiment
from jaxad.run.passes import Pass, Passes

ITEMS = np.arange(20, dtype=np.float32).reshape(10, 2)
ROOT = pathlib.Path(__file__).parents[2]


class Killed(BaseException):
    """Stands for `kill -9`: nothing catches it, so nothing more is written."""


def go(folder, *, every=0.0, key="k", at=None, act=None):
    """A pass over the items, two at a time.

    Args:
      at, act: what to do when so many items are reached.

    Returns:
      (what the pass ends in, how many items were already on disk).
    """
    out = np.zeros_like(ITEMS)
    with Passes(folder, every=every) as passes:
        keep, done = passes.start("name", key), 0
        for first, done, found in keep.resume():
            out[first:done] = found["items"]
        before = done
        while done < len(ITEMS):
            out[done : done + 2] = ITEMS[done : done + 2]
            done += 2
            if done == at:
                act()
            keep.reached(done, lambda first, stop: {"items": out[first:stop]})
    return out, before


def terminate():
    signal.raise_signal(signal.SIGTERM)


def kill():
    raise Killed


def parts(folder):
    return sorted(path.name for path in (folder / "name").glob("*"))


def test_nothing_is_written_before_it_is_due(tmp_path):
    out, before = go(tmp_path, every=1e9)
    np.testing.assert_array_equal(out, ITEMS)
    assert before == 0 and not list(tmp_path.iterdir())


def test_sigterm_saves_and_nothing_is_done_twice(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="is saved"):
        go(tmp_path, every=1e9, at=6, act=terminate)
    assert signal.getsignal(signal.SIGTERM) is before
    assert parts(tmp_path) == ["000000000"]
    out, before = go(tmp_path, every=1e9)
    np.testing.assert_array_equal(out, ITEMS)
    assert before == 6


def test_sigterm_after_the_last_point_is_not_lost(tmp_path):
    def stop(*_):
        raise Preempted("told to stop")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Preempted, match="told"), Passes(tmp_path, every=0):
            terminate()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_after_the_last_point_saves(tmp_path):
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(Preempted), Passes(tmp_path, every=1e9) as passes:
            one = passes.start("one", "key")
            one.reached(3, lambda first, stop: {"x": np.arange(first, stop)})
            terminate()
    finally:
        signal.signal(signal.SIGTERM, before)
    with Passes(tmp_path, every=1e9) as passes:
        assert [stop for _, stop, _ in passes.start("one", "key").resume()] == [3]


def test_a_kill_costs_what_came_after_the_last_part(tmp_path):
    with pytest.raises(Killed):
        go(tmp_path, at=6, act=kill)
    assert parts(tmp_path) == ["000000000", "000000002"]
    out, before = go(tmp_path)
    np.testing.assert_array_equal(out, ITEMS)
    assert before == 4


def test_parts_are_of_the_seconds_that_are_named(tmp_path, monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    go(tmp_path, every=3)
    # Starts at 0, is asked at 1, 2, 3; what was saved by 4 is not due at 5 and 6.
    assert go(tmp_path, every=1e9)[1] == 6


def test_all_passes_are_saved_together(tmp_path):
    """The second one stops; the first was finished, and not yet due."""
    with (
        pytest.raises(Preempted),
        Passes(tmp_path, every=1e9) as passes,
    ):
        for name in ("first", "second"):
            keep = passes.start(name, "k")
            assert list(keep.resume()) == []
            if name == "second":
                terminate()
            keep.reached(10, lambda first, stop: {"items": ITEMS[first:stop]})
    with Passes(tmp_path, every=1e9) as passes:
        for name in ("first", "second"):
            ((first, stop, found),) = passes.start(name, "k").resume()
            assert (first, stop) == (0, 10)
            np.testing.assert_array_equal(found["items"], ITEMS)


def test_what_is_dropped_is_not_saved_again(tmp_path):
    with Passes(tmp_path, every=0) as passes:
        keep = passes.start("name", "k")
        keep.reached(4, lambda first, stop: {"items": ITEMS[first:stop]})
        keep.drop()
        assert not (tmp_path / "name").exists()
        other = passes.start("other", "k")
        other.reached(2, lambda first, stop: {"items": ITEMS[first:stop]})
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_was_found_is_let_go_at_the_end(tmp_path):
    """Descriptors would fill the devices while something else needs them."""
    items = np.zeros(3)
    with Passes(tmp_path, every=1e9) as passes:
        keep = passes.start("name", "k")
        keep.reached(3, lambda first, stop, items=items: {"items": items[first:stop]})
    alive = weakref.ref(items)
    del items, keep, passes
    assert alive() is None


@pytest.mark.parametrize("how", ["flipped", "truncated", "gone"])
def test_a_damaged_part_is_done_again(tmp_path, how, caplog):
    go(tmp_path)
    path = tmp_path / "name" / "000000004" / "arrays.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content if how == "flipped" else content[:-9])
    out, before = go(tmp_path)
    np.testing.assert_array_equal(out, ITEMS)
    assert before == 4
    assert "000000004 is damaged" in caplog.text
    assert go(tmp_path)[1] == 10


def test_a_part_of_other_weights_is_done_again(tmp_path, caplog):
    go(tmp_path, key="a")
    assert go(tmp_path, key="b")[1] == 0
    assert "other weights, images or versions" in caplog.text
    assert go(tmp_path, key="b")[1] == 10


def test_a_full_disk_is_named_and_leaves_the_parts_before(tmp_path, monkeypatch):
    save = np.savez

    def full(file, **arrays):
        with open(file, "wb") as partial:
            partial.write(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="000000004 cannot be written .No space left"):
        go(tmp_path, at=6, act=lambda: monkeypatch.setattr(np, "savez", full))
    monkeypatch.setattr(np, "savez", save)
    assert parts(tmp_path) == ["000000000", "000000002"]
    assert go(tmp_path)[1] == 4


# ---- A whole run


def stops_in(name, at, act, monkeypatch):
    """Has `act` called when the pass of that name comes to a point the at-th time."""
    reached, count = Pass.reached, 0

    def counting(self, stop, found, *most):
        nonlocal count
        if self._folder.name == name:
            count += 1
            if count == at:
                act()
        reached(self, stop, found, *most)

    monkeypatch.setattr(Pass, "reached", counting)


@pytest.mark.parametrize(
    ("name", "at", "act"),
    [
        ("features", 2, kill),
        ("features", 1, terminate),
        ("fit", 1, terminate),
        ("score", 1, terminate),
    ],
)
def test_a_stopped_run_ends_in_the_same_bytes(
    name, at, act, whole, things, tmp_path, monkeypatch
):
    config, workdir = runs.stoppable(things), tmp_path / "run"
    with monkeypatch.context() as patch:
        stops_in(name, at, act, patch)
        with pytest.raises(Preempted if act is terminate else Killed):
            experiment.run(config, str(workdir))
    experiment.run(config, str(workdir))
    runs.assert_same(workdir, whole)


def test_a_run_with_a_feature_cache_ends_in_the_same_bytes(
    whole, things, tmp_path, monkeypatch
):
    config = runs.stoppable(things, feature_cache=str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        stops_in("features", 1, terminate, patch)
        with pytest.raises(Preempted):
            experiment.run(config, str(tmp_path / "run"))
    assert not list((tmp_path / "cache").iterdir())  # nothing half-written
    experiment.run(config, str(tmp_path / "run"))
    runs.assert_same(tmp_path / "run", whole)


SCRIPT = """
    import os, runpy, signal, sys
    from jaxad.run.passes import Pass
    name, number = sys.argv.pop(1), int(sys.argv.pop(1))
    reached = Pass.reached
    def stopping(self, stop, found, *most):
        if self._folder.name == name and self.done:
            os.kill(os.getpid(), number)
        reached(self, stop, found, *most)
    Pass.reached = stopping
    runpy.run_module("jaxad.main", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(("name", "number"), [("features", 9), ("score", 15)])
def test_the_command_goes_on(name, number, whole, things, server, tmp_path):
    arguments = runs.stoppable_command(things, tmp_path / "run", save_seconds=0)
    environment = runs.environment(devices=2)
    script = "-c", textwrap.dedent(SCRIPT), name, number
    stopped = server.call(*script, *arguments, environment=environment)
    assert stopped.returncode == (-9 if number == 9 else 75), stopped.stderr
    if number != 9:
        assert "the same command goes on from here" in stopped.stderr
    done = server.call("main", *arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    runs.assert_same(tmp_path / "run", whole)
