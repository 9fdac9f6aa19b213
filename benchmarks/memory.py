"""Whether `config.detector.max_device_bytes` is kept, and what it costs.

    python benchmarks/memory.py [--rows 1000000] [--dim 512] [--budgets 0 1e9 6e8]
    python benchmarks/memory.py --smoke

Rows are mapped from a file. For every budget (0 is none) a process of its own takes a
coreset of them and searches them as a bank; the most memory that its arrays took at any
time, beyond what was there before, is the device's own count where it has one. On a CPU
it is the process's anonymous memory, which holds device and host arrays alike, but no
page of the file.
"""

import argparse
import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np

from jaxad.bank.memory_bank import greedy_coreset, nearest

_QUERIES = 4096


def write_rows(path: Path, n: int, d: int) -> None:
    """Low-dimensional rows, a block at a time."""
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    generator = np.random.default_rng(0)
    mix = generator.standard_normal((16, d), np.float32)
    for at in range(0, n, 65536):
        part = rows[at : at + 65536]
        part[:] = np.tanh(generator.standard_normal((len(part), 16), np.float32) @ mix)
    rows.flush()


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("this system does not tell how much memory a process has")


@contextlib.contextmanager
def peak(found: dict):
    """The most bytes in use inside the block, beyond those at its start."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        start = stats["bytes_in_use"]
        yield
        found["bytes"] = jax.devices()[0].memory_stats()["peak_bytes_in_use"] - start
        return
    start, most, done = anonymous_bytes(), 0, threading.Event()

    def watch():
        nonlocal most
        while not done.wait(0.005):
            most = max(most, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    found["bytes"] = most - start


def measure(what: str, path: str, budget: int, size: int) -> dict:
    rows = np.load(path, mmap_mode="r")
    options = {"max_device_bytes": budget or None}
    # Compiled, and all of JAX's threads started, by small arrays first.
    greedy_coreset(np.asarray(rows[:2048]), 4)
    found = {}
    start = time.perf_counter()
    with peak(found):
        if what == "coreset":
            result = greedy_coreset(rows, size, **options)
        else:
            queries = np.asarray(rows[-_QUERIES:]) + np.float32(0.01)
            result = np.asarray(nearest(queries, rows, 1, **options)[1])
    found["seconds"] = time.perf_counter() - start
    found["sha256"] = hashlib.sha256(result.tobytes()).hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--size", type=int, default=500, help="of the coreset")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0, 1e9, 6e8])
    parser.add_argument("--smoke", action="store_true", help="a few seconds in all")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        what, path, budget = flags.measure
        print(json.dumps(measure(what, path, int(budget), flags.size)))
        return
    if flags.smoke:
        flags.rows, flags.dim, flags.size, flags.budgets = 60_000, 256, 50, [0, 3e8]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.npy")
        write_rows(path, flags.rows, flags.dim)
        device = jax.devices()[0].device_kind
        print(f"rows {(flags.rows, flags.dim)}, {path.stat().st_size / 1e9:.2f} GB")
        print(f"{device}, coreset of {flags.size}, {_QUERIES} queries")
        print("| | max_device_bytes, GB | peak, GB | seconds | same result |")
        print("|---|--:|--:|--:|--:|")
        for what in ("coreset", "search"):
            first = None
            for budget in flags.budgets:
                command = [sys.executable, __file__, "--size", str(flags.size)]
                command += ["--measure", what, str(path), str(int(budget))]
                done = subprocess.run(
                    command, stdout=subprocess.PIPE, text=True, check=True
                )
                found = json.loads(done.stdout.splitlines()[-1])
                first = first or found["sha256"]
                print(
                    f"| {what} | {budget / 1e9:.2f} | {found['bytes'] / 1e9:.2f} | "
                    f"{found['seconds']:.1f} | {found['sha256'] == first} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
