"""ELPV's normal cells with generated defects and their masks, as a CSV to train on.

  python benchmarks/generated_defects.py --out DIR
  python -m jaxad.main --workdir runs/generated \
      --config configs/two_class_folder.py:path=DIR/list.csv,task=segmentation,size=64 \
      --config.dataset.protocol=1cls

Half of the cells that train get a defect of NSA (rectangles of another cell, cloned
without a seam), half of those that test one of CutPaste (a patch or a scar of the cell
itself, colours changed): a generator that tests has trained nothing. No cell is used
twice. The defects of the cells themselves, which have no masks, are not used.
"""

import argparse
import csv
import pathlib

import jax
import numpy as np
from PIL import Image

from jaxad import config as config_lib
from jaxad import data, rng
from jaxad.augment import anomalies


def cells(category: str, name: str, side: int, count: int) -> np.ndarray:
    """The first so many normal cells of a split, float32 [n, side, side, 3]."""
    fields = config_lib.base().dataset
    fields.update(name="elpv", category=category, image_size=(side, side))
    split = data.load(fields, category, name).normal()
    return np.stack([split[i]["image"] for i in range(min(count, len(split)))])


def defective(name: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images with a defect, and masks; those whose mask came out empty are left out."""
    keys = rng.per_example(rng.stream(0, name), np.arange(len(images)))
    if name == "train":
        made = jax.jit(jax.vmap(anomalies.nsa))(keys, images, np.roll(images, 1, 0))
    else:
        made = jax.jit(jax.vmap(anomalies.cutpaste))(keys, images)
    images, masks = map(np.asarray, made)
    there = masks.any((1, 2))
    return images[there], masks[there]


def write(out: pathlib.Path, category: str, side: int, count: int) -> None:
    """Images, masks and `list.csv` of so many cells of either split, in `out`."""
    rows = []

    def save(name: str, pixels: np.ndarray) -> str:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(path)
        return name

    for split in ("train", "test"):
        images = cells(category, split, side, count)
        half = len(images) // 2
        for i, image in enumerate(images[:half]):
            file = save(f"{split}/normal/{i:03}.png", image)
            rows.append((file, split, "normal", ""))
        pairs = zip(*defective(split, images[half:]), strict=True)
        for i, (image, mask) in enumerate(pairs):
            file = save(f"{split}/defect/{i:03}.png", image)
            of = save(f"masks/{split}/{i:03}.png", mask)
            rows.append((file, split, "anomalous", of))
    with open(out / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "split", "label", "mask"), *rows])
    for split in ("train", "test"):
        labels = [label for _, where, label, _ in rows if where == split]
        print(
            f"{split}: {len(labels)} cells, {labels.count('anomalous')} with a defect"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--category", default="mono", choices=("mono", "poly"))
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--count", type=int, default=200, help="cells of a split")
    options = parser.parse_args()
    write(options.out, options.category, options.side, options.count)
    print(f"Images: {options.out / 'list.csv'}")


if __name__ == "__main__":
    main()
