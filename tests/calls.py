"""Many commands in one process: each a fork, which need not import anything again."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[1]

# Calls `jaxad` with each list of arguments, and says whether that has imported JAX.
_CALLS = """
import gc, importlib, json, os, runpy, sys, tempfile, traceback
modules, calls = json.load(sys.stdin)
for module in modules:
    importlib.import_module(module)
gc.freeze()
answers = []
for arguments in calls:
    with tempfile.TemporaryFile("w+") as out:
        child = os.fork()
        if not child:
            for number in (1, 2):
                os.dup2(out.fileno(), number)
            sys.argv, status = ["jaxad", *arguments], 1
            try:
                if arguments[:1] == ["python"]:
                    runpy.run_path(arguments[1], run_name="__main__")
                else:
                    runpy.run_module("jaxad", run_name="__main__", alter_sys=True)
                status = 0
            except SystemExit as ended:
                status = ended.code or 0
            except BaseException:
                traceback.print_exc()
            print("jax" in sys.modules, flush=True)
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        text, _, jax = out.read().rstrip().rpartition("\\n")
        answers.append((status, text, jax == "True"))
print(json.dumps(answers))
"""


def calls(
    lines: Sequence[Sequence[str]],
    folder: pathlib.Path,
    modules: Sequence[str] = ("jaxad.command_line",),
) -> list[tuple[int, str, bool]]:
    """Calls `jaxad` with each line of arguments in a process of its own, in turn.

    Args:
      lines: the arguments of each call; of a script "python" and its path.
      folder: where it is called.
      modules: what is imported once for all.

    Returns:
      (exit status, output, whether JAX was imported) of each.
    """
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", _CALLS],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        input=json.dumps([modules, lines]),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
