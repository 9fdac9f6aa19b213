"""Runs that take a second: few small pictures, a backbone of two convolutions."""

import json
import os
import pathlib

import numpy as np
import trees
from PIL import Image

from jaxad import config as config_lib

# So that a command finds the backbone, too.
_PATH = os.pathsep.join(
    filter(None, (str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH")))
)


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


# ---- Runs that are stopped and go on: one image a device and a turn

_STOPPABLE = {
    "dataset.image_size": (32, 32),
    "dataset.check": False,
    "backbone.name": "plugins.backbone",
    "coreset.ratio": 0.1,
    "batch_size": 1,
    "overlays": 0,
}


def things(root):
    """Twelve noisy images to train on; in test four more, and four with a square."""
    random = np.random.default_rng(0)

    def noise():
        return random.integers(90, 110, (64, 64, 3)).astype(np.uint8)

    for split, count in (("train", 12), ("test", 4)):
        for i in range(count):
            trees.save(root / f"{split}/good/{i}.png", Image.fromarray(noise()))
    for i in range(4):
        pixels, mask = noise(), np.zeros((64, 64), np.uint8)
        pixels[8 * i : 8 * i + 16, 20:40], mask[8 * i : 8 * i + 16, 20:40] = 220, 255
        trees.save(root / f"test/square/{i}.png", Image.fromarray(pixels))
        trees.save(root / f"ground_truth/square/{i}_mask.png", Image.fromarray(mask))
    return root


def stoppable(path, **fields):
    """A run on `things` that saves at every point."""
    return config(path, **_STOPPABLE, save_seconds=0.0, **fields)


def stoppable_command(path, workdir, **fields):
    """Arguments of `jaxad.main` for the same run."""
    fields = _STOPPABLE | fields
    return [
        *("--config", f"configs/patchcore_folder.py:path={path}"),
        *("--workdir", str(workdir)),
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


def environment(devices):
    """Of a command on so many devices."""
    places = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return os.environ | places | {"PYTHONPATH": _PATH}


def assert_same(one, other):
    """The outcome of two such runs, to the byte; nothing is left over of the first."""
    for name in (
        "scores.csv",
        "thumbnails.npz",
        "detector/plugins.backbone/arrays.npz",
    ):
        content = (one / "things" / name).read_bytes()
        assert content == (other / "things" / name).read_bytes(), name
    results = [json.loads((run / "results.json").read_text()) for run in (one, other)]
    for result in results:
        del result["seconds"], result["versions"]
    assert results[0] == results[1]
    assert not list(one.rglob("unfinished"))


# ---- Training


def plain_views(patch):
    """Views and defects that compile at once, for tests of what goes by them."""
    import jax
    import jax.numpy as jnp

    from jaxad.augment import anomalies, views

    def view(key, image, *, size=None, **_):
        height, width = size or image.shape[:2]
        return image[:height, :width] * jax.random.uniform(key, minval=0.5)

    def spot(key, image, **_):
        return image.at[:8, :8].set(jax.random.uniform(key)), None

    def square(key, image, texture, **_):
        mask = jnp.zeros(image.shape[:2]).at[8:16, 8:16].set(1.0)
        colour = jax.random.uniform(key, (3,))
        return jnp.where(mask[..., None] > 0, colour, image), mask

    patch.setattr(views, "global_view", view)
    patch.setattr(views, "weak_view", view)
    patch.setattr(anomalies, "smooth_blend", spot)
    patch.setattr(anomalies, "perlin", square)
