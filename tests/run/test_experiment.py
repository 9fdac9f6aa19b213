"""Artefacts know what made them: images that change between two calls of a run."""

import json

import pytest
import runs

from jaxad.errors import InputError
from jaxad.run import experiment


@pytest.fixture
def images(tmp_path):
    return runs.category(tmp_path / "cap", train=5, test=2)


def replace_one(images, where="train/good/00.png"):
    runs.picture(images / where, 77)


def unfinish(workdir, *names):
    for name in ("results.json", *names):
        (workdir / name).unlink()


def test_a_finished_run_says_that_its_images_have_changed(images, tmp_path, caplog):
    config, workdir = runs.config(images), str(tmp_path / "run")
    outcome = experiment.run(config, workdir)
    assert experiment.run(config, workdir) == outcome
    assert "changed" not in caplog.text
    replace_one(images, "test/good/0.png")
    assert experiment.run(config, workdir) == outcome
    assert "cap: the test images have changed since" in caplog.text


def test_a_finished_run_needs_no_images(images, tmp_path):
    config, workdir = runs.config(images), str(tmp_path / "run")
    outcome = experiment.run(config, workdir)
    for path in images.rglob("*.png"):
        path.unlink()
    assert experiment.run(config, workdir) == outcome


def test_a_finished_category_is_not_mixed_with_other_images(images, tmp_path):
    config, workdir = runs.config(images), tmp_path / "run"
    experiment.run(config, str(workdir))
    unfinish(workdir)
    replace_one(images)
    with pytest.raises(
        InputError, match="cap is finished, but with other train images"
    ):
        experiment.run(config, str(workdir))


@pytest.mark.parametrize("left", ["whole", "without card"])
def test_a_detector_of_other_images_is_fitted_again(left, images, tmp_path, caplog):
    config, workdir = runs.config(images), tmp_path / "run"
    experiment.run(config, str(workdir))
    unfinish(workdir, "cap/result.json", "cap/scores.csv")
    if left != "whole":
        (workdir / "cap/detector/detector.json").unlink()
    replace_one(images)
    outcome = experiment.run(config, str(workdir))
    assert "cap/detector was fitted on other images; it is fitted again" in caplog.text
    fresh = experiment.run(config, str(tmp_path / "fresh"))
    for name in ("scores.csv", "detector/detector.json", "suspects.csv"):
        want = (tmp_path / "fresh/cap" / name).read_bytes()
        assert (workdir / "cap" / name).read_bytes() == want, name
    keys = [result["categories"]["cap"]["key"] for result in (outcome, fresh)]
    assert keys[0] == keys[1]


def test_the_key_changes_with_config_and_images(images, tmp_path):
    def key(name, **fields):
        config = runs.config(images, **fields)
        experiment.run(config, str(tmp_path / name))
        return json.loads((tmp_path / name / "results.json").read_text())["categories"][
            "cap"
        ]["key"]

    first = key("first")
    assert key("same", **{"save_seconds": 1.0}) == first  # a place of the run
    assert key("ratio", **{"coreset.ratio": 0.5}) != first
    assert key("seed", seed=1) != first  # other weights
    replace_one(images)
    assert key("images") != first


@pytest.mark.parametrize("name", ["results.json", "Backbone", "Report.html"])
def test_a_category_with_the_name_of_a_file_of_the_run(name, tmp_path):
    for category in ("cap", name):
        runs.category(tmp_path / "images" / category, train=2, test=1)
    config = runs.config(tmp_path / "images")
    with pytest.raises(InputError, match=f"category {name} has the name of .*rename"):
        experiment.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_category_that_cannot_be_a_folder(name, tmp_path, monkeypatch):
    monkeypatch.setattr("plugins.dataset.categories", lambda config: ((name,),) * 2)
    config = runs.config("", **{"dataset.name": "plugins.dataset"})
    with pytest.raises(InputError, match=f"category '{name}' cannot be the name of a"):
        experiment.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
