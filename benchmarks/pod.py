"""A whole run on 64 virtual devices in 8 processes, killed twice on the way.

  python benchmarks/pod.py [--method reconpatch] [--processes 8] [--devices 8]
                           [--left 2] [--images 100]

Generated pictures and a network of two convolutions go from files to scores three
times: on one device; on all of them; and on all of them with a process killed (SIGKILL)
in the feature pass, the same command killed again in training, and given once more with
the `--left` processes alone, which finish what the others have begun. Prints how each
ended, its seconds, and how far its scores are from those of one device. The devices are
virtual: all share this machine's cores, so that seconds tell nothing of a pod's.

Exits with 1 where a run ends in another way than it should, or PatchCore's scores or
detector differ in a bit. What ReConPatch learns may: sums over more devices are taken
in another order.
"""

import argparse
import csv
import json
import os
import pathlib
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

_TESTS = pathlib.Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(_TESTS))
import calls  # noqa: E402
import runs  # noqa: E402

_SECONDS = 1800  # after which a run counts as hung
# What the others end with: told by jaxad, or by JAX where its coordinator died.
_LOST = 75, -signal.SIGABRT

_FIELDS = {
    "dataset.name": "folder",
    "dataset.image_size": (32, 32),
    "dataset.resize": "resize",
    "dataset.resize_to": 0,
    "dataset.check": False,
    "backbone.name": "plugins.backbone",
    "patches.level_dim": 32,
    "patches.target_dim": 32,
    "coreset.ratio": 0.1,
    "threshold.calibration": "split",
    "train.save_every": 2,
    "train.log_every": 2,
    "batch_size": 1,
    "overlays": 0,
    "save_seconds": 0.0,
}
_METHODS = {
    "patchcore": ("patchcore_mvtec", {}),
    "reconpatch": (
        "reconpatch_mvtec",
        {
            "method.dim": 16,
            "method.projection_dim": 8,
            "method.batch_size": 1024,
            "method.epochs": 2,
        },
    ),
}


def draw(root: pathlib.Path, train: int) -> None:
    """Noise, and in half of the test pictures a bright square."""
    random = np.random.default_rng(0)
    for kind, count in (("train/good", train), ("test/good", 16), ("test/square", 16)):
        folder = root / "cap" / kind
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(60, 160, (64, 64, 3)).astype(np.uint8)
            if kind.endswith("square"):
                pixels[i : i + 16, 20:36] = 220
            Image.fromarray(pixels).save(folder / f"{i:03}.png")


class Run:
    """The same command in some processes of some virtual devices each.

    Attributes:
      codes: exit statuses, once it has ended.
      seconds: from its start to its end.
    """

    def __init__(self, server, command, workdir, processes: int, devices: int):
        self._start = time.monotonic()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [*command, "--workdir", workdir, "--coordinator", address]
        self._running = [
            server.start(
                *("main", *command, "--num_processes", processes),
                *("--process_id", process),
                environment=runs.environment(devices),
                seconds=_SECONDS,
            )
            for process in range(processes)
        ]

    def kill_one(self, there: Callable[[], bool]) -> None:
        """The last process, as soon as `there()` says that the run is so far."""
        while not there():
            late = time.monotonic() > self._start + _SECONDS  # or ended by a signal
            if late or any(process.has_ended() for process in self._running):
                self.end().require(False)
            time.sleep(0.01)
        os.kill(self._running[-1].pid, signal.SIGKILL)

    def end(self) -> "Run":
        """Waits for all of its processes."""
        done = [process.wait() for process in self._running]
        self.codes = [one.returncode for one in done]
        self.seconds = time.monotonic() - self._start
        self._said = done[0].text
        return self

    def require(self, is_right: bool) -> None:
        if not is_right:
            sys.exit(f"{self._said[-4000:]}\nended with {self.codes}")


def scores(workdir: pathlib.Path) -> np.ndarray:
    with (workdir / "cap/scores.csv").open(newline="") as file:
        return np.array([float(row["score"]) for row in csv.DictReader(file)])


def auroc(workdir: pathlib.Path) -> float:
    outcome = json.loads((workdir / "results.json").read_text())
    return outcome["mean"]["image_auroc"]


def is_same(workdir: pathlib.Path, other: pathlib.Path) -> bool:
    """Scores and detector, to the byte."""
    names = "scores.csv", "detector/plugins.backbone/arrays.npz"
    return all(
        (workdir / "cap" / name).read_bytes() == (other / "cap" / name).read_bytes()
        for name in names
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=_METHODS, default="reconpatch")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--devices", type=int, default=8, help="of a process")
    parser.add_argument("--left", type=int, default=2, help="processes that finish")
    parser.add_argument("--images", type=int, default=100)
    arguments = parser.parse_args()
    every = arguments.processes, arguments.devices
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        draw(folder / "images", arguments.images)
        config, fields = _METHODS[arguments.method]
        fields = _FIELDS | fields
        fields |= {
            "dataset.path": folder / "images",
            "compilation_cache": folder / "compiled",
        }
        command = [f"--config.{name}={value}" for name, value in fields.items()]
        command = ["--config", config, *command]

        server = calls.Server()

        def start(name: str, processes: int, devices: int) -> Run:
            return Run(server, command, folder / name, processes, devices)

        print(f"{arguments.method}, {arguments.images} images to train on")
        print(f"{'':<36}{'devices':>8}{'seconds':>9}  scores beside one device's")

        def tell(label: str, run: Run, name: str, devices: int) -> None:
            found = ""
            if set(run.codes) == {0}:
                ours, theirs = scores(folder / name), scores(folder / "one")
                apart = np.abs(ours - theirs).max() / theirs.max()
                found = "to the byte"
                if not is_same(folder / name, folder / "one"):
                    found = f"differ by at most {apart:.1e} of the largest"
                    run.require(arguments.method != "patchcore")
                found += f"; image AUROC {auroc(folder / name):.4f}"
            print(f"{label:<36}{devices:>8}{run.seconds:>9.0f}  {found}", flush=True)

        def whole(label: str, name: str, processes: int, devices: int) -> None:
            run = start(name, processes, devices).end()
            run.require(set(run.codes) == {0})
            tell(label, run, name, processes * devices)

        def killed(label: str, there) -> None:
            run = start("killed", *every)
            run.kill_one(there)
            run.end()
            *others, last = run.codes
            run.require(last == -signal.SIGKILL and set(others) <= set(_LOST))
            tell(label, run, "killed", every[0] * every[1])

        whole("one process", "one", 1, 1)
        whole(f"{every[0]} processes", "all", *every)
        unfinished = folder / "killed/cap/unfinished/features"
        killed("one killed in the feature pass", lambda: _holds(unfinished, "0*"))
        if arguments.method != "patchcore":
            training = folder / "killed/cap/reconpatch"
            killed("one killed in training", lambda: _holds(training, "[1-9]*"))
        left = arguments.left, arguments.devices
        whole(f"{left[0]} processes finish", "killed", *left)
        server.close()


def _holds(folder: pathlib.Path, pattern: str) -> bool:
    return any(path.name.isdigit() for path in folder.glob(pattern))


if __name__ == "__main__":
    main()
