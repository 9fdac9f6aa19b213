"""Pictures a second, from JPEGs to batches for pre-training: jaxad beside PyTorch.

  python benchmarks/pretrain_input.py [--peer-python PYTHON] [--step SECONDS]

Both read the same JPEGs, of the size that ImageNet's have and of a camera's, bring the
shorter side to 256 pixels (Pillow, bilinear, antialiased), cut out the middle square
and stack float32 batches of 16; jaxad as `configs/spd_imagenet.py` does it, which
decodes what is large at a half or less, PyTorch's DataLoader with a worker for every
core. The second pass over the pictures is timed, so that they are in the page cache and
the workers are up. The peer needs torch, numpy and Pillow.

The last line is how many such cores keep an accelerator busy whose step of 512 pictures
takes `--step` seconds.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

import numpy as np
import peer
from PIL import Image

from jaxad import config as config_lib
from jaxad import data

_BATCH = 16
# (height, width): ImageNet's usual one, and a camera's.
_SIZES = ((375, 500), (1080, 1440))


def write_images(folder: pathlib.Path, count: int, size: tuple[int, int]) -> None:
    """Smooth shading with the grain of a camera, as JPEGs."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(generator.integers(40, 210, (8, 8, 3), np.uint8))
        pixels = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
        pixels = pixels + generator.normal(0, 4, (*size, 3))
        pixels = pixels.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.jpg", quality=90)


def ours(folder: pathlib.Path) -> float:
    """Pictures a second of the second pass."""
    config = config_lib.base().dataset
    config.update(name="folder", path=str(folder), image_size=(256, 256))
    config.update(resize="resize_crop", resize_to=256)
    split = data.corpus(config)
    for _ in range(2):
        start = time.perf_counter()
        for _ in data.eval_batches(split, _BATCH):
            pass
        seconds = time.perf_counter() - start
    return len(split) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--step", type=float, default=0.5)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"pictures/s a core, of {cores} cores")
    print(f"{'JPEGs':<14}{'jaxad':>8}{'PyTorch':>9}{'ratio':>7}")
    for size in _SIZES:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder, "pictures")
            write_images(folder, arguments.images, size)
            theirs, version = peer.images_a_second(
                *(arguments.peer_python, folder, _BATCH, "--crop", 256),
                *("--workers", cores),
            )
            rate = ours(folder)
        name = f"{size[0]} x {size[1]}"
        each = f"{rate / cores:8.1f}{theirs / cores:9.1f}"
        print(f"{name:<14}{each}{rate / theirs:7.2f}")
        needed = 512 / arguments.step / (rate / cores)
        print(f"  cores for a step of {arguments.step} s: {needed:.0f}")
    print(f"torch {version}")


if __name__ == "__main__":
    main()
