"""What cheap lower bounds rule out of a memory bank, on real features.

    python benchmarks/bounds.py --features FEATURES.npy --ratio 0.01

FEATURES.npy is [images, h, w, d], as `config.feature_cache` keeps it. The bank is the
coreset of the first six sevenths of the images, the queries are patches of the rest. A
bound rules a row out where it exceeds the distance of the true nearest one, which no
search knows from the start: shares are the most that it can give.

* norm: (|q - m| - |x - m|)², m the mean of the bank.
* PCA p: the distance in the first p principal directions of the bank, plus the norm
  bound of what is left.

The seconds are those of a first pass by the PCA bound in float32, which keeps the
`--keep` rows with the smallest bounds, and of direct differences among them. Queries
are settled where the nearest one found lies below all other bounds; the rest would have
to be searched again. Beside it stands the exact search as it is, in float32 too.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from search import best_of

from jaxad.bank import distances
from jaxad.bank.memory_bank import greedy_coreset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", required=True)
    parser.add_argument("--ratio", type=float, default=0.01)
    parser.add_argument("--queries", type=int, default=8192)
    parser.add_argument("--keep", type=int, default=64)
    parser.add_argument("--dims", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    flags = parser.parse_args()

    features = np.load(flags.features, mmap_mode="r")
    d, images = features.shape[-1], len(features)
    train = features[: images * 6 // 7].reshape(-1, d)
    bank = train[greedy_coreset(train, int(flags.ratio * len(train)))]
    rest = features[images * 6 // 7 :].reshape(-1, d)
    order = np.random.default_rng(0).permutation(len(rest))[: flags.queries]
    queries = rest[np.sort(order)]
    mean = bank.mean(0, dtype=np.float64).astype(np.float32)
    _, scale, directions = np.linalg.svd(bank - mean, full_matrices=False)
    x, q = (np.matmul(part - mean, directions.T) for part in (bank, queries))
    print(f"bank {bank.shape}, queries {queries.shape}, {jax.devices()[0].device_kind}")

    exact = jax.jit(
        functools.partial(distances.nearest_rows, k=1, half=False, count=len(bank))
    )
    seconds, (square, _) = best_of(exact, jnp.asarray(queries), jnp.asarray(bank))
    nearest = np.asarray(square[:, 0])
    print(f"{'':10}{'variance':>10}{'ruled out':>11}{'seconds':>9}{'settled':>9}")
    print(f"{'exact':10}{'':>10}{'':>11}{seconds:9.3f}{1:9.1%}")

    for p in (0, *flags.dims):
        # What is left of a row becomes one more coordinate: its length.
        short = [
            np.concatenate(
                [rows[:, :p], np.linalg.norm(rows[:, p:], axis=1, keepdims=True)], 1
            ).astype(np.float32)
            for rows in (q, x)
        ]
        out = ruled_out(*short, nearest)
        variance = (scale[:p] ** 2).sum() / (scale**2).sum()
        name = f"PCA {p}" if p else "norm"
        seconds, settled = first_pass(queries, bank, *short, flags.keep)
        print(f"{name:10}{variance:10.1%}{out:11.2%}{seconds:9.3f}{settled:9.1%}")


def ruled_out(q: np.ndarray, x: np.ndarray, nearest: np.ndarray) -> float:
    """Share of all pairs whose bound exceeds the squared distance of the nearest."""
    total = 0
    for at in range(0, len(q), 256):
        block = q[at : at + 256]
        bound = (block**2).sum(1)[:, None] + (x**2).sum(1) - 2 * block @ x.T
        total += (bound > nearest[at : at + 256, None]).sum()
    return total / (len(q) * len(x))


def first_pass(queries, bank, q, x, keep: int) -> tuple[float, float]:
    """Seconds for the bounds and the rows they keep, and the share they settle."""

    @jax.jit
    def search(queries, bank, q, x):
        lower, index = distances.shortlist(q, x, x[0], len(x), keep)
        square, _ = distances._decide(queries, bank, lower, index, 1)
        return square[:, 0] < lower[:, -1]

    seconds, settled = best_of(search, *map(jnp.asarray, (queries, bank, q, x)))
    return seconds, float(settled.mean())


if __name__ == "__main__":
    main()
