"""Detectors on disk: what comes back, what travels, and what is told."""

import csv
import json
import pathlib
import shutil

import numpy as np
import pytest
import runs

from jaxad import arrays
from jaxad.errors import InputError
from jaxad.inference import folder, places, predictor
from jaxad.run import experiment

pytestmark = pytest.mark.usefixtures("one_device")

VERSION_1 = pathlib.Path(__file__).parent / "fixtures/version_1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The images, and the folder of a run on them."""
    root = tmp_path_factory.mktemp("folder")
    images = runs.category(root / "cap")
    made = runs.config(images, **{"dataset.cache": str(root / "decoded")})
    made.feature_cache = str(root / "features")
    made.train.stage_cache = str(root / "stages")
    experiment.run(made, str(root / "run"))
    return images, root / "run"


@pytest.fixture
def category(run, tmp_path):
    """A copy of the run, to be damaged; its one category."""
    shutil.copytree(run[1], tmp_path / "run")
    return tmp_path / "run/cap"


def written(workdir):
    with (workdir / "cap/scores.csv").open(newline="") as file:
        return {row["file"]: row["score"] for row in csv.DictReader(file)}


def scores(detector, images, names):
    results = detector.predict([images / name for name in names])
    return {
        name: f"{result.score:.9g}" for name, result in zip(names, results, strict=True)
    }


def test_the_files_of_the_test_split_get_the_scores_of_the_run(run):
    images, workdir = run
    want = written(workdir)
    assert len(want) == 6
    assert scores(predictor.load(workdir / "cap"), images, list(want)) == want


def test_a_copy_needs_nothing_else(run, category, tmp_path):
    images, workdir = run
    folder.copy(category, tmp_path / "elsewhere/detector")
    shutil.rmtree(category.parent)
    want = written(workdir)
    moved = tmp_path / "moved"
    (tmp_path / "elsewhere/detector").rename(moved)
    assert scores(predictor.load(moved), images, list(want)) == want
    # And can be copied in turn.
    folder.copy(moved, tmp_path / "again")
    assert scores(predictor.load(tmp_path / "again"), images, list(want)) == want


def test_no_path_of_the_machine_that_made_it_travels(run):
    config = folder.read_card(run[1] / "cap/detector")["members"][0]["config"]
    places = "cache", "data_dir", "manual_dir", "path", "anomalous_path", "textures"
    assert {config["dataset"][name] for name in places} == {""}
    assert config["feature_cache"] == config["train"]["stage_cache"] == ""
    assert config["compilation_cache"] == "~/.cache/jaxad/xla"  # and not the run's


def test_an_ensemble_is_one_detector(run, tmp_path):
    images, _ = run
    members = ("plugins.backbone", "plugins.other")
    config = runs.config(images, **{"ensemble.members": members})
    experiment.run(config, str(tmp_path / "run"))
    folder.copy(tmp_path / "run", tmp_path / "copy")
    for name in members:
        assert (tmp_path / "copy" / name / "arrays.npz").is_file()
    want = written(tmp_path / "run")
    assert scores(predictor.load(tmp_path / "copy"), images, list(want)) == want


def test_a_learnt_backbone_lies_with_its_detector(run, tmp_path, monkeypatch):
    """One that is not the run's own is part of the member."""
    images, workdir = run
    loaded = folder.load(workdir)
    (member,) = loaded.members
    tuned = {**member.params["backbone"]}
    member = member.replace(params={"backbone": tuned})
    card = json.loads(json.dumps(loaded.card))
    card["members"][0]["backbone"]["learnt"] = True
    folder.save(tmp_path / "saved", loaded._replace(members=(member,), card=card))
    assert not (tmp_path / "saved/backbone").exists()
    want = written(workdir)
    assert scores(predictor.load(tmp_path / "saved"), images, list(want)) == want


