"""Whole runs of pre-training on generated pictures, and what takes their weights."""

import dataclasses
import functools
import json
import signal

import jax
import numpy as np
import pytest
import runs

import jaxad
from configs import spd_elpv, spd_folder
from jaxad import data, models
from jaxad.errors import InputError, Preempted
from jaxad.inference import folder
from jaxad.methods import two_class_fields
from jaxad.reporting import reading
from jaxad.run import doctor, experiment, pretrain, programs
from jaxad.training.loop import _Folder

PROBES = "spd/probes/metrics.jsonl"
LINEAR = {
    "method.linear.optimiser": "lars",
    "method.linear.epochs": 3,
    "method.linear.batch_size": 8,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes, of which one has a bright square."""
    root = tmp_path_factory.mktemp("pictures") / "corpus"
    for i in range(12):
        runs.picture(root / f"plain/{i:02}.png", i)
        runs.picture(root / f"square/{i:02}.png", 100 + i, bad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1)  # compiles in a third of the time
        runs.plain_views(patch)
        # Takes seconds to compile, and has tests of its own.
        patch.setattr(pretrain.probes, "linear_accuracy", lambda *given, **how: 0.5)
        yield root


def make_config(pictures, base="simsiam", **changes):
    config = spd_folder.get_config(f"runlocal,base={base}")
    config.dataset.path = str(pictures)
    config.backbone.name = "plugins.levels"
    config.compilation_cache = ""
    config.batch_size = 4
    config.train.log_every, config.train.save_every = 1, 3
    config.method.update(zero_residuals=False, held_out=0.25, epochs=3, level="layer2")
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    config = make_config(pictures, **LINEAR)
    return workdir, experiment.run(config, str(workdir))


def test_it_leaves_a_backbone_with_its_card_and_probes(whole):
    workdir, outcome = whole
    assert json.loads((workdir / "results.json").read_text()) == outcome
    card = json.loads((workdir / pretrain.CARD).read_text())
    assert outcome["backbone"] == card
    # 18 of 24 pictures in batches of 8, three times.
    assert (card["base"], card["eta"], card["steps"], card["seed"]) == (
        "simsiam", 0.1, 6, 0,
    )  # fmt: skip
    assert card["data"]["pictures"] == 18 and card["data"]["classes"] == 2
    assert outcome["pictures"]["held_out"] == 6
    before, after = outcome["probes"]["before"], outcome["probes"]["after"]
    assert before.keys() == after.keys() - {"top1_accuracy"} == {
        "spread", "rank", "knn_accuracy", "linear_accuracy",
        "cosine_to_positive", "cosine_to_negative",
    }  # fmt: skip
    assert 6 * after["top1_accuracy"] in range(7)
    assert "held out of the corpus: 6" in (workdir / "results.md").read_text()
    assert all(np.isfinite(list(after.values())))
    assert "| knn_accuracy " in (workdir / "results.md").read_text()
    curves = (workdir / "spd/metrics.jsonl").read_text().splitlines()
    assert len(curves) == 6 and "cosine_to_negative" in json.loads(curves[-1])
    # While it trains they are made where a checkpoint is due, but at the end.
    (line,) = (workdir / PROBES).read_text().splitlines()
    between = json.loads(line)
    assert between.pop("step") == 3
    assert between.keys() == before.keys() - {"linear_accuracy"}
    assert before["spread"] != between["spread"] != after["spread"]
    # Checkpoints are gone with the run, and there is nothing of a detector.
    assert {path.name for path in workdir.iterdir()} == {
        "backbone.json", "backbone.safetensors", "config.json", "linear",
        "results.json", "results.md", "spd",
    }  # fmt: skip
    assert not (workdir / "linear/probes").exists()  # nothing changes that they look at


def test_a_finished_run_does_nothing(whole, pictures):
    workdir, outcome = whole
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    config = make_config(pictures, **LINEAR)
    assert experiment.run(config, str(workdir)) == outcome
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_a_run_stopped_in_the_middle_ends_in_the_same_bytes(
    whole, pictures, tmp_path, monkeypatch
):
    """Once while it trains, and once while what it has trained is evaluated."""
    logs, workdir = _Folder.logs, tmp_path / "run"
    config = make_config(pictures, **LINEAR)

    def stopped(self, step):
        if step == 3:
            signal.raise_signal(signal.SIGTERM)
        return logs(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(_Folder, "logs", stopped)
        for stage in ("spd", "linear"):
            with pytest.raises(Preempted, match=f"stage '{stage}' is saved"):
                experiment.run(config, str(workdir))
            left = (workdir / pretrain.WEIGHTS).exists()
            assert left == (stage == "linear")  # before it is evaluated
    outcome = experiment.run(config, str(workdir))
    assert outcome["probes"] == whole[1]["probes"]
    curves = "spd/metrics.jsonl", "linear/metrics.jsonl"
    for name in (pretrain.WEIGHTS, pretrain.CARD, *curves, PROBES):
        assert (workdir / name).read_bytes() == (whole[0] / name).read_bytes(), name


def test_given_weights_are_evaluated_on_a_validation_set(whole, pictures, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train").symlink_to(pictures)
    for i in range(4):
        runs.picture(tmp_path / f"data/val/plain/{i}.png", 300 + i)
        runs.picture(tmp_path / f"data/val/square/{i}.png", 400 + i, bad=True)
    fields = LINEAR | {"method.epochs": 0, "method.linear.optimiser": "sgd"}
    config = make_config(tmp_path / "data", **fields)
    config.backbone.weights = str(whole[0] / pretrain.WEIGHTS)
    outcome = experiment.run(config, str(tmp_path / "run"))
    pretrained = whole[1]["backbone"]
    assert outcome["backbone"]["sha256"] == pretrained["sha256"]
    assert outcome["backbone"]["steps"] == 0
    # All 24 train, and none of them tests.
    assert outcome["pictures"]["train"] == 24
    assert outcome["pictures"]["validation"] == 8
    before, after = outcome["probes"]["before"], outcome["probes"]["after"]
    assert 8 * after.pop("top1_accuracy") in range(9)
    assert before == after
    lines = (tmp_path / "run/linear/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 9 and not (tmp_path / "run/spd").exists()
    assert "of the validation set: 8" in (tmp_path / "run/results.md").read_text()


def test_any_other_run_takes_its_weights(whole):
    workdir, outcome = whole
    taken = models.load("plugins.levels", str(workdir / pretrain.WEIGHTS))[1]
    assert models.fingerprint(taken) == outcome["backbone"]["sha256"]
    random = models.load("plugins.levels", "random")[1]
    assert models.fingerprint(random) != outcome["backbone"]["sha256"]


def test_a_two_class_model_begins_with_its_weights(whole, things, tmp_path):
    workdir, pretrained = whole
    fields = {"backbone.name": "plugins.levels", "metrics": ("visa",)}
    config = runs.config(things, **fields)
    config.backbone.weights = str(workdir / pretrain.WEIGHTS)
    two_class_fields.configured(config, "classification", epochs=2)
    config.method.level = "layer2"
    outcome = experiment.run(config, str(tmp_path / "run"))
    (began_with,) = outcome["backbones"]
    assert began_with["sha256"] == pretrained["backbone"]["sha256"]
    assert 0 <= outcome["mean"]["image_aupr"] <= 1


def test_weights_of_another_backbone_are_refused(whole):
    path = str(whole[0] / pretrain.WEIGHTS)
    with pytest.raises(InputError, match="does not hold this backbone's weights"):
        models.load("efficientnet_lite0", path)


def test_weights_with_another_shape_are_refused(whole, tmp_path):
    from safetensors.numpy import load_file, save_file

    state = load_file(whole[0] / pretrain.WEIGHTS)
    state["params/conv2/kernel"] = state["params/conv2/kernel"][..., :5]
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match=r"conv2/kernel has shape \(3, 3, 4, 5\)"):
        models.load("plugins.levels", str(tmp_path / "cut.safetensors"))


def test_it_holds_no_detector_and_says_what_it_holds(whole):
    with pytest.raises(InputError, match="holds a backbone.*config.backbone.weights="):
        folder.load(whole[0])


def test_it_has_no_report_and_no_detector_in_memory(whole, pictures):
    with pytest.raises(InputError, match="leaves a backbone; its results.md"):
        reading.run(whole[0])
    with pytest.raises(InputError, match="method.name=spd must be one that leaves a d"):
        jaxad.fit(str(pictures / "plain"), make_config(pictures))


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        ("simsiam", {"coreset.ratio": 0.5}, "coreset.ratio=0.5 must be left out: the"),
        ("simsiam", {"detector.name": "padim"}, "detector.name=padim must be left"),
        ("simsiam", {"ensemble.members": ("resnet18",)}, "ensemble.members"),
        ("simsiam", {"backbone.taps": ("layer1",)}, "backbone.taps"),
        ("simsiam", {"overlays": 2}, "overlays=2 must be left out"),
        ("supervised", {"dataset.path": "plain"}, "the corpus has no classes"),
        (
            "moco",
            {"dataset.path": "plain", "method.linear.optimiser": "sgd"},
            "linear.optimiser=sgd must be none: the corpus has no classes",
        ),
        (
            "simsiam",
            LINEAR | {"method.held_out": 0.0},
            "held_out=0 leaves no picture to test",
        ),
        (
            "simsiam",
            {"method.linear.optimiser": "lars", "method.linear.batch_size": 20},
            "stage 'linear' trains on batches of 20 and what is not held out of",
        ),
        ("supervised", {"method.classes": 7}, "classes=7 must be 0, or the 2 classes"),
        ("simsiam", {"method.batch_size": 20}, "batches of 20 and what is not held ou"),
        ("simsiam", {"method.held_out": 0.01}, "24 pictures holds out 0"),
        ("moco", {"method.queue": 20}, "queue=20 must be a multiple of .*size=8"),
    ],
    ids=str,
)
def test_what_cannot_work_is_found_before_pictures_are_looked_at(
    base, changes, message, pictures, tmp_path, monkeypatch
):
    def looked_at(config, corpus):
        raise AssertionError("millions of pictures, in vain")

    monkeypatch.setattr(doctor, "require_sound_corpus", looked_at)
    if "dataset.path" in changes:
        changes = changes | {"dataset.path": str(pictures / "plain")}
    with pytest.raises(InputError, match=message):
        experiment.run(make_config(pictures, base, **changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_pictures_are_looked_at_unless_one_says_not_to(pictures, caplog):
    """Of 40 x 48 pixels: less than 64 x 64 on both sides, and more than 32 x 32."""
    config = make_config(pictures).dataset
    corpus = data.corpus(config)
    doctor.require_sound_corpus(config, corpus)
    assert not caplog.records
    config.image_size = (64, 64)
    larger = data.corpus(config)
    doctor.require_sound_corpus(config, larger)
    (record,) = caplog.records
    assert (
        "24 of 24 pictures are smaller than they are used and are enlarged: plai"
        in (record.message)
    )
    broken = dataclasses.replace(larger, read=lambda i: (b"GIF8", None))
    with pytest.raises(InputError, match="plain/00.png cannot be read .*; mend or rem"):
        doctor.require_sound_corpus(config, broken)
    config.check = False
    doctor.require_sound_corpus(config, broken)
    assert len(caplog.records) == 1
    # What a listing has left out is told all the same.
    notes = (data.Note("odd/", "image outside of the categories"),)
    doctor.require_sound_corpus(config, dataclasses.replace(broken, notes=notes))
    assert "corpus  image outside of the categories: odd/" in caplog.messages[1]


def test_a_run_stopped_while_it_decodes_looks_at_its_pictures_once(
    pictures, tmp_path, monkeypatch
):
    looked = []

    def stopped(corpus, folder, label):
        raise Preempted("SIGTERM")

    monkeypatch.setattr(doctor, "require_sound_corpus", lambda *_: looked.append(1))
    monkeypatch.setattr(pretrain.decoded, "kept", stopped)
    shapes = functools.partial(programs.abstract, mesh=None)
    monkeypatch.setattr(pretrain.pipeline_lib, "load", shapes)
    for _ in range(2):
        with pytest.raises(Preempted):
            experiment.run(make_config(pictures), str(tmp_path / "run"))
    assert looked == [1]


def test_a_supervised_base_runs_local_on_both_cell_types():
    config = spd_elpv.get_config("runlocal,base=supervised")
    corpus = data.corpus(config.dataset)
    assert corpus.classes == ("mono", "poly") and len(corpus) == 48


def test_outputs_that_collapse_end_the_run_in_one_sentence(pictures, tmp_path):
    """Nothing is spread as a cloud of twice a Gaussian's width."""
    config = make_config(pictures, **{"method.collapsed": 2.0})
    with pytest.raises(InputError, match="stopped at step 1 of 6 in .*have collapsed"):
        experiment.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / pretrain.WEIGHTS).exists()


def test_features_along_one_direction_are_told(pictures, monkeypatch, caplog):
    pipeline = pretrain.pipeline_lib.load(make_config(pictures))
    corpus = data.corpus(pipeline.config.dataset)
    train, few, held_out = (corpus.take(range(n)) for n in (8, 9, 10))
    for rank, seen, when in (
        (1.6, held_out, "now"),
        (1.2, held_out, "before"),
        (1.2, few, "now"),
        (1.2, held_out, "now"),
    ):
        monkeypatch.setattr(pretrain.heads, "participation_ratio", lambda z, r=rank: r)
        assert not caplog.messages
        pretrain._probe(pipeline, pipeline.variables, train, seen, when)
    assert "about one direction (rank 1.20)" in caplog.text
