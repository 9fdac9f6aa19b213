"""What the products of GPUs and TPUs cost in digits: emulated on a CPU, on ELPV.

  python benchmarks/precision.py [--category mono] [--limit N]

A GPU rounds what it multiplies to TF32 (10 bits behind the point), a TPU to bfloat16 (7
bits), unless `config.precision` asks for more; sums are float32. Here the inputs of all
convolutions and matrix products of the backbone are rounded alike before they are
multiplied in float32. `high` on a TPU is three products of bfloat16 halves.

Prints a table: image AUROC, how far scores move from float32's, how many pairs of test
images change their order, and how many of those are one normal and one anomalous. First
of detectors that are fitted and scored alike, then of the float32 one that travels.
"""

import argparse
import contextlib
import csv
import itertools
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np

from configs import patchcore_elpv
from jaxad import data, metrics
from jaxad.detectors import base
from jaxad.inference import folder
from jaxad.models import layers
from jaxad.run import experiment, identity, provenance


def rounded(bits: int):
    """One product of inputs with so many bits behind the point."""

    def split(x):
        return [jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits)]

    return split, [(0, 0)]


def _halves(x):
    high = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    low = jax.lax.reduce_precision(x - high, exponent_bits=8, mantissa_bits=7)
    return [high, low]


# How inputs are taken apart, and which parts are multiplied.
MODES = {
    "float32": (lambda x: [x], [(0, 0)]),
    "TF32 (GPU: high, default)": rounded(10),
    "3 x bfloat16 (TPU: high)": (_halves, [(0, 0), (0, 1), (1, 0)]),
    "bfloat16 (TPU: default)": rounded(7),
}


@contextlib.contextmanager
def products(mode: str):
    """The backbone's products are emulated in the block."""
    split, pairs = MODES[mode]

    def emulated(function):
        def multiply(x, kernel, **options):
            xs, kernels = split(x), split(kernel)
            return sum(function(xs[i], kernels[j], **options) for i, j in pairs)

        return multiply

    # A product within a convolution finds its inputs rounded.
    with mock.patch.object(layers, "conv", emulated(layers.conv)):
        yield


def fitted(mode: str, workdir: pathlib.Path, category: str, limit: int) -> np.ndarray:
    """A whole run's scores of the test images."""
    config = patchcore_elpv.get_config(f"category={category}")
    config.dataset.limit, config.overlays = limit, 0
    config.threshold.calibration = "none"
    with products(mode):
        experiment.run(config, str(workdir))
    with (workdir / category / "scores.csv").open(newline="") as file:
        return np.array([float(row["score"]) for row in csv.DictReader(file)])


def travelled(mode: str, workdir: pathlib.Path, category: str):
    """Scores by a detector of another run, and the test images' labels."""
    loaded = folder.load(workdir / category)
    test = provenance.test_images(identity.stored(workdir), category)
    predict = jax.jit(lambda images: base.predict(loaded.members, images)[0])
    found = []
    with products(mode):
        for batch in data.eval_batches(test, 16):
            scores = np.asarray(predict(batch["image"]), np.float64)
            found.append(scores[batch["valid"]])
    return np.concatenate(found), test.labels


def row(mode: str, scores, want, labels) -> str:
    pairs = np.array(list(itertools.combinations(range(len(scores)), 2)))
    orders = [np.sign(x[pairs[:, 0]] - x[pairs[:, 1]]) for x in (scores, want)]
    flipped = orders[0] != orders[1]
    mixed = labels[pairs[:, 0]] != labels[pairs[:, 1]]
    moved = np.abs(scores / want - 1)
    return (
        f"| {mode} | {metrics.auroc(scores, labels):.5f} | {np.median(moved):.1e} | "
        f"{moved.max():.1e} | {flipped.sum():,} of {len(pairs):,} | "
        f"{(flipped & mixed).sum():,} of {mixed.sum():,} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--category", default="mono", choices=("mono", "poly"))
    parser.add_argument("--limit", type=int, default=0, help="images of a label")
    arguments = parser.parse_args()
    head = "| products | image AUROC | scores move, median | most | pairs flipped | "
    head += "normal and anomalous |\n|---|--:|--:|--:|--:|--:|"
    with tempfile.TemporaryDirectory() as root:
        places = [pathlib.Path(root) / str(i) for i in range(len(MODES))]
        given = arguments.category, arguments.limit
        scores = [fitted(m, p, *given) for m, p in zip(MODES, places, strict=True)]
        alone = {m: travelled(m, places[0], arguments.category) for m in MODES}
    labels = alone["float32"][1]
    print(f"\nFitted and scored alike, {len(labels)} test images\n\n{head}")
    for mode, found in zip(MODES, scores, strict=True):
        print(row(mode, found, scores[0], labels))
    print(f"\nFitted in float32\n\n{head}")
    for mode, (found, _) in alone.items():
        print(row(mode, found, alone["float32"][0], labels))


if __name__ == "__main__":
    main()
