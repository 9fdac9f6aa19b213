"""PatchCore on a small tree with masks: pixel metrics and AUPRO come out."""

import numpy as np
import pytest
import runs
import trees
from PIL import Image

from jaxad.run import experiment


def write(root):
    """Noise of one grey; anomalous images have a bright square, and its mask."""
    generator = np.random.default_rng(0)

    def image(path, defect=None):
        pixels = generator.normal(100, 4, (64, 64, 3))
        if defect:
            pixels[defect] = 250
        trees.save(path, Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))

    for i in range(4):
        image(root / f"train/good/{i}.png")
        image(root / f"test/good/{i}.png")
        square = np.s_[8 * i + 8 : 8 * i + 24, 16:32]
        image(root / f"test/square/{i}.png", square)
        mask = np.zeros((64, 64), np.uint8)
        mask[square] = 255
        trees.save(root / f"ground_truth/square/{i}_mask.png", Image.fromarray(mask))


def test_pixel_metrics(tmp_path):
    write(tmp_path / "own")
    config = runs.config(tmp_path / "own", overlays="all", raw_maps="npz")
    outcome = experiment.run(config, str(tmp_path / "run"))
    metrics = outcome["categories"]["own"]
    assert metrics["image_auroc"] == pytest.approx(1.0)
    assert metrics["pixel_auroc"] > 0.9
    assert 0.5 < metrics["aupro_0.3"] <= 1
    assert 0.5 < metrics["pixel_f1_max"] <= 1
    pictures = [path.name for path in (tmp_path / "run/own/maps").iterdir()]
    shown = [name for name in pictures if not name.startswith("suspect")]
    assert len(shown) == 8 and len(pictures) == 12
    raw = tmp_path / "run/own/raw_maps"
    assert len(list(raw.rglob("*.npz"))) == 8
    with np.load(raw / "test/square/1.png.npz") as content:
        assert content["map"].shape == (64, 64)
        assert content["map"][16:32, 16:32].mean() > 2 * content["map"].mean()
