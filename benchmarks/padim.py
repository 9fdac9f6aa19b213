"""PaDiM: jaxad beside anomalib, on the same features in one run.

    python benchmarks/padim.py --peer-python .venv-anomalib/bin/python
    python benchmarks/padim.py --dims 550 --positions 784
    python benchmarks/padim.py --smoke

Features are made up: at every position a mean of its own, and a spectrum that falls as
1 / k. 209 images at 56 x 56 positions are bottles of MVTec AD through a ResNet at 224
pixels; 100 and 550 channels are the paper's. Each side runs in a process of its own on
the same cores, with the features in memory, and says how much it took at its peak.
jaxad's fit has the distances of left out images in it. CPU seconds are those of all
threads, which other work on the machine changes less than the clock's.

Times and memory grow with the positions, so fewer of them are enough to compare.
anomalib adds 1e-5 to the diagonal beside the 0.01, and so does jaxad here. Both are
held against float64 at a few of the positions. Where torch's LU of 550 channels fails
with several threads (2.14 on some processors), measure with one.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_REGULARISATION = 0.01 + 1e-5
_BATCHES = (1, 16)
_REPEATS = 5
_CHECKED = 8  # positions that are held against float64

PEER = """
import json, resource, sys, time
import numpy as np, torch
from importlib.metadata import version
from anomalib.models.components.stats import MultiVariateGaussian
from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator
path, out, images, threads, batches, repeats = json.loads(sys.argv[1])
torch.set_num_threads(threads)
features = torch.from_numpy(np.load(path)).movedim(2, 1)[..., None]  # [n, d, p, 1]
normal, new = features[:images], features[images:]
report = {"name": f"anomalib {version('anomalib')}, torch {torch.__version__}"}
with torch.inference_mode():
    start, cpu = time.perf_counter(), time.process_time()
    state = MultiVariateGaussian().fit(normal)
    report["fit"] = report["again"] = time.perf_counter() - start
    report["again, cpu"] = time.process_time() - cpu
    report["state"] = sum(x.numel() * x.element_size() for x in state)
    distance = AnomalyMapGenerator.compute_distance
    for batch in batches:
        seconds, cpus = [], []
        for _ in range(repeats):
            start, cpu = time.perf_counter(), time.process_time()
            found = distance(new[:batch], state)
            seconds.append(time.perf_counter() - start)
            cpus.append(time.process_time() - cpu)
        report[f"score {batch}"] = min(seconds) / batch
        report[f"score {batch}, cpu"] = min(cpus) / batch