def test_the_format_is_read_as_it_was_in_version_1():
    """Written once, by make_version_1.py; later versions must go on reading it."""
    detector = predictor.load(VERSION_1)
    want = json.loads((VERSION_1.parent / "version_1.json").read_text())
    ramp = np.linspace(0, 255, 32 * 32 * 3).astype(np.uint8).reshape(32, 32, 3)
    result = detector.predict(ramp)
    np.testing.assert_allclose(result.score, want["score"], rtol=1e-5)
    assert result.p_value == want["p_value"]
    assert detector.threshold.value == want["threshold"]
    np.testing.assert_allclose(result.map.max(), want["map_maximum"], rtol=1e-5)


def test_a_run_with_one_category_is_enough(run):
    assert places.find(run[1]) == run[1] / "cap/detector"
    assert places.find(run[1] / "cap") == run[1] / "cap/detector"


def test_a_category_must_be_named_where_there_are_several(category):
    shutil.copytree(category, category.parent / "hat")
    with pytest.raises(InputError, match="run has the detectors of cap, hat; name one"):
        places.find(category.parent)
    with pytest.raises(InputError, match="cup does not exist.*cap, hat.*mean 'cap'"):
        places.find(category.parent / "cup")


def test_an_unfinished_category_is_told(category):
    (category / "detector/detector.json").unlink()
    (category / "detector").rename(category / "unfinished")  # as before the fit
    for path in (category, category.parent):
        with pytest.raises(InputError, match=f"{path} has no finished detector; run"):
            places.find(path)


def test_what_a_run_has_beside_its_categories_is_no_detector(run):
    with pytest.raises(InputError, match="backbone holds no detector; name a run"):
        places.find(run[1] / "backbone")
    with pytest.raises(InputError, match="results.json is a file; name a run"):
        places.find(run[1] / "results.json")
    # None is missing from the names that no category may have.
    beside = {path.name for path in run[1].iterdir() if path.name != "cap"}
    assert beside <= set(places.OF_RUN)


def change(path, **fields):
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, **fields}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "detector.json").unlink(), "cap has no finished detector"),
        (lambda d: (d / "detector.json").write_text("{"), "detector.json is damaged"),
        (lambda d: change(d / "detector.json", format=2), "has format 2, .* reads 1"),
        (
            lambda d: change(d / "detector.json", threshold=None),
            "not as it was written",
        ),
        (
            lambda d: shutil.rmtree(d / "plugins.backbone"),
            "arrays.npz is damaged or inc",
        ),
        (
            lambda d: arrays.save(d / "plugins.backbone", {"x": np.zeros(1)}),
            "plugins.backbone is not what .*detector.json belongs to",
        ),
        (
            lambda d: shutil.rmtree(d.parents[1] / "backbone"),
            "has no backbone: .* make a folder that has all with .*jaxad.export",
        ),
        (
            lambda d: arrays.save(
                d.parents[1] / "backbone/plugins.backbone",
                {"sha256": np.zeros(32, np.uint8)},
            ),
            "is not the backbone that .* was fitted with",
        ),
    ],
    ids=("unfinished", "damaged", "newer", "edited", "no_arrays", "other_arrays")
    + ("no_backbone", "other_backbone"),
)
def test_what_is_not_whole_is_told(damage, message, category):
    damage(category / "detector")
    with pytest.raises(InputError, match=message):
        folder.load(category)


def test_a_half_copied_file_is_told(category):
    path = category / "detector/plugins.backbone/arrays.npz"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match="arrays.npz is damaged or incomplete"):
        folder.load(category)


def test_a_folder_that_holds_no_detector(tmp_path):
    with pytest.raises(InputError, match="holds no detector; name a run"):
        folder.load(tmp_path)
    with pytest.raises(InputError, match="nowhere does not exist; name a run"):
        folder.load(tmp_path / "nowhere")


def test_a_copy_replaces_nothing(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="is there already; name a folder that is not"):
        folder.copy(run[1], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
