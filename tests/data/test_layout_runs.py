"""Runs on own images in layouts other than MVTec AD's, from end to end."""

import json

import numpy as np
import pytest
import runs
from PIL import Image

from jaxad import data
from jaxad.run import experiment

pytestmark = pytest.mark.usefixtures("one_device")


def outcome(config, folder):
    """The row of the one category and the mean, as they are written."""
    experiment.run(config, str(folder))
    found = json.loads((folder / "results.json").read_text())
    (row,) = found["categories"].values()
    return row, found["mean"]


@pytest.mark.parametrize("check", [True, False])
def test_normal_images_alone_fit_a_detector(tmp_path, check, caplog):
    for i in range(8):
        runs.picture(tmp_path / f"cap/train/good/{i}.png", i)
    (tmp_path / "cap/train/good/photo.heic").touch()
    own = {"dataset.check": check, "metrics": ("plugins.metric",), "overlays": 2}
    if check:  # which also measures its recall on test images
        own["detector.search"] = "approximate"
    row, mean = outcome(runs.config(tmp_path / "cap", **own), tmp_path / "run")
    assert row["train_normal"] == 8
    assert row["test_normal"] == row["test_anomalous"] == 0
    names = "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "aupro_0.3"
    assert {row[name] for name in (*names, "metric")} == {None}
    assert set(mean.values()) == {None}
    assert row["threshold"]["value"] > 0 and row["threshold"]["test"] == {
        "false_alarms": None,
        "misses": None,
    }
    assert (tmp_path / "run/cap/scores.csv").read_text() == "file,label,score\n"
    assert " - |" in (tmp_path / "run/results.md").read_text()
    assert "not read: train/good/photo.heic" in caplog.text


def test_good_and_bad_side_by_side(tmp_path):
    for i in range(10):
        runs.picture(tmp_path / f"cap/OK/{i}.png", i)
    for i in range(2):
        runs.picture(tmp_path / f"cap/NG/{i}.png", 100 + i, bad=True)
    row, _ = outcome(runs.config(tmp_path / "cap"), tmp_path / "run")
    assert (row["train_normal"], row["test_normal"], row["test_anomalous"]) == (8, 2, 2)
    assert row["image_auroc"] == 1.0 and row["pixel_auroc"] is None


def test_a_run_in_the_folder_of_its_images_is_none_of_them(tmp_path):
    for i in range(6):
        runs.picture(tmp_path / f"cap/{i}.png", i)
    config = runs.config(tmp_path / "cap", overlays=2)
    first, _ = outcome(config, tmp_path / "cap/runs/own")
    assert list((tmp_path / "cap/runs/own/cap/maps").glob("*.png"))
    again, _ = outcome(config, tmp_path / "cap/runs/again")
    assert again["train_version"] == first["train_version"]


def test_masks_of_mvtec_loco_count_together(tmp_path):
    root = runs.category(tmp_path / "cap", train=6, test=2)
    (root / "test/square").rename(root / "test/logical_anomalies")
    for i in range(2):
        for part, box in enumerate(((8, 8, 14, 20), (14, 8, 20, 20))):
            mask = Image.new("L", (48, 40))
            mask.paste(255, box)
            path = root / f"ground_truth/logical_anomalies/{i}/{part:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            mask.save(path)
    config = runs.config(root)
    row, _ = outcome(config, tmp_path / "run")
    assert row["pixel_auroc"] > 0.5
    mask = data.load(config.dataset, "cap", "test")[2]["mask"]
    ys, xs = np.nonzero(mask)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (6, 15, 5, 12)
