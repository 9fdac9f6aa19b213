"""How large images must be for small defects: PatchCore on ELPV at several sizes.

  python benchmarks/resolution.py [--sizes 96 128 160 224 300] [--sides 4 8 16 32]
                                  [--smoke]

ELPV's cells are 300 x 300 pixels. Every column is a run of configs/patchcore_elpv.py at
one `config.dataset.image_size`: its image AUROC on the real test cells, and its CPU
seconds, those of all threads, with compilation. Its detector then judges cells with a
defect of known size: one half of the normal test cells stays as it is, and in each of
the other half a square of so many of the 300 pixels is pasted from elsewhere, colours
jittered (`anomalies.cutpaste_patch`), the same for all sizes. Maps are compared with
masks at 300 x 300, so all sizes are asked the same.
"""

import argparse
import functools
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jaxad  # noqa: E402
from configs import patchcore_elpv  # noqa: E402
from jaxad import data, rng  # noqa: E402
from jaxad.augment import anomalies  # noqa: E402
from jaxad.metrics import PixelMetrics, auroc  # noqa: E402
from jaxad.run import experiment  # noqa: E402

_NATIVE = 300
_JITTER = 0.4


def cells(limit: int) -> np.ndarray:
    """Normal test cells of ELPV mono, float32 [n, 300, 300, 3] in [0, 1]."""
    config = patchcore_elpv.get_config().dataset
    config.image_size = (_NATIVE, _NATIVE)
    test = data.load(config, "mono", "test")
    normal = np.flatnonzero(test.labels == 0)[: limit or None]
    return np.stack([test[int(i)]["image"] for i in normal])


def damage(images: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A square of `side` pixels pasted into each image, and the masks [n, 300, 300]."""
    share = (side / _NATIVE) ** 2
    paste = functools.partial(
        anomalies.cutpaste_patch,
        area=(share, share),
        aspect=(1.0, 1.0),
        jitter=_JITTER,
    )
    keys = rng.per_example(rng.stream(0, f"{side} pixels"), np.arange(len(images)))
    damaged, masks = jax.jit(jax.vmap(paste))(keys, images)
    return np.asarray(damaged), np.asarray(masks).astype(np.uint8)


def as_stored(images: np.ndarray) -> list[Image.Image]:
    """Pictures of 8 bits, so that they are resized as a file is."""
    return [Image.fromarray(x) for x in np.round(images * 255).astype(np.uint8)]


def measure(detector, normal, damaged, masks) -> tuple[float, float, float]:
    """Image AUROC, pixel AUROC and AUPRO of cells with a defect beside those without.

    Args:
      normal: results of the latter.
      damaged, masks: [n, 300, 300, 3] and [n, 300, 300].
    """
    found = detector.predict(as_stored(damaged))
    pixels = PixelMetrics()
    pixels.update(np.stack([x.map for x in found]), masks)
    pixels.update(np.stack([x.map for x in normal]), np.zeros_like(masks))
    values = pixels.compute()
    scores = [x.score for x in [*normal, *found]]
    labels = [0] * len(normal) + [1] * len(found)
    return auroc(scores, labels), values["pixel_auroc"], values["aupro_0.3"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[96, 128, 160, 224, 300]
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--smoke", action="store_true", help="a few images")
    flags = parser.parse_args()
    images = cells(8 if flags.smoke else 0)
    half = len(images) // 2
    clean, rest = as_stored(images[:half]), images[half : 2 * half]
    defects = {side: damage(rest, side) for side in flags.sides}
    runs, tables = [], {side: [] for side in flags.sides}
    for size in flags.sizes:
        config = patchcore_elpv.get_config("runlocal" if flags.smoke else None)
        config.dataset.image_size = (size, size)
        config.overlays = 0
        with tempfile.TemporaryDirectory() as workdir:
            start = time.process_time()
            outcome = experiment.run(config, workdir)["categories"]["mono"]
            seconds = time.process_time() - start
            detector = jaxad.load(pathlib.Path(workdir, "mono"))
        normal = detector.predict(clean)
        start = time.process_time()
        detector.predict(clean)
        each = (time.process_time() - start) / half
        runs.append((outcome["image_auroc"], seconds, 1e3 * each))
        for side, (damaged, masks) in defects.items():
            tables[side].append(measure(detector, normal, damaged, masks))
    print(f"{half} cells without a defect, and as many with one of each size\n")
    heads = [f"{size}" for size in flags.sizes]
    print("| image_size | " + " | ".join(heads) + " |")
    print("|---|" + "--:|" * len(heads))
    _row("image AUROC, real defects", [x[0] for x in runs])
    _row("CPU seconds of the run", [x[1] for x in runs], ".0f")
    _row("CPU milliseconds an image, later", [x[2] for x in runs], ".0f")
    for side, values in tables.items():
        for i, name in enumerate(("image AUROC", "pixel AUROC", "AUPRO")):
            _row(f"{name}, squares of {side} pixels", [x[i] for x in values])


def _row(name: str, values: list[float], form: str = ".4f") -> None:
    print(f"| {name} | " + " | ".join(format(x, form) for x in values) + " |")


if __name__ == "__main__":
    main()
