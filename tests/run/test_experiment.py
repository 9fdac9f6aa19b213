"""Artefacts know what made them: images that change between two calls of a run."""

import json
import shutil

import pytest
import runs
from plugins import backbone

from jaxad.devices import locks
from jaxad.errors import InputError
from jaxad.inference import folder
from jaxad.run import experiment, results

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def images(tmp_path):
    return runs.category(tmp_path / "cap", train=5, test=2)


def replace_one(images, where="train/good/00.png"):
    runs.picture(images / where, 77)


def unfinish(workdir, *names):
    for name in ("results.json", *names):
        (workdir / name).unlink(missing_ok=True)


def test_a_finished_run_says_that_its_images_have_changed(images, tmp_path, caplog):
    config, workdir = runs.config(images), str(tmp_path / "run")
    outcome = experiment.run(config, workdir)
    assert experiment.run(config, workdir) == outcome
    assert "changed" not in caplog.text
    replace_one(images, "test/good/0.png")
    assert experiment.run(config, workdir) == outcome
    assert "cap: the test images have changed since" in caplog.text


def test_one_command_at_a_time_works_in_a_folder(images, tmp_path):
    config, workdir = runs.config(images), tmp_path / "run"
    with locks.tried(workdir / "run") as mine:
        assert mine
        with pytest.raises(InputError, match=r"another command works in .*run; wait"):
            experiment.run(config, str(workdir))
        assert [path.name for path in workdir.iterdir()] == [".run.lock"]
    outcome = experiment.run(config, str(workdir))
    assert not (workdir / ".run.lock").exists()
    with locks.tried(workdir / "run"):  # nothing is written there any more
        assert experiment.run(config, str(workdir)) == outcome


def test_a_mistake_leaves_no_folder(images, tmp_path):
    config = runs.config(images, **{"dataset.category": "nut"})
    with pytest.raises(InputError, match="nut"):
        experiment.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_finished_run_needs_no_images(images, tmp_path):
    config, workdir = runs.config(images), str(tmp_path / "run")
    outcome = experiment.run(config, workdir)
    shutil.rmtree(images)
    assert experiment.run(config, workdir) == outcome


def test_a_finished_run_says_that_there_are_further_categories(
    images, tmp_path, caplog
):
    (tmp_path / "all").mkdir()
    images.rename(tmp_path / "all/cap")
    config, workdir = runs.config(tmp_path / "all"), str(tmp_path / "run")
    config.dataset.category = "all"
    outcome = experiment.run(config, workdir)
    shutil.copytree(tmp_path / "all/cap", tmp_path / "all/nut")
    assert experiment.run(config, workdir) == outcome
    assert "there is more than these results are of: nut" in caplog.text


def test_a_finished_category_is_not_mixed_with_other_images(images, tmp_path):
    config, workdir = runs.config(images), tmp_path / "run"
    experiment.run(config, str(workdir))
    unfinish(workdir)
    replace_one(images)
    with pytest.raises(
        InputError, match="cap is finished, but with other train images"
    ):
        experiment.run(config, str(workdir))


def upgrade(monkeypatch):
    now = results.versions() | {"numpy": "99.0"}
    monkeypatch.setattr(results, "versions", lambda: now)


def change_weights(monkeypatch):
    drawn = backbone._drawn
    monkeypatch.setattr(backbone, "_drawn", lambda *args: -drawn(*args))


@pytest.mark.parametrize(
    ("change", "told"),
    [(upgrade, "versions of numpy"), (change_weights, "weights")],
)
def test_what_has_made_a_category_is_not_mixed(
    change, told, images, tmp_path, monkeypatch, caplog
):
    config, workdir = runs.config(images), tmp_path / "run"
    experiment.run(config, str(workdir))
    old = folder.read_card(workdir / "cap/detector")
    unfinish(workdir)
    change(monkeypatch)
    with pytest.raises(InputError, match=f"is finished, but with other {told} than"):
        experiment.run(config, str(workdir))
    unfinish(workdir, "cap/result.json")
    (row,) = experiment.run(config, str(workdir))["categories"].values()
    assert "it is fitted again" in caplog.text
    new = folder.read_card(workdir / "cap/detector")
    assert len({old["key"], new["key"], row["key"]}) == 3
    assert new["versions"] == results.versions()


@pytest.mark.parametrize("left", ["whole", "without card"])
def test_a_detector_of_other_images_is_fitted_again(left, images, tmp_path, caplog):
    config, workdir = runs.config(images), tmp_path / "run"
    experiment.run(config, str(workdir))
    unfinish(workdir, "cap/result.json", "cap/scores.csv")
    if left != "whole":
        (workdir / "cap/detector/detector.json").unlink()
    replace_one(images)
    outcome = experiment.run(config, str(workdir))
    assert "cap/detector was fitted on other images, or with other" in caplog.text
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


def test_a_memory_bank_of_one_patch_is_told_of(tmp_path, caplog):
    """A hundredth of few patches; scores then say how far all are from that one."""
    images = runs.category(tmp_path / "cap", train=3, test=1)
    config = runs.config(images, **{"coreset.ratio": 0.01, "threshold.folds": 3})
    (row,) = experiment.run(config, str(tmp_path / "run"))["categories"].values()
    assert row["detector"][config.backbone.name]["bank_patches"] == 1
    told = "keeps one patch of 192, and everything is scored by its distance"
    assert told in caplog.text and "raise config.coreset.ratio=0.01" in caplog.text
