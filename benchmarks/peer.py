"""Runs the peer's side of a measurement, in the Python that has it."""

import pathlib
import subprocess
import sys

_HERE = pathlib.Path(__file__).parent


def output(python: str, script: str, *arguments) -> str:
    """What a script beside this one prints; ends this process where it fails."""
    command = [python, _HERE / script, *arguments]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def images_a_second(python: str, folder: pathlib.Path, *arguments) -> tuple[float, str]:
    """Of PyTorch's DataLoader, as torch_input.py takes it; and PyTorch's version."""
    rate, version = output(python, "torch_input.py", folder, *arguments).split()
    return float(rate), version
