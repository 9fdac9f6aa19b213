"""Runs that take a second: few small pictures, a backbone of two convolutions."""

import numpy as np
import trees
from PIL import Image

from jaxad import config as config_lib


def picture(path, i, size=(40, 48), bad=False):
    """Noise of the picture's own; a bad one has a bright square."""
    pixels = np.random.default_rng(i).integers(0, 160, (*size, 3))
    if bad:
        pixels[8:20, 8:20] = 255
    trees.save(path, Image.fromarray(pixels.astype(np.uint8)))


def category(root, train=8, test=3):
    """A folder with `train/good`, `test/good` and `test/square`."""
    for i in range(train):
        picture(root / f"train/good/{i:02}.png", i)
    for i in range(test):
        picture(root / f"test/good/{i}.png", 100 + i)
        picture(root / f"test/square/{i}.png", 200 + i, bad=True)
    return root


def config(path, **fields):
    """A run on such a folder."""
    made = config_lib.base()
    made.update_from_flattened_dict(
        {
            "dataset.name": "folder",
            "dataset.path": str(path),
            "dataset.image_size": (32, 32),
            "backbone.name": "plugins.backbone",
            "coreset.ratio": 0.2,
            "batch_size": 8,
            "overlays": 0,
            "compilation_cache": "",
            **fields,
        }
    )
    return made
