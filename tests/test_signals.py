"""No signal is lost: at imports, in callbacks, where a run can stop, and twice."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from jaxad import signals
from jaxad.errors import Preempted
from jaxad.run.passes import Passes

ROOT = pathlib.Path(__file__).parents[1]
STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130}
BOTH = pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def handlers():
    """Python's own, also where a shell has these tests in the background."""
    before = {number: signal.getsignal(number) for number in STATUS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_block_holds_both_signals_back_and_raises_them_at_its_end():
    def stop(*_):
        raise Preempted("told")

    signal.signal(signal.SIGTERM, stop)
    for number, error in (
        (signal.SIGTERM, Preempted),
        (signal.SIGINT, KeyboardInterrupt),
    ):
        reached = False
        with pytest.raises(error), signals.held() as told:
            assert not told()
            signal.raise_signal(number)
            assert told()
            reached = True
        assert reached
    assert signal.getsignal(signal.SIGTERM) is stop
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_blocks_in_each_other_are_told_together():
    with pytest.raises(KeyboardInterrupt), signals.held() as outer:
        with signals.held() as inner:
            signal.raise_signal(signal.SIGINT)
            assert inner() and outer()
        assert outer()  # nothing is raised where only the inner one ends
        raise Preempted("saved")  # as a pass does where it stops


def test_a_signal_that_comes_twice_is_one():
    """As where a scheduler tells the process and whoever passes its signals on."""
    with pytest.raises(KeyboardInterrupt), signals.held() as told:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        assert told()
        raise Preempted("saved")


def test_the_second_signal_does_what_it_did_before(monkeypatch):
    monkeypatch.setattr(signals, "_SAME", 0)
    with pytest.raises(KeyboardInterrupt, match="^$"), signals.held():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError


def test_a_signal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals.held() as told:
        signal.raise_signal(signal.SIGINT)
        assert not told()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_only_the_main_thread_is_told():
    asked = []

    def run():
        with signals.held() as told:
            asked.append(told())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert asked == [False]


def test_an_interrupted_pass_is_saved(tmp_path):
    with pytest.raises(KeyboardInterrupt), Passes(tmp_path, every=1e9) as passes:
        keep = passes.start("one", "key")
        signal.raise_signal(signal.SIGINT)
        keep.reached(3, lambda first, stop: {"x": np.arange(first, stop)})
    with Passes(tmp_path, every=1e9) as passes:
        assert [stop for _, stop, _ in passes.start("one", "key").resume()] == [3]


# ---- Commands

COMMAND = """
import os, pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from jaxad import command_line, progress, signals
from jaxad.errors import Preempted
NUMBER = int(sys.argv.pop())

def tell(number=NUMBER):
    os.kill(os.getpid(), number)

def main():
{}
    print("went on")

command_line.run(main, "test", ())
"""


def run(body, number, tmp_path, logged=False):
    """The exit status of a command, after looking at what it says.

    Args:
      logged: whether a library writes the exception that it does not let through.
    """
    script = COMMAND.format(textwrap.indent(textwrap.dedent(body), "    "))
    done = subprocess.run(
        [sys.executable, "-c", script, str(int(number))],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": f"{ROOT}:{tmp_path}", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr or logged, done.stderr
    assert done.stdout == "", done
    assert done.stderr.endswith("the same command goes on from here\n"), done.stderr
    return done.returncode


@BOTH
def test_while_something_is_imported_the_process_ends_at_once(number, tmp_path):
    (tmp_path / "swallows.py").write_text(
        f"import os\ntry:\n    os.kill(os.getpid(), {int(number)})\n"
        "except BaseException:\n    print('lost')\n"
    )
    assert run("import swallows", number, tmp_path) == STATUS[number]


@BOTH
def test_a_command_that_has_only_begun_ends_in_a_sentence(number, tmp_path):
    (tmp_path / "absl.py").write_text(
        f"import os\nos.kill(os.getpid(), {int(number)})\nprint('lost')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "jaxad.main", "--help"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == STATUS[number] and not done.stdout
    assert done.stderr.endswith("the same command goes on from here\n")
    assert len(done.stderr.splitlines()) == 1


@BOTH
def test_what_a_library_swallows_is_raised_at_the_next_step_of_a_bar(number, tmp_path):
    body = """
        try:
            tell()
        except BaseException:
            pass
        with progress.bar(total=2, unit="img", desc="look") as bar:
            bar.update()
    """
    assert run(body, number, tmp_path) == STATUS[number]


@BOTH
def test_what_a_library_swallows_is_known_where_a_run_can_stop(number, tmp_path):
    body = """
        try:
            tell()
        except BaseException:
            pass
        with signals.held() as told:
            if told():
                raise Preempted("saved")
    """
    assert run(body, number, tmp_path) == STATUS[number]


def test_in_a_callback_of_jax(tmp_path):
    body = """
        import jax
        import numpy as np
        def call(x):
            tell()
            return x
        jax.block_until_ready(
            jax.jit(lambda x: jax.pure_callback(call, x, x))(np.float32(1))
        )
        with progress.bar(total=2, unit="img", desc="look") as bar:
            bar.update()
    """
    assert run(body, signal.SIGTERM, tmp_path, logged=True) == 75


@BOTH
def test_while_xla_compiles_nothing_is_taken_from_it(number, tmp_path):
    """It compiles in a thread of its own, which ends no sooner for the signal."""
    body = """
        import threading
        import jax
        import jax.numpy as jnp
        def long(x):
            for i in range(300):
                x = jnp.sort(jnp.tanh(x @ x + i))
            return x
        lowered = jax.jit(long).lower(jnp.ones((64, 64)))
        threading.Timer(0.2, tell).start()
        lowered.compile()
    """
    assert run(body, number, tmp_path) == STATUS[number]


@BOTH
def test_a_pass_that_stops_ends_the_command_as_the_signal_does(number, tmp_path):
    body = """
        with signals.held() as told:
            tell()
            if told():
                raise Preempted("saved")
    """
    assert run(body, number, tmp_path) == STATUS[number]


@BOTH
def test_the_second_signal_ends_a_command_at_once(number, tmp_path):
    body = """
        with signals.held() as told:
            tell(signal.SIGTERM)
            tell(signal.SIGTERM)  # the same one
            signals._SAME = 0
            tell()
            print("never")
    """
    assert run(body, number, tmp_path) == STATUS[number]
    body = """
        try:
            tell(signal.SIGTERM)
        finally:
            tell(signal.SIGTERM)
            signals._SAME = 0
            tell()
            print("never")
    """
    assert run(body, number, tmp_path) == STATUS[number]


@BOTH
def test_while_the_process_ends_nothing_is_stopped(number, tmp_path):
    """Before what is registered here, and after Python has taken its handlers back."""
    script = COMMAND.format(
        "    import atexit\n"
        "    atexit.register(tell)\n"
        "    class Last:\n"
        "        def __del__(self, kill=os.kill, me=os.getpid(), number=NUMBER):\n"
        "            kill(me, number)\n"
        "    sys.modules['last'] = Last()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(int(number))],
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")