np.save(out, found.flatten(1).numpy())
report["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(report))
"""


def make_up(path: Path, images: int, positions: int, dim: int) -> None:
    """Features [images, positions, dim] in a .npy file."""
    rng = np.random.default_rng(0)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (images, positions, dim))
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0].T
    basis = (basis / np.sqrt(np.arange(1, dim + 1))[:, None]).astype(np.float32)
    mean = rng.standard_normal((positions, dim), np.float32)
    for image in out:
        image[:] = rng.standard_normal((positions, dim), np.float32) @ basis + mean
    out.flush()


def run_jaxad(path, out, images, threads, batches, repeats) -> dict:
    del threads  # the process has so many cores
    import jax

    from jaxad import config as config_lib
    from jaxad.detectors import padim
    from jaxad.detectors.base import Normal
    from jaxad.devices.rows import Stack

    features = np.load(path)
    _, positions, dim = features.shape
    config = config_lib.base()
    config.detector.dim = 0
    config.detector.regularisation = _REGULARISATION
    scorer = padim.build(config)
    rows = Stack([features[:images].reshape(-1, dim)])
    new = jax.numpy.asarray(features[images:].reshape(-1, positions, 1, dim))

    @contextlib.contextmanager
    def progress(total, unit):
        del total, unit
        yield argparse.Namespace(update=lambda count: None)

    normal = Normal(rows, (positions, 1), None, None, progress)
    report = {"name": f"jaxad, jax {jax.__version__}"}
    for name in ("fit", "again"):
        state = None  # lest there be two
        start, cpu = time.perf_counter(), time.process_time()
        state = jax.block_until_ready(scorer.place(scorer.fit(normal)[0], None))
        report[name] = time.perf_counter() - start
        report[f"{name}, cpu"] = time.process_time() - cpu
    report["state"] = sum(x.nbytes for x in state.values())
    for batch in batches:
        seconds, cpus = [], []
        jax.block_until_ready(scorer.score(state, new[:batch]))  # compiles it
        for _ in range(repeats):
            start, cpu = time.perf_counter(), time.process_time()
            found = jax.block_until_ready(scorer.score(state, new[:batch]))
            seconds.append(time.perf_counter() - start)
            cpus.append(time.process_time() - cpu)
        report[f"score {batch}"] = min(seconds) / batch
        report[f"score {batch}, cpu"] = min(cpus) / batch
    np.save(out, np.asarray(found.patches)[..., 0])
    report["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return report


def child(command: list[str], threads: int) -> dict:
    """What a process of its own reports, on so many cores."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    done = subprocess.run(
        command,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def exact(path: Path, images: int, batch: int) -> np.ndarray:
    """Distances in float64 at the first positions, [batch, positions]."""
    features = np.load(path, mmap_mode="r")[:, :_CHECKED].astype(np.float64)
    normal, new = features[:images], features[images:][:batch]
    out = np.empty(new.shape[:2])
    for i in range(out.shape[1]):
        covariance = np.cov(normal[:, i].T) + _REGULARISATION * np.eye(new.shape[2])
        r = new[:, i] - normal[:, i].mean(0)
        out[:, i] = np.sqrt((r @ np.linalg.inv(covariance) * r).sum(1))
    return out


def compare(dim: int, flags, folder: Path) -> None:
    path, batch = folder / "features.npy", max(_BATCHES)
    make_up(path, flags.images + batch, flags.positions, dim)
    commands = [[sys.executable, __file__, "--child"]]
    if flags.peer_python:
        commands.append([flags.peer_python, "-W", "ignore", "-c", PEER])
    reports, found = [], []
    for command in commands:
        out = folder / "found.npy"
        arguments = str(path), str(out), flags.images, flags.threads
        text = json.dumps([*arguments, _BATCHES, _REPEATS])
        reports.append(child([*command, text], flags.threads))
        found.append(np.load(out))
    want = exact(path, flags.images, batch)
    for report, distances in zip(reports, found, strict=True):
        report["error"] = np.abs(distances[:, :_CHECKED] / want - 1).max()
    print(f"\n{flags.positions} positions, {dim} channels, {flags.images} images, "
          f"{flags.threads} threads\n")  # fmt: skip
    names = [report["name"] for report in reports]
    print(" | ".join(["|", *names, "ratio |"] if len(names) > 1 else ["|", *names, ""]))
    print("| --- |" + " ---: |" * (len(names) + (len(names) > 1)))
    rows = [
        ("fit, s", "fit", 1, ".1f"),
        ("fit, compiled, s", "again", 1, ".1f"),
        ("the same, CPU s", "again, cpu", 1, ".1f"),
        *((f"score, {b} at once, {unit} an image", f"score {b}{which}", 1e3, ".1f")
          for b in _BATCHES for unit, which in (("ms", ""), ("CPU ms", ", cpu"))),
        ("what is fitted, GB", "state", 1e-9, ".2f"),
        ("peak memory, GB", "peak", 1e-9, ".2f"),
        ("largest relative error of a distance", "error", 1, ".1e"),
    ]  # fmt: skip
    for title, key, scale, form in rows:
        cells = [format(report[key] * scale, form) for report in reports]
        if len(reports) > 1:
            cells.append(f"{reports[1][key] / reports[0][key]:.1f}")
        print(f"| {title} | " + " | ".join(cells) + " |")
    if len(found) > 1:
        apart = np.abs(found[0] / found[1] - 1).max()
        print(f"\nThe two are apart by {apart:.1e} at most, relatively.")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(run_jaxad(*json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=3136)
    parser.add_argument("--dims", type=int, nargs="+", default=[100, 550])
    parser.add_argument("--images", type=int, default=209, help="to fit on")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peer-python", help="an interpreter that has anomalib")
    parser.add_argument("--smoke", action="store_true", help="a few seconds in all")
    flags = parser.parse_args()
    if flags.smoke:
        flags.positions, flags.dims, flags.images = 49, [20, 64], 24
    if not flags.peer_python:
        print("no --peer-python: anomalib is not measured", file=sys.stderr)
    for dim in flags.dims:
        with tempfile.TemporaryDirectory() as folder:
            compare(dim, flags, Path(folder))


if __name__ == "__main__":
    main()
