"""Exact nearest neighbours: jaxad beside faiss-cpu's IndexFlatL2, in one run.

    python benchmarks/search.py --peer-python .venv-faiss/bin/python
    python benchmarks/search.py --features patches.npy --bank 16384 --queries 12544
    python benchmarks/search.py --smoke

Rates are those of the full product, 2 m n d operations, whatever a search really does;
the bare product of the same matrices, in float32 and in bfloat16, is what the machine
gives. Bytes are those that a search must at least move: queries and bank once for each
block of the other, and the blocks of products, written and read.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from coreset import made_up_features

from jaxad.bank import distances
from jaxad.bank.memory_bank import nearest
from jaxad.devices import sharding

PEER = """
import json, sys, time
import faiss, numpy as np
folder, ks = sys.argv[1], json.loads(sys.argv[2])
bank, queries = np.load(f"{folder}/bank.npy"), np.load(f"{folder}/queries.npy")
index = faiss.IndexFlatL2(bank.shape[1])
index.add(bank)
seconds = []
for k in ks:
    runs = []
    for _ in range(3):
        start = time.perf_counter()
        found = index.search(queries, k)[1]
        runs.append(time.perf_counter() - start)
    seconds.append(min(runs))
    np.save(f"{folder}/found_{k}.npy", found)
report = {"seconds": seconds, "version": faiss.__version__}
print(json.dumps(report | {"threads": faiss.omp_get_max_threads()}))
"""


def best_of(function, *args, repeats: int = 3):
    """(seconds of the fastest of several runs after the first, result)."""
    jax.block_until_ready(function(*args))
    runs = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = jax.block_until_ready(function(*args))
        runs.append(time.perf_counter() - start)
    return min(runs), result


def bare_product(queries: jax.Array, bank: jax.Array, dtype) -> float:
    """Seconds for all products of queries and bank, in the blocks of a search."""
    product = jax.jit(
        lambda x, c: jax.lax.dot_general(
            x,
            c,
            (((1,), (1,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None,
            preferred_element_type=jnp.float32,
        )
    )
    x, c = queries[: distances.QUERIES].astype(dtype), bank.astype(dtype)
    return best_of(product, x, c)[0] * len(queries) / len(x)


def run_faiss(queries, bank, ks: list[int], python: str):
    """Report and indices by k, by an interpreter that has faiss."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "bank.npy"), bank)
        np.save(Path(folder, "queries.npy"), queries)
        command = [python, "-c", PEER, folder, json.dumps(ks)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        report = json.loads(done.stdout.splitlines()[-1])
        return report, {k: np.load(Path(folder, f"found_{k}.npy")) for k in ks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", help="rows [n, d] in a .npy file; made up if not")
    parser.add_argument("--bank", type=int, default=16384)
    parser.add_argument("--queries", type=int, default=12544)
    parser.add_argument("--dim", type=int, default=1024, help="of made-up rows")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 9])
    parser.add_argument("--peer-python", help="an interpreter that has faiss-cpu")
    parser.add_argument("--smoke", action="store_true", help="a few seconds in all")
    flags = parser.parse_args()
    if flags.smoke:
        flags.bank, flags.queries, flags.dim = 2048, 1568, 128

    count = flags.bank + flags.queries
    if flags.features:
        rows = np.load(flags.features, mmap_mode="r")
        if len(rows) < count:
            sys.exit(f"{flags.features} has {len(rows)} rows; {count} are needed")
        # The bank from all over, the queries from the rows that are left.
        order = np.random.default_rng(0).permutation(len(rows))[:count]
        rows = rows[np.sort(order)].astype(np.float32)
        rows = rows[np.argsort(np.argsort(order))]
    else:
        rows = made_up_features(-(-count // 784), dim=flags.dim)[:count]
    host = rows[: flags.bank], rows[flags.bank :]
    bank, queries = (jax.block_until_ready(jnp.asarray(part)) for part in host)
    (n, d), m = bank.shape, len(queries)
    operations = 2 * m * n * d
    moved = 4 * (n * d * -(-m // distances.QUERIES) + m * d * -(-n // distances.ROWS))
    moved += 8 * m * n
    half = sharding.fast_bfloat16()
    print(f"bank {bank.shape}, queries {queries.shape}, {jax.devices()[0].device_kind}")
    print(
        f"{operations / 1e9:.0f} G operations, {moved / 1e9:.2f} G bytes, "
        f"{operations / moved:.0f} operations a byte; first pass in "
        f"{'bfloat16' if half else 'float32'}"
    )

    table = []
    for dtype in (jnp.float32, jnp.bfloat16):
        seconds = bare_product(queries, bank, dtype)
        table.append((f"bare product, {jnp.dtype(dtype).name}", seconds, "", ""))
    peer, found = None, {}
    if flags.peer_python:
        peer, found = run_faiss(host[1], host[0], flags.k, flags.peer_python)
    else:
        print("no --peer-python: faiss is not measured", file=sys.stderr)
    for i, k in enumerate(flags.k):
        seconds, (_, index) = best_of(nearest, queries, bank, k)
        same, ratio = "", ""
        if peer:
            same = f"{(np.asarray(index) == found[k]).mean():.6f}"
            ratio = f"{peer['seconds'][i] / seconds:.2f}"
            name = f"faiss {peer['version']}, {peer['threads']} threads, k={k}"
            table.append((name, peer["seconds"][i], "", ""))
        table.append((f"jaxad, k={k}", seconds, ratio, same))

    print(f"{'':36}{'seconds':>9}{'GFLOP/s':>9}{'GB/s':>7}{'faiss/us':>9}{'same':>10}")
    for name, seconds, ratio, same in table:
        rates = f"{operations / seconds / 1e9:9.0f}{moved / seconds / 1e9:7.1f}"
        print(f"{name:36}{seconds:9.3f}{rates}{ratio:>9}{same:>10}")


if __name__ == "__main__":
    main()
