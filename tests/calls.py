"""Commands in processes that need not import anything: forks of one that has."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
# What most of a run's time to start goes to.
MODULES = (
    *("jaxad.run.extend", "jaxad.reporting.pages", "jaxad.inference.judge"),
    "pytest",  # of code that imports tests
)

_SERVER = """
import gc, importlib, json, os, runpy, signal, sys
for module in json.loads(sys.stdin.readline()):
    importlib.import_module(module)
gc.freeze()

def act(words, folder, environment, files, seconds):
    for number, path in enumerate(("/dev/null", *files)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.update(environment)
    for name, value in environment.items():  # JAX has read those that there were
        if name.startswith("JAX_") and "jax" in sys.modules:
            try:
                value = json.loads(value)
            except ValueError:
                pass  # a text
            sys.modules["jax"].config.update(name.lower(), value)
    signal.alarm(seconds)
    status = 0
    try:
        match words:
            case ("-c", code, *rest):
                sys.argv[:] = "-c", *rest
                exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
            case ("python", path):
                runpy.run_path(path, run_name="__main__")
            case _:
                sys.argv[:] = "jaxad", *words
                runpy.run_module("jaxad", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise
        status = ended.code or 0
    finally:
        print("jax" in sys.modules, flush=True)
    if words[:1] == ["-c"]:
        sys.exit(status)
    sys.stderr.flush()
    os._exit(status)  # all that is imported need not be taken apart

for line in sys.stdin:
    asked = json.loads(line)
    if isinstance(asked, int):
        answer = os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1])
    else:
        answer = os.fork()
        if not answer:
            act(*asked)
    print(answer, flush=True)
"""


class Done(NamedTuple):
    """What a process has come to.

    Attributes:
      returncode: its exit status, negative for the signal that ended it.
      jax: whether it had imported JAX.
    """

    returncode: int
    stdout: str
    stderr: str
    jax: bool

    @property
    def text(self) -> str:
        return (self.stdout + self.stderr).rstrip()


class Running(NamedTuple):
    server: "Server"
    pid: int
    out: str
    err: str

    def has_ended(self) -> bool:
        """By itself: its last line says so."""
        return pathlib.Path(self.out).read_text().endswith(("True\n", "False\n"))

    def wait(self) -> Done:
        status = self.server._ask(self.pid)
        text, err = (pathlib.Path(path).read_text() for path in (self.out, self.err))
        out, answer = text, "False"
        if status >= 0:
            out, _, answer = text.rstrip("\n").rpartition("\n")
            out += "\n" if out else ""
        return Done(status, out, err, answer == "True")


class Server:
    """Starts processes that have the modules, and the environment, from the start.

    What is started is `jaxad` with its arguments; `-c` and code, with its arguments; or
    `python` and the path of a script.
    """

    def __init__(
        self, modules: Iterable[str] = MODULES, environment: Mapping[str, str] = {}
    ):
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(json.dumps(list(modules)), file=self._process.stdin)
        self._files, self._started = tempfile.TemporaryDirectory(), 0

    def _ask(self, what) -> int:
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def start(
        self,
        *words: object,
        folder: str | os.PathLike = ROOT,
        environment: Mapping[str, str] = {},
        seconds: int = 280,
    ) -> Running:
        """Starts a process in a folder; it is ended after so many seconds."""
        files = [os.path.join(self._files.name, f"{self._started}.{n}") for n in "12"]
        self._started += 1
        words = [str(word) for word in words]
        pid = self._ask((words, str(folder), dict(environment), files, seconds))
        return Running(self, pid, *files)

    def call(self, *words: object, **options) -> Done:
        """Starts a process as `start` does, and waits for it."""
        return self.start(*words, **options).wait()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._files.cleanup()


def calls(
    lines: Sequence[Sequence[str]], folder: pathlib.Path, server: Server | None = None
) -> list[tuple[int, str, bool]]:
    """Calls each of the lines in a process of its own, in turn.

    Args:
      lines: as `Server` takes them.
      folder: where they are called.
      server: by default one that has imported what reads flags.

    Returns:
      (exit status, output, whether JAX was imported) of each.
    """
    used = server or Server(["jaxad.command_line"])
    done = [used.call(*line, folder=folder) for line in lines]
    if server is None:
        used.close()
    return [(one.returncode, one.text, one.jax) for one in done]
