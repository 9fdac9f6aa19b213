"""Curves: scalars by step as JSON lines, and for TensorBoard where it is installed."""

import json
import math
import os
import pathlib

from jaxad.devices import processes
from jaxad.errors import writing

try:
    from tensorboardX import SummaryWriter
except ImportError:
    SummaryWriter = None  # pip install 'jaxad[tensorboard]'


class Writer:
    """Appends to `<folder>/metrics.jsonl`; use as a context manager.

    Every line is `{"step": s, name: value, ...}`; a value that is not finite is null.
    A run that goes on from step s first drops what an earlier one wrote beyond it, so
    an interrupted run leaves the same file as one that was not. Of several processes
    the first alone writes.

    Args:
      folder: made if need be.
      start_step: steps that are already done.
    """

    def __init__(self, folder: str | pathlib.Path, *, start_step: int = 0):
        self._file = self._events = None
        if not processes.first():
            return
        folder = pathlib.Path(folder)
        self._path = folder / "metrics.jsonl"
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            _keep_until(self._path, start_step)
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        if SummaryWriter is not None:
            self._events = SummaryWriter(str(folder), purge_step=start_step + 1)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._file is not None:
            with writing(self._path):
                self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes the values after `step` steps, at once."""
        if self._file is None:
            return
        values = {name: float(value) for name, value in scalars.items()}
        finite = {n: v if math.isfinite(v) else None for n, v in values.items()}
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)


def _keep_until(path: pathlib.Path, last: int) -> None:
    """Drops the lines of later steps, and one that was cut off by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] > last:
                break
        except ValueError:
            break
        kept.append(line)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
