"""What coreset and search cost as rows, width and devices grow, beside a roofline.

    python benchmarks/scaling.py --out docs/scaling
    python benchmarks/scaling.py --smoke

Writes OUT.md, a table, and OUT.png, a plot. On a CPU the devices are virtual: they
share its cores, so that more of them cost what splitting costs and bring nothing.

Operations are those of the products that are computed: 2 d for every row and centre of
a coreset, centres of a round filled up to the block they are worked on in, and 2 d for
every query and row of the bank. Bytes are those that must come from memory: all rows
and bounds once a round; the bank once for every block of queries, and the blocks of
products, written and read. The roofline is the larger of operations over the rate of a
large float32 product and bytes over the bandwidth of a large sum; both are measured
before and after all else, and the better ones are taken.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from coreset import made_up_features
from search import best_of

from jaxad.bank import distances, memory_bank
from jaxad.devices import sharding


class Point(NamedTuple):
    what: str
    n: int
    d: int
    devices: int
    seconds: float
    operations: float
    moved: float


class Machine(NamedTuple):
    """Operations and bytes a second."""

    float32: float
    bfloat16: float
    bandwidth: float

    def roofline(self, point: Point) -> float:
        return max(point.operations / self.float32, point.moved / self.bandwidth)


INTRODUCTION = """# Cost curves

What coreset and search cost against rows, width and devices, beside what the machine \
could do in float32 ("share" is of that). `python benchmarks/scaling.py --out \
docs/scaling` writes this page and [the plot](scaling.png).

![Cost curves](scaling.png)

"""


def measure_machine(size: int) -> Machine:
    rates = []
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.ones((size, size), dtype)
        product = jax.jit(
            lambda x: jnp.dot(
                x, x, precision="highest", preferred_element_type=jnp.float32
            )
        )
        rates.append(2 * size**3 / best_of(product, x, repeats=8)[0])
    # In place: fresh memory would be the operating system's time.
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    x, seconds = add(jnp.ones(8 * size * size)), []
    for _ in range(8):
        start = time.perf_counter()
        x = jax.block_until_ready(add(x))
        seconds.append(time.perf_counter() - start)
    return Machine(*rates, 8 * x.size / min(seconds))


def coreset(rows: np.ndarray, size: int, devices: int) -> Point:
    mesh = sharding.make_mesh(jax.devices()[:devices])
    spread = sharding.split_rows(jnp.asarray(rows), mesh)[: len(rows)]
    done = [0]

    def select():
        done[:] = [0]
        return memory_bank.greedy_coreset(
            spread, size, mesh=mesh, progress=lambda chosen, _: done.append(chosen)
        )

    seconds, _ = best_of(select, repeats=2)
    n, d = rows.shape
    block = distances._CENTRES
    centres = sum(-(-new // block) * block for new in np.diff(done))
    rounds = len(done) - 1
    return Point(
        "coreset",
        n,
        d,
        devices,
        seconds,
        2.0 * n * d * centres,
        4.0 * n * (d + 2) * rounds,
    )


def search(queries: np.ndarray, bank: np.ndarray, devices: int) -> Point:
    mesh = sharding.make_mesh(jax.devices()[:devices])
    spread = sharding.split_rows(jnp.asarray(bank), mesh)
    (m, d), n = queries.shape, len(bank)
    find = jax.jit(lambda q, x: memory_bank.nearest(q, x, 1, mesh=mesh))
    seconds, _ = best_of(find, jnp.asarray(queries), spread, repeats=2)
    blocks = -(-m // distances.QUERIES)
    moved = 4.0 * (n * d * blocks + m * d) + 8.0 * m * n
    return Point("search", n, d, devices, seconds, 2.0 * m * n * d, moved)


def table(points: list[Point], machine: Machine) -> str:
    lines = [
        f"{jax.devices()[0].device_kind}: float32 products "
        f"{machine.float32 / 1e9:.0f} G operations/s, bfloat16 "
        f"{machine.bfloat16 / 1e9:.0f}; memory {machine.bandwidth / 1e9:.1f} GB/s.",
        "",
        "| | rows | width | devices | G operations | GB | s | roofline, s | share |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for p in points:
        least = machine.roofline(p)
        lines.append(
            f"| {p.what} | {p.n:,} | {p.d} | {p.devices} | {p.operations / 1e9:.1f} | "
            f"{p.moved / 1e9:.2f} | {p.seconds:.3f} | {least:.3f} | "
            f"{least / p.seconds:.0%} |"
        )
    return "\n".join(lines) + "\n"


def plot(path: Path, curves: dict[tuple[str, str], list[Point]], machine) -> None:
    # Only this script draws, so jaxad does not depend on it.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for axis, ((what, over), points) in zip(axes.flat, curves.items(), strict=True):
        at = [getattr(point, over) for point in points]
        axis.loglog(at, [p.seconds for p in points], "o-", label="measured")
        axis.loglog(at, [machine.roofline(p) for p in points], "--", label="roofline")
        axis.set_xlabel({"n": "rows", "d": "width", "devices": "devices"}[over])
        axis.set_xticks(at, [f"{x:,}" for x in at])
        axis.set_xticks([], minor=True)
        axis.set_title(what)
        axis.grid(which="both", alpha=0.2)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("seconds")
    axes[0, 0].legend()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="path without its suffix")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--smoke", action="store_true", help="a few seconds in all")
    flags = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(flags.devices))
    shrink = 16 if flags.smoke else 1
    start = time.perf_counter()

    side = 256 if flags.smoke else 2048
    before = measure_machine(side)
    images = [16 // shrink, 32 // shrink, 64 // shrink, 128 // shrink]
    widths, middle = [64, 128, 256, 512, 1024], 152
    queries = 784 * 8 // shrink
    rows = {d: made_up_features(images[1], dim=d) for d in widths}
    rows[middle] = made_up_features(images[-1], dim=middle)
    more = {d: made_up_features(8, dim=d, seed=1)[:queries] for d in (*widths, middle)}

    def core(count, d=middle, devices=1):
        x = rows[d][: 784 * count]
        return coreset(x, len(x) // 100, devices)

    def find(count, d=middle, devices=1):
        return search(more[d], rows[d][: 784 * count], devices)

    curves = {}
    for what, run in (("coreset", core), ("search", find)):
        fixed = images[1] if what == "coreset" else images[0]
        curves[what, "n"] = [run(count) for count in images]
        curves[what, "d"] = [run(fixed, d=d) for d in widths]
        curves[what, "devices"] = [run(fixed, devices=k) for k in flags.devices]
    machine = Machine(*map(max, before, measure_machine(side)))
    text = table([p for points in curves.values() for p in points], machine)
    print(text, end="")
    print(f"{time.perf_counter() - start:.0f} s in all")
    if flags.out:
        # First the plot, whose library may be missing: both are of one run.
        plot(Path(f"{flags.out}.png"), curves, machine)
        Path(f"{flags.out}.md").write_text(INTRODUCTION + text)


if __name__ == "__main__":
    main()
