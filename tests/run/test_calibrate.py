"""Scores of images that a detector was not fitted on, by each way to get them."""

import csv
import pathlib

import numpy as np
import pytest
import runs

from jaxad import data
from jaxad.detectors import base
from jaxad.errors import InputError
from jaxad.inference import folder
from jaxad.run import calibrate, experiment, identity
from jaxad.run import pipeline as pipeline_lib

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return runs.category(tmp_path_factory.mktemp("calibrate") / "cap", train=10)


def run(images, workdir, **threshold):
    fields = {f"threshold.{name}": value for name, value in threshold.items()}
    config = runs.config(images, **{"threshold.false_alarms": 0.25, **fields})
    return experiment.run(config, str(workdir))["categories"]["cap"]


def described(images, workdir):
    """Descriptors [n, h, w, d] of the training images, in order."""
    (member,) = folder.load(workdir).members
    config = identity.stored(workdir).dataset
    split = data.load(config, "cap", "train")
    pixels = np.stack([split[i]["image"] for i in range(len(split))])
    return split.filenames, np.asarray(base.describe_with(member, pixels)), member


def nearest(patches, bank):
    gaps = patches[..., None, :].astype(np.float64) - bank
    return np.sqrt((gaps**2).sum(-1)).min(-1)


def test_left_out_is_the_bank_without_the_image(images, tmp_path):
    row = run(images, tmp_path / "run", calibration="left_out")
    _, patches, member = described(images, tmp_path / "run")
    bank, owners = (np.asarray(member.state[n]) for n in ("memory_bank", "owners"))
    # Every entry is a patch of the image that it is said to be of.
    for entry, owner in zip(bank, owners, strict=True):
        assert np.isclose(patches[owner], entry, atol=1e-6).all(-1).any()
    want = [nearest(x, bank[owners != i]).max() for i, x in enumerate(patches)]
    threshold = row["threshold"]
    assert threshold["method"] == "left_out"
    np.testing.assert_allclose(threshold["scores"], np.sort(want), rtol=1e-4)
    # 25 % of 10 + 1 is 2.75: the second largest of ten.
    assert threshold["rank"] == 2
    assert threshold["value"] == threshold["scores"][-2]
    # Against its own bank an image scores lower: that is no calibration.
    own = [nearest(x, bank).max() for x in patches]
    assert np.mean(own) < np.mean(want)


def test_folds_are_scored_by_fits_on_the_others(images, tmp_path):
    row = run(images, tmp_path / "run", calibration="folds", folds=10)
    _, patches, _ = described(images, tmp_path / "run")
    threshold = row["threshold"]
    assert threshold["method"] == "folds" and len(threshold["scores"]) == 10
    # As many folds as images: the coreset of all others, greedy from its first row.
    want = []
    for i in range(10):
        rows = np.delete(patches, i, axis=0).reshape(-1, patches.shape[-1])
        bank = rows[:1]
        for _ in range(int(0.2 * len(rows)) - 1):
            bank = np.concatenate([bank, rows[[nearest(rows, bank).argmax()]]])
        want.append(nearest(patches[i], bank).max())
    np.testing.assert_allclose(threshold["scores"], np.sort(want), rtol=1e-4)


def test_split_holds_images_out_of_everything(images, tmp_path):
    row = run(images, tmp_path / "run", calibration="split", share=0.4)
    assert row["train_normal"] == 6 and row["held_out_normal"] == 4
    _, patches, member = described(images, tmp_path / "run")
    bank = np.asarray(member.state["memory_bank"])
    scores = [nearest(x, bank).max() for x in patches]
    with (tmp_path / "run/cap/suspects.csv").open(newline="") as file:
        held_out = [row["file"] for row in csv.DictReader(file)]
    names = described(images, tmp_path / "run")[0]
    want = sorted(scores[names.index(name)] for name in held_out)
    np.testing.assert_allclose(row["threshold"]["scores"], want, rtol=1e-4)
    # No entry of the bank is of an image that was held out.
    for name in held_out:
        same = np.isclose(patches[names.index(name)][..., None, :], bank, atol=1e-7)
        assert not same.all(-1).any()


