"""Greedy coreset: jaxad beside anomalib's KCenterGreedy, in one run.

    python benchmarks/coreset.py --peer-python .venv-anomalib/bin/python
    python benchmarks/coreset.py --features elpv_mono.npy --ratio 0.01
    python benchmarks/coreset.py --smoke

Without --features the rows are made up: smooth latent fields over 28 x 28 patches,
mixed, rectified and a little noisy, as many and as wide as those of the ELPV mono
cells (275,968 x 152). anomalib starts at a random row and measures in a sparse random
projection, so the two choose different rows; the covering radius, the largest distance
of any row to its nearest chosen one, says how well each did. --projection-dim measures
jaxad in a projection as well, as `config.coreset.projection_dim` does.
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

from jaxad.bank.memory_bank import greedy_coreset, nearest

PEER = """
import json, sys, time
import numpy as np, torch
from anomalib.models.components.sampling import KCenterGreedy
path, size, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
features = torch.from_numpy(np.load(path))
torch.manual_seed(0)
sampler = KCenterGreedy(features, (size + 0.5) / len(features))
start = time.perf_counter()
chosen = sampler.select_coreset_idxs()
seconds = time.perf_counter() - start
assert len(chosen) == size
np.save(out, np.asarray(chosen))
from importlib.metadata import version
print(json.dumps({"seconds": seconds, "version": version("anomalib")}))
"""


def made_up_features(
    images: int, *, side: int = 28, dim: int = 152, latent: int = 24, seed: int = 0
) -> np.ndarray:
    """Correlated rows [images * side², dim] like those of a convolutional backbone."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(latent, dim)) / np.sqrt(latent)
    offset = 0.3 * rng.normal(size=dim)
    frequency = 3 * rng.normal(size=(latent, 6, 2, 1, 1))
    row, column = np.mgrid[:side, :side] / side
    waves = frequency[:, :, 0] * row + frequency[:, :, 1] * column
    features = np.empty((images, side * side, dim), np.float32)
    for i in range(images):
        phase = rng.uniform(0, 2 * np.pi, (latent, 6, 1, 1))
        height = rng.normal(size=(latent, 6, 1, 1))
        field = (height * np.sin(waves + phase)).sum(1).reshape(latent, -1).T
        noise = 0.02 * rng.normal(size=features[i].shape)
        features[i] = np.maximum(field @ mix + offset, 0) + noise
    return features.reshape(-1, dim)


def run_jaxad(
    features: np.ndarray, size: int, **options
) -> tuple[float, float, np.ndarray]:
    """Seconds with and without compilation, and the chosen rows."""
    on_device = jax.block_until_ready(jnp.asarray(features))
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        chosen = greedy_coreset(on_device, size, **options)
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1], chosen


def run_anomalib(
    features: np.ndarray, size: int, python: str
) -> tuple[float, str, np.ndarray]:
    """Seconds, version and the chosen rows, by an interpreter that has anomalib."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, "features.npy"), Path(folder, "chosen.npy")
        np.save(path, features)
        command = [python, "-W", "ignore", "-c", PEER, str(path), str(size), str(out)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        report = json.loads(done.stdout.splitlines()[-1])
        return report["seconds"], report["version"], np.load(out)


def covering_radius(features: np.ndarray, chosen: np.ndarray) -> float:
    return float(nearest(features, features[chosen], 1)[0].max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", help="rows [n, d] in a .npy file")
    parser.add_argument("--images", type=int, default=352, help="of made-up rows")
    parser.add_argument("--dim", type=int, default=152, help="of made-up rows")
    parser.add_argument("--ratio", type=float, default=0.01, help="share to choose")
    parser.add_argument("--projection-dim", type=int, help="measure jaxad so, too")
    parser.add_argument("--peer-python", help="an interpreter that has anomalib")
    parser.add_argument(
        "--peer-size",
        type=int,
        help="rows that anomalib chooses, when all would take too long; its time is "
        "scaled up, which is fair as each row costs it one pass over the data",
    )
    parser.add_argument("--smoke", action="store_true", help="a few seconds in all")
    flags = parser.parse_args()
    if flags.smoke:
        flags.images = 16

    if flags.features:
        features = np.load(flags.features).astype(np.float32)
    else:
        features = made_up_features(flags.images, dim=flags.dim)
    size = int(len(features) * flags.ratio)
    print(f"features {features.shape}, choose {size}, {jax.devices()[0].device_kind}")

    cold, warm, chosen = run_jaxad(features, size)
    radius = covering_radius(features, chosen)
    rows = [("jaxad, first call", cold, radius), ("jaxad, compiled", warm, radius)]
    if dim := flags.projection_dim:
        options = {"projection_dim": dim, "key": jax.random.key(0)}
        _, seconds, chosen = run_jaxad(features, size, **options)
        radius = covering_radius(features, chosen)
        rows.append((f"jaxad, compiled, projected to {dim}", seconds, radius))
    if flags.peer_python:
        peer_size = min(flags.peer_size or size, size)
        seconds, version, chosen = run_anomalib(features, peer_size, flags.peer_python)
        name = f"anomalib {version}"
        if peer_size < size:
            name += f", scaled from {peer_size} rows in {seconds:.1f} s"
            seconds *= (size - 1) / (peer_size - 1)
        radius = covering_radius(features, chosen) if peer_size == size else np.nan
        rows.append((name, seconds, radius))
    else:
        print("no --peer-python: anomalib is not measured", file=sys.stderr)

    print(f"{'':48}{'seconds':>10}{'ratio':>8}{'radius':>10}")
    for name, seconds, radius in rows:
        print(f"{name:48}{seconds:10.2f}{seconds / warm:8.1f}{radius:10.4f}")


if __name__ == "__main__":
    main()
