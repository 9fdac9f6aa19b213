"""Every row of SPot-the-Difference's tables is a run that could begin."""

import importlib
import json
import pathlib

import pytest

from jaxad import config as config_lib
from jaxad import methods, sweep
from jaxad.errors import InputError
from jaxad.methods import spd_backbones, spd_fields, two_class_fields
from jaxad.run import pretrain, study

ROOT = pathlib.Path(__file__).parents[2]
NAMES = [path.stem for path in (ROOT / "configs/ablations").glob("spd_*.py")]


def jobs(name, arg, folder, monkeypatch):
    """A job for every row, whose configs are completed and valid."""
    monkeypatch.syspath_prepend(ROOT)
    table = importlib.import_module(f"configs.ablations.{name}")
    rows, _ = sweep.rows(str(ROOT / f"configs/ablations/{name}.py"), arg)
    found = study.jobs(table.get_config(arg), rows, [0], folder)
    for job in found:
        (config,) = job.configs
        config_lib.validate(config)
        methods.check(config)
        if methods.leaves(config) == "backbone":
            pretrain._require_no_effect(config)
    return found


def distinct(found):
    shown = {job.configs[0].to_json() for job in found}
    assert len(found) == len(shown) > 1
    return {job.row: job.configs[0] for job in found}


@pytest.mark.parametrize("name", NAMES)
def test_rows_differ(name, tmp_path, monkeypatch):
    distinct(jobs(name, None, tmp_path, monkeypatch))


def test_every_base_has_its_recipe(tmp_path, monkeypatch):
    rows = distinct(jobs("spd_base", "path=a", tmp_path, monkeypatch))
    assert [*rows] == [f"{b}{s}" for b in spd_fields.BASES for s in ("", " + SPD")]
    moco, supervised = rows["moco + SPD"].method, rows["supervised"].method
    assert (moco.eta, moco.batch_size, moco.groups) == (0.1, 256, 8)
    assert (supervised.eta, supervised.term) == (0.0, "classifier")
    small = distinct(jobs("spd_base", "data=elpv", tmp_path, monkeypatch))
    assert {row.method.batch_size for row in small.values()} == {64}


def test_few_shots_take_all_that_they_have(tmp_path, monkeypatch):
    rows = distinct(jobs("spd_few_shot", "data=elpv,epochs=3", tmp_path, monkeypatch))
    for (name, row), shots in zip(rows.items(), (5, 10), strict=True):
        assert name == f"{shots} shots" and row.dataset.shots == shots
        assert row.threshold.calibration == "none"
        assert (row.method.epochs, row.method.encoder_factor) == (3, 0.1)
    default = distinct(jobs("spd_few_shot", None, tmp_path, monkeypatch))
    epochs = two_class_fields.FEW_SHOT["epochs"]
    assert {row.method.epochs for row in default.values()} == {epochs}


def test_detectors_of_what_was_pretrained(tmp_path, monkeypatch):
    pretrained(tmp_path, {"eta=0/0": "resnet50", "eta=1/0": "resnet18"})
    arg = f"pretrained={tmp_path},data=mvtec"
    others = tmp_path, monkeypatch
    rows = distinct(jobs("spd_downstream", arg, *others))
    assert len(rows) == 4
    padim = rows["eta=1, padim"]
    assert (padim.backbone.name, padim.detector.dim) == ("resnet18", 100)
    assert padim.backbone.weights == str(tmp_path / "eta=1/0/backbone.safetensors")
    patchcore = rows["eta=0, patchcore"]
    assert (patchcore.detector.name, patchcore.backbone.name) == ("knn", "resnet50")
    assert patchcore.dataset.name == "mvtec_ad"
    alone = distinct(jobs("spd_downstream", f"{arg},detector=padim", *others))
    assert [*alone] == ["eta=0, padim", "eta=1, padim"]
    with pytest.raises(InputError, match="weights=... has no effect beside pretrained"):
        jobs("spd_downstream", f"{arg},weights=a", *others)
    with pytest.raises(InputError, match="pretrained=.* has no backbone.safetensors"):
        jobs("spd_downstream", "pretrained=nowhere", tmp_path, monkeypatch)


def pretrained(folder, networks):
    for name, network in networks.items():
        place = folder / name
        place.mkdir(parents=True)
        (place / "backbone.safetensors").touch()
        (place / "backbone.json").write_text(json.dumps({"name": network}))


def test_rows_go_on_with_the_seeds_and_pairs_of_the_pretraining(tmp_path):
    rows = {"moco": "moco", "moco + SPD": "moco_SPD", "other": "other"}
    written = {"rows": rows, "baselines": {"moco + SPD": "moco", "other": "gone"}}
    (tmp_path / "study.json").write_text(json.dumps(written))
    places = [f"{place}/{seed}" for place in rows.values() for seed in (0, 1)]
    pretrained(tmp_path, dict.fromkeys(places, "resnet18"))
    path = str(ROOT / "configs/ablations/spd_few_shot.py")
    arg = f"data=elpv,pretrained={tmp_path}"
    fields, baselines = sweep.rows(path, arg)
    assert [*fields][:3] == ["moco, 5 shots", "moco, 10 shots", "moco + SPD, 5 shots"]
    assert baselines == {
        f"moco + SPD, {shots} shots": f"moco, {shots} shots" for shots in (5, 10)
    }
    weights = fields["moco + SPD, 5 shots"]["backbone.weights"]
    assert weights == str(tmp_path / "moco_SPD/{seed}/backbone.safetensors")
    assert [*sweep.rows(path, f"{arg},shots=0")[0]] == [f"{row}, 60 %" for row in rows]
    # The folder of a row, and of a run.
    (alone,) = spd_backbones.of(f"pretrained={tmp_path}/moco_SPD")
    assert (alone.row, alone.weights) == ("", weights)
    (alone,) = spd_backbones.of(f"pretrained={tmp_path}/moco/1")
    assert alone.weights == str(tmp_path / "moco/1/backbone.safetensors")
    assert alone.rows("padim") == ("padim", None)


def test_a_padim_beside_patchcore_has_one_bank():
    path = str(ROOT / "configs/ablations/spd_downstream.py")
    fields, _ = sweep.rows(path)
    assert fields["padim"]["bank_starts"] == 1
    assert "bank_starts" not in fields["patchcore"]
    assert "bank_starts" not in sweep.rows(path, "detector=padim")[0]["padim"]