def test_results_say_how_the_threshold_fares(images, tmp_path):
    row = run(images, tmp_path / "run")
    with (tmp_path / "run/cap/verdicts.csv").open(newline="") as file:
        verdicts = list(csv.DictReader(file))
    assert len(verdicts) == 6
    alarms = [v["verdict"] == "anomalous" for v in verdicts if v["label"] == "0"]
    misses = [v["verdict"] == "normal" for v in verdicts if v["label"] == "1"]
    test = row["threshold"]["test"]
    assert test["false_alarms"]["count"] == sum(alarms)
    assert test["misses"]["count"] == sum(misses) and test["misses"]["of"] == 3
    low, high = test["misses"]["interval"]
    assert low <= test["misses"]["rate"] <= high
    for verdict in verdicts:
        is_anomalous = float(verdict["p_value"]) <= 2 / 11
        assert (verdict["verdict"] == "anomalous") == is_anomalous


def test_bad_images_among_the_good_ones_are_the_first_suspects(tmp_path):
    root = runs.category(tmp_path / "cap", train=60)
    for i in range(4):
        runs.picture(root / f"train/good/bad{i}.png", 300 + i, bad=True)
    fields = {"threshold.false_alarms": 0.25, "overlays": 2}
    experiment.run(runs.config(root, **fields), str(tmp_path / "run"))
    with (tmp_path / "run/cap/suspects.csv").open(newline="") as file:
        suspects = [row["file"] for row in csv.DictReader(file)]
    assert len(suspects) == 64
    assert sum("bad" in name for name in suspects[:6]) == 4
    pictures = sorted(p.name for p in (tmp_path / "run/cap/maps").glob("suspect_*"))
    assert len(pictures) == 2
    for rank, (picture, name) in enumerate(zip(pictures, suspects[:2], strict=True), 1):
        assert picture.startswith(f"suspect_{rank}_")
        assert pathlib.Path(name).stem in picture


def test_too_few_images_for_the_rate_are_told(images, tmp_path, caplog):
    row = run(images, tmp_path / "run", false_alarms=0.05)
    assert "5 % on average needs 19 good images; you have 10" in caplog.text
    assert row["threshold"]["rank"] == 1
    assert "needs 19 good images" in row["threshold"]["guarantee"]


def test_one_image_cannot_be_left_out(tmp_path, caplog):
    root = runs.category(tmp_path / "cap", train=1)
    for calibration, message in (
        ("left_out", "image 0 owns .* of the .* entries"),
        ("folds", "at least 2 training images"),
        ("split", "holds out 0; there must be some of both"),
    ):
        with pytest.raises(InputError, match=message):
            run(root, tmp_path / calibration, calibration=calibration)
    for calibration in ("none", "auto"):
        row = run(root, tmp_path / calibration, calibration=calibration)
        assert row["threshold"] is None
        assert not (tmp_path / calibration / "cap/verdicts.csv").exists()
    assert "cap: no threshold, since image 0 owns" in caplog.text


def test_a_run_that_goes_on_after_the_fit_ends_in_the_same_bytes(images, tmp_path):
    """As if killed between the fit and the threshold."""
    run(images, tmp_path / "whole")
    run(images, tmp_path / "run")
    category = tmp_path / "run/cap"
    for name in ("detector/detector.json", "result.json", "scores.csv"):
        (category / name).unlink()
    (tmp_path / "run/results.json").unlink()
    run(images, tmp_path / "run")
    for name in ("detector/detector.json", "scores.csv", "suspects.csv"):
        want = (tmp_path / "whole/cap" / name).read_bytes()
        assert (category / name).read_bytes() == want, name


def test_every_part_of_the_images_is_held_out_once(images):
    config = runs.config(images, **{"threshold.calibration": "split"})
    (member,) = pipeline_lib.members(config)
    pipeline = pipeline_lib.load(member)
    split = data.load(member.dataset, "cap", "train")
    fit_on, held_out = calibrate.divide([pipeline], split)
    assert sorted(fit_on.filenames + held_out.filenames) == sorted(split.filenames)
    assert len(held_out) == 2
    again = calibrate.divide([pipeline], split)
    assert again[1].filenames == held_out.filenames
