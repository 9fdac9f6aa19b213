"""A backbone, detector, data set and metric of one's own, by their dotted paths."""

import numpy as np
import pytest
import runs

from jaxad import protocols
from jaxad.errors import InputError
from jaxad.inference import folder, predictor
from jaxad.run import experiment, extend

OWN = {
    "dataset.name": "plugins.dataset",
    "detector.name": "plugins.detector",
    "metrics": ("plugins.metric", "visa"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("plugins") / "run"
    return workdir, experiment.run(runs.config("", **OWN), str(workdir))


def test_a_run_of_nothing_but_own_parts(run):
    workdir, outcome = run
    row = outcome["categories"]["noise"]
    assert row["image_auroc"] == 1.0
    assert row["detector"] == {
        "plugins.backbone": {"spread": pytest.approx(0.1, abs=1)}
    }
    scores = np.loadtxt(
        workdir / "noise/scores.csv", skiprows=1, delimiter=",", usecols=(1, 2)
    )
    gap = scores[scores[:, 0] == 1, 1].mean() - scores[scores[:, 0] == 0, 1].mean()
    np.testing.assert_allclose(row["metric"], gap, rtol=1e-6)
    assert outcome["mean"]["metric"] == row["metric"]
    # Every anomalous image is brighter, and the data set has no masks.
    assert outcome["mean"]["image_aupr"] == 1.0 and row["visa_pixel_aupr"] is None
    assert outcome["metrics"] == ["metric", *protocols.COLUMNS["visa"]]


def test_what_cannot_leave_an_image_out_is_fitted_on_parts(run):
    _, outcome = run
    threshold = outcome["categories"]["noise"]["threshold"]
    assert threshold["method"] == "folds" and len(threshold["scores"]) == 8


def test_it_is_restored_and_travels(run, tmp_path):
    workdir, _ = run
    folder.copy(workdir, tmp_path / "copy")
    (detector,) = folder.load(tmp_path / "copy").members
    assert set(detector.state) == {"mean"}
    assert (
        predictor.load(tmp_path / "copy")
        .predict(np.full((32, 32, 3), 255, np.uint8))
        .is_anomalous
    )


def test_it_is_extended_by_a_fit_on_all(run, tmp_path):
    workdir, _ = run
    for i in (60, 61):
        runs.picture(tmp_path / f"more/{i}.png", i)
    more = str(tmp_path / "more")
    outcome = extend.run(str(workdir), more, str(tmp_path / "new"))
    (record,) = outcome["extensions"]
    assert record["count"] == 2
    assert len(outcome["categories"]["noise"]["threshold"]["scores"]) == 10
    with pytest.raises(InputError, match="cannot keep what it has learnt .*exact"):
        extend.run(str(workdir), more, str(tmp_path / "fast"), mode="fast")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"detector.name": "kn"},
            "detector.name='kn' is not known .did you mean 'knn'",
        ),
        ({"detector.name": "plugins.metric"}, r"plugins.metric has no build\(config\)"),
        ({"backbone.name": "plugins.nothing"}, "there is no module plugins.nothing"),
        ({"dataset.name": "plugins.metric"}, r"has no categories\(config\)"),
        ({"metrics": ("plugins.dataset",)}, r"has no compute\(scores, labels\)"),
        ({"metrics": ("plugins.metric", "plugins.metric")}, "name of another metric"),
        ({"metrics": ("viza",)}, "did you mean 'visa'"),
        ({"threshold.calibration": "left_out"}, "cannot leave an image out"),
    ],
)
def test_mistakes_are_told(fields, message, tmp_path):
    config = runs.config("", **{**OWN, **fields})
    with pytest.raises(InputError, match=message):
        experiment.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
