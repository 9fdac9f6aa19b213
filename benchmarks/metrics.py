"""Pixel metrics beside scikit-learn and anomalib: seconds, peak memory, values.

  python benchmarks/metrics.py --peer-python /path/to/python/with/anomalib
  python benchmarks/metrics.py --maps 20 --size 256       # without peers, in seconds

Every contender gets the same maps and masks, read from disk in batches of 4, in a
process of its own. Seconds are those spent in the contender's calls; memory is the
growth of the peak resident set over that after imports, the maps a contender keeps
included.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

BATCH = 4


def jaxad_all():
    from jaxad.metrics import PixelMetrics

    state = PixelMetrics()
    return state.update, lambda: state.compute(limits=(0.3, 0.05))


def jaxad_one(name):
    from jaxad import metrics

    function = {
        "pixel_auroc": metrics.auroc,
        "pixel_ap": metrics.average_precision,
        "pixel_f1_max": lambda *data: metrics.f1_max(*data)[0],
        "aupro_0.3": metrics.aupro,
    }[name]
    return on_everything(lambda *data: {name: function(*data)})


def scikit_learn(name):
    import sklearn.metrics

    function = {
        "pixel_auroc": sklearn.metrics.roc_auc_score,
        "pixel_ap": sklearn.metrics.average_precision_score,
    }[name]
    return on_everything(lambda s, y: {name: function(y.ravel(), s.ravel())})


def on_everything(function):
    """For functions that want all pixels at once."""
    seen = []

    def compute():
        maps, masks = map(np.concatenate, zip(*seen, strict=True))
        seen.clear()
        return function(maps, masks)

    return lambda *batch: seen.append(batch), compute


def anomalib(name):
    import torch
    from anomalib.metrics.aupr import _AUPR
    from anomalib.metrics.aupro import _AUPRO
    from anomalib.metrics.auroc import _AUROC
    from anomalib.metrics.f1_score import _F1Max

    # The classes under anomalib's own wrappers: the wrappers squash raw scores.
    metric = {
        "pixel_auroc": _AUROC,
        "pixel_ap": _AUPR,  # by its name; the value says which rule it is
        "pixel_f1_max": _F1Max,
        "aupro_0.3": _AUPRO,
    }[name]()

    def update(maps, masks):
        metric.update(torch.from_numpy(maps), torch.from_numpy(masks).int())

    return update, lambda: {name: float(metric.compute())}


def pyaupro():
    import torch
    from pyaupro import PerRegionOverlap, auc_compute

    metric = PerRegionOverlap(thresholds=None, reference_implementation=True)

    def update(maps, masks):
        metric.update(torch.from_numpy(maps), torch.from_numpy(masks).int())

    def compute():
        fpr, pro = metric.compute()
        return {"aupro_0.3": float(auc_compute(fpr, pro, limit=0.3))}

    return update, compute


OURS = {
    "jaxad, all at once": jaxad_all,
    "jaxad auroc": lambda: jaxad_one("pixel_auroc"),
    "jaxad average_precision": lambda: jaxad_one("pixel_ap"),
    "jaxad f1_max": lambda: jaxad_one("pixel_f1_max"),
    "jaxad aupro": lambda: jaxad_one("aupro_0.3"),
}
SCIKIT_LEARN = {
    "scikit-learn AUROC": lambda: scikit_learn("pixel_auroc"),
    "scikit-learn AP": lambda: scikit_learn("pixel_ap"),
}
PEERS = {
    "anomalib AUROC": lambda: anomalib("pixel_auroc"),
    "anomalib AUPR": lambda: anomalib("pixel_ap"),
    "anomalib F1Max": lambda: anomalib("pixel_f1_max"),
    "anomalib AUPRO": lambda: anomalib("aupro_0.3"),
    "pyaupro (MVTec's code)": pyaupro,
}
CONTENDERS = OURS | SCIKIT_LEARN | PEERS


def make_data(folder: pathlib.Path, n: int, size: int):
    """Smooth float32 maps in (0, 1), every second image with one to three defects."""
    import scipy.ndimage

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size
    with open(folder / "maps", "wb") as maps, open(folder / "masks", "wb") as masks:
        for image in range(n):
            mask = np.zeros((size, size), bool)
            for _ in range(rng.integers(1, 4) if image % 2 else 0):
                y, x, height, width = rng.uniform([0, 0, 0.02, 0.02], [1, 1, 0.1, 0.1])
                mask |= ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1
            noise = rng.standard_normal((size // 8, size // 8)) + 2 * mask[::8, ::8]
            smooth = scipy.ndimage.gaussian_filter(np.kron(noise, np.ones((8, 8))), 4)
            # Distances have a long tail; the range is what anomalib leaves alone.
            np.exp(0.5 * smooth - 4).clip(0, 0.999).astype(np.float32).tofile(maps)
            mask.astype(np.uint8).tofile(masks)


def run_one(name: str, folder: pathlib.Path, size: int):
    update, compute = CONTENDERS[name]()
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = 0.0
    with open(folder / "maps", "rb") as maps, open(folder / "masks", "rb") as masks:
        while True:
            batch = [
                np.fromfile(file, dtype, BATCH * size * size).reshape(-1, size, size)
                for file, dtype in ((maps, np.float32), (masks, np.uint8))
            ]
            if not len(batch[0]):
                break
            began = time.perf_counter()
            update(*batch)
            seconds += time.perf_counter() - began
    began = time.perf_counter()
    values = compute()
    seconds += time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "mb": (peak - start) / 1e3} | values))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=100)
    parser.add_argument("--size", type=int, default=1024, help="a multiple of 8")
    parser.add_argument("--peer-python", help="an interpreter that has anomalib")
    parser.add_argument("--only", default="", help="contenders whose name has this")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return run_one(args.one[0], pathlib.Path(args.one[1]), args.size)

    columns = ["pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_0.3"]
    print(f"{args.maps} maps of {args.size}x{args.size}")
    print(f"{'':24}{'seconds':>9}{'x':>7}{'peak MB':>9}{'x':>7}", end="")
    print("".join(f"{column:>14}" for column in columns))
    with tempfile.TemporaryDirectory() as folder:
        make_data(pathlib.Path(folder), args.maps, args.size)
        first = None
        for name in CONTENDERS:
            python = args.peer_python if name in PEERS else sys.executable
            if args.only not in name and first or python is None:
                continue
            command = [python, __file__, "--size", str(args.size)]
            done = subprocess.run(
                [*command, "--one", name, folder], capture_output=True, text=True
            )
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
                print(f"{name:24}failed: {reason}")
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            first = first or row
            print(f"{name:24}{row['seconds']:9.2f}", end="")
            print(f"{row['seconds'] / first['seconds']:7.1f}{row['mb']:9.0f}", end="")
            print(f"{row['mb'] / first['mb']:7.1f}", end="")
            for column in columns:
                print(f"{row[column]:14.8f}" if column in row else f"{'':14}", end="")
            print(flush=True)
    if not args.peer_python:
        print("No --peer-python: anomalib and pyaupro were not run.")


if __name__ == "__main__":
    main()
