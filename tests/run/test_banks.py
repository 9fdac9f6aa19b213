"""Several memory banks of a category: one feature pass, metrics of each."""

import json
import pathlib

import numpy as np
import pytest
import runs

from jaxad.detectors import base, knn
from jaxad.devices.rows import Stack
from jaxad.errors import InputError
from jaxad.resampled import PixelCounts
from jaxad.run import banks, experiment, passes, results


def test_what_results_say_of_banks():
    found = banks.row(
        [{"image_auroc": 0.8, "pixel_ap": None}, {"image_auroc": 0.9, "pixel_ap": None}]
    )
    assert found["metrics"] == {"image_auroc": [0.8, 0.9], "pixel_ap": [None, None]}
    assert found["mean"] == {"image_auroc": pytest.approx(0.85), "pixel_ap": None}
    # Of two numbers that lie 0.1 apart, with one degree.
    assert found["deviation"]["image_auroc"] == pytest.approx(0.1 / 2**0.5)
    other = {"metrics": {"image_auroc": [0.6, 0.8]}}
    rows = {"a": {"banks": found}, "b": {"banks": other}}
    of_both = banks.mean(rows, ["image_auroc"])
    # 0.7 and 0.85.
    assert of_both["mean"]["image_auroc"] == pytest.approx(0.775)
    assert of_both["deviation"]["image_auroc"] == pytest.approx(0.15 / 2**0.5)
    table = results.table(
        {
            "categories": {"a": {"image_auroc": 0.8, "banks": found}},
            "mean": {},
            "banks": of_both,
        }
    )
    header, _, line = table.splitlines()
    assert header.startswith("| category | image_auroc | ± image_auroc |")
    assert line.startswith("| a        |       85.00 |          7.07 |")


@pytest.fixture(scope="module")
def run(things, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("banks") / "run"
    config = runs.stoppable(things, bank_starts=3)
    return workdir, experiment.run(config, str(workdir))


def test_the_first_bank_is_the_detector(run, whole):
    workdir, outcome = run
    for name in ("scores.csv", "detector/plugins.backbone/arrays.npz"):
        one = (workdir / "things" / name).read_bytes()
        assert one == (whole / "things" / name).read_bytes(), name
    alone = json.loads((whole / "results.json").read_text())
    row = outcome["categories"]["things"]
    found = row["banks"]["metrics"]
    assert "banks" not in alone and len(found["pixel_ap"]) == 3
    for name, values in found.items():
        assert values[0] == row[name] == alone["categories"]["things"][name]
    assert len(set(found["pixel_ap"])) == 3
    assert outcome["banks"]["mean"]["pixel_ap"] == pytest.approx(
        np.mean(found["pixel_ap"])
    )
    assert not (workdir / "things" / "banks").exists()
    assert "± pixel_ap" in (workdir / "results.md").read_text()


def test_every_bank_begins_elsewhere():
    config = runs.config(pathlib.Path(), **{"coreset.ratio": 0.1})
    random = np.random.default_rng(0)
    rows = Stack([random.random((40, 3), np.float32)])

    def start_of(start):
        normal = base.Normal(rows, (2, 2), None, passes.unkept(), None, start)
        return knn._start(config.seed, normal)

    starts = [start_of(i) for i in range(40)]
    assert starts[0] == 0 and sorted(starts) == list(range(40))
    config.bank_starts = 41
    with pytest.raises(InputError, match="bank_starts=41 is more than the 40 patches"):
        knn.build(config).check(10, (2, 2), 3)


def test_a_detector_that_begins_nowhere(things, tmp_path):
    config = runs.stoppable(things, bank_starts=2, **{"detector.name": "padim"})
    with pytest.raises(
        InputError, match="bank_starts=2 must be 1 with config.detector"
    ):
        experiment.run(config, str(tmp_path / "run"))


def test_pixel_counts_are_those_of_the_maps(whole):
    counts = PixelCounts.load(whole / "things" / "pixel_counts.npz")
    row = json.loads((whole / "results.json").read_text())["categories"]["things"]
    found = counts.metrics()(np.ones((1, len(counts))))
    del found["pixel_aupr"]  # no column of a run unless it is asked for
    assert set(found) < set(row) and len(counts) == 8
    for name, (value,) in found.items():
        assert value == pytest.approx(row[name], abs=2e-3), name
