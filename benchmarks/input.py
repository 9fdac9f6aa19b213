"""Images a second from disk to device: jaxad beside PyTorch's DataLoader.

  python benchmarks/input.py [--peer-python PYTHON] [--images N] [--size PIXELS]

Both decode the same PNGs with Pillow, resize them to 224 x 224 (bilinear, antialiased)
and stack float32 batches of 16; jaxad reads the records that its MVTec AD builder
prepared and puts the batches on the device, PyTorch (two workers) reads the files. The
second pass is timed, so that files are in the page cache and workers are up. The last
line is how fast the backbone of configs/patchcore_elpv.py takes images: slower than the
input means that the input is no bottleneck. Training keeps a split in memory that fits,
so that later epochs decode nothing. The peer needs torch, numpy and Pillow. The ratios
are of jaxad's first line to the others.
"""

import argparse
import importlib.util
import itertools
import pathlib
import shutil
import sys
import tempfile
import time

import jax
import numpy as np
import peer
from PIL import Image

from jaxad import config as config_lib
from jaxad import data
from jaxad.run import pipeline as pipeline_lib

_HERE = pathlib.Path(__file__).parent
_BATCH = 16


def write_images(folder: pathlib.Path, count: int, size: int) -> None:
    """Smooth shading with the grain of a camera, in MVTec AD's layout."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(40, 210, (count, 8, 8, 3), np.uint8)
    train, test = folder / "bottle/train/good", folder / "bottle/test/good"
    for path in (train, test):
        path.mkdir(parents=True)
    for i in range(count):
        image = Image.fromarray(coarse[i]).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(image) + generator.normal(0, 2, (size, size, 3))
        pixels = pixels.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(train / f"{i:03}.png")
    shutil.copy(train / "000.png", test)


def ours(folder: pathlib.Path, prepared: pathlib.Path) -> tuple[float, float]:
    """Images a second of the second pass, and of the second epoch of training."""
    config = config_lib.base().dataset
    config.update(
        name="mvtec_ad",
        manual_dir=str(folder),
        data_dir=str(prepared),
        image_size=(224, 224),
    )
    split = data.load(config, "bottle", "train")
    epoch = len(split) // _BATCH
    training = data.train_batches(split, _BATCH, seed=0)

    def rate(batches) -> float:
        start, images = time.perf_counter(), 0
        for batch in batches:
            jax.block_until_ready(jax.device_put(batch["image"]))
            images += int(batch["valid"].sum())
        return images / (time.perf_counter() - start)

    _, once = (rate(data.eval_batches(split, _BATCH)) for _ in range(2))
    # Some epochs, because batches are read ahead.
    rate(itertools.islice(training, epoch))
    return once, rate(itertools.islice(training, 8 * epoch))


def backbone() -> float:
    """Images a second through the backbone to its taps."""
    path = _HERE.parent / "configs/patchcore_elpv.py"
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pipeline = pipeline_lib.load(module.get_config())
    levels = jax.jit(pipeline.backbone.levels)
    images = np.random.default_rng(0).standard_normal((_BATCH, 224, 224, 3), np.float32)
    images = jax.device_put(images)
    jax.block_until_ready(levels(pipeline.variables, images))
    start, passes = time.perf_counter(), 8
    for _ in range(passes):
        jax.block_until_ready(levels(pipeline.variables, images))
    return passes * _BATCH / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--size", type=int, default=1024)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_images(folder / "images", arguments.images, arguments.size)
        theirs, version = peer.images_a_second(
            arguments.peer_python, folder / "images/bottle/train/good", _BATCH
        )
        rate, trained = ours(folder / "images", folder / "prepared")
    device = jax.devices()[0].device_kind
    print(
        f"\n{arguments.images} PNGs of {arguments.size} x {arguments.size}, to {device}"
    )
    print(f"{'images/s':<34}{'':>8}{'ratio':>8}")
    print(f"{'jaxad, disk to device':<34}{rate:8.1f}")
    print(f"{'jaxad, training, after one epoch':<34}{trained:8.1f}")
    print(f"{'PyTorch DataLoader, 2 workers':<34}{theirs:8.1f}{rate / theirs:8.2f}")
    ratio = rate / (taken := backbone())
    print(f"{'EfficientNet-Lite0, forward':<34}{taken:8.1f}{ratio:8.2f}")
    print(f"jax {jax.__version__}, torch {version}")


if __name__ == "__main__":
    main()
