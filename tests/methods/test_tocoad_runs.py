"""Whole runs of ToCoAD on generated images: stages kept, shared and gone on with."""

import json
import signal

import jax
import numpy as np
import pytest
from PIL import Image
from runs import plain_views

from configs import tocoad_elpv
from jaxad import data
from jaxad.detectors import base
from jaxad.errors import InputError, Preempted
from jaxad.inference import folder as detector_folder
from jaxad.inference.places import find
from jaxad.run import experiment
from jaxad.training.loop import _Folder


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Eight noisy images to train on; in test four more, two of them with a square."""
    root, random = (
        tmp_path_factory.mktemp("images") / "things",
        np.random.default_rng(0),
    )
    for folder, count in (("train/good", 8), ("test/good", 2), ("test/square", 2)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(90, 110, (32, 32, 3)).astype(np.uint8)
            if folder == "test/square":
                pixels[8:16, 8:16] = 220
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1)  # compiles in a third of the time
        plain_views(patch)
        yield root, tmp_path_factory.mktemp("stages")


def make_config(places, **changes):
    root, stages = places
    config = tocoad_elpv.get_config("runlocal")
    config.dataset.update(name="folder", path=str(root), image_size=(32, 32), limit=0)
    config.dataset.update(category="things", check=False)
    config.train.update(stage_cache=str(stages), log_every=1)
    config.backbone.name = "plugins.levels"
    config.method.decoder.depths = (1, 1, 1)
    config.method.heads.update(width=16, bottleneck=8)
    config.threshold.calibration = "none"
    config.overlays = 0
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def whole(places, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, experiment.run(make_config(places), str(workdir))


def test_it_says_what_was_pasted_and_keeps_the_curves(whole):
    workdir, outcome = whole
    assert outcome["texture"] == "images"
    lines = (workdir / "things/ncl/metrics.jsonl").read_text().splitlines()
    curves = json.loads(lines[-1])
    assert curves.keys() >= {"contrastive", "guide", "spread", "rank_layer3"}
    # The checkpoints of a stage that only this run has are gone with the run.
    assert not any(path.is_dir() for path in (workdir / "things/ncl").iterdir())


def test_stage_one_is_shared_by_what_differs_in_stage_two(whole, places, tmp_path):
    _, stages = places
    (kept,) = stages.iterdir()
    before = {path: path.stat().st_mtime_ns for path in kept.glob("3/**/*")}
    other = make_config(places, **{"method.lambda_neg.gradient": 3.0})
    experiment.run(other, str(tmp_path / "run"))
    assert list(stages.iterdir()) == [kept]
    after = {path: path.stat().st_mtime_ns for path in kept.glob("3/**/*")}
    assert before == after and len(after) > 1
    scores = [
        (run / "things/scores.csv").read_bytes() for run in (whole[0], tmp_path / "run")
    ]
    assert scores[0] != scores[1]  # the weight of the guide counts


def test_a_map_is_learnt_kept_and_applied(places, tmp_path):
    """Distances of its bank are those of the untrained one's patches through it."""
    changes = {"method.whitening.batch_size": 128, "method.grey": True}
    runs = {}
    for stages in ((), ("whitening", "ranking")):
        config = make_config(places, **changes | {"method.stages": stages})
        outcome = experiment.run(config, str(tmp_path / str(len(stages))))
        assert outcome["texture"] == ("images" if stages else None)
        place = find(tmp_path / str(len(stages)) / "things")
        (runs[stages],) = detector_folder.load(place).members
    plain, mapped = runs.values()
    kernel = np.asarray(mapped.params["map"])
    assert kernel.shape == (12, 12) and np.abs(kernel - np.eye(12)).max() > 0.1
    for name, member in (("plain", plain), ("mapped", mapped)):
        assert ("map" in member.params) == (name == "mapped")
    images = np.random.default_rng(1).random((2, 32, 32, 3), np.float32)
    patches = np.asarray(base.describe_with(plain, images))
    np.testing.assert_allclose(
        base.describe_with(mapped, images), patches @ kernel, rtol=1e-3, atol=1e-4
    )


def test_what_d_sees_is_kept_with_the_detector(places, tmp_path):
    """The cache of features, which knows the backbone alone, has no part in it."""
    changes = {
        "method.stages": ("dnp", "whitening"),
        "method.whitening.batch_size": 128,
        "method.whitening.log_odds": 1.0,
        "feature_cache": str(tmp_path / "features"),
    }
    outcome = experiment.run(make_config(places, **changes), str(tmp_path / "run"))
    assert outcome["mean"]["image_auroc"] is not None
    assert not (tmp_path / "features").exists()
    (member,) = detector_folder.load(find(tmp_path / "run/things")).members
    kernel = np.asarray(member.params["map"])
    assert kernel.shape == (13, 13) and not kernel[-1, :-1].any() and kernel[-1, -1] > 0
    split = data.load(make_config(places).dataset, "things", "test")
    images = np.stack([split[i]["image"] for i in range(len(split))])
    scores, _ = base.predict(member, images)
    lines = (tmp_path / "run/things/scores.csv").read_text().splitlines()[1:]
    np.testing.assert_allclose(
        sorted(scores), sorted(float(line.split(",")[-1]) for line in lines), rtol=1e-4
    )


def test_a_run_stopped_in_stage_two_ends_in_the_same_bytes(
    whole, places, tmp_path, monkeypatch
):
    logs = _Folder.logs

    def stopped(self, step):
        if self.workdir.name == "ncl" and step == 2:
            signal.raise_signal(signal.SIGTERM)
        return logs(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(_Folder, "logs", stopped)
        with pytest.raises(Preempted):
            experiment.run(make_config(places), str(tmp_path / "run"))
    kept = tmp_path / "run/things/ncl"
    assert any(path.name.isdigit() for path in kept.iterdir())
    experiment.run(make_config(places), str(tmp_path / "run"))
    for name in ("scores.csv", "detector/plugins.levels/arrays.npz"):
        content = (tmp_path / "run/things" / name).read_bytes()
        assert content == (whole[0] / "things" / name).read_bytes(), name


def test_what_d_sees_is_in_the_score(places, tmp_path):
    """As a hand would average them, in the run as in the detector and its program."""
    changes = {
        "method.stages": ("dnp", "whitening"),
        "method.whitening.batch_size": 128,
    }
    run = tmp_path / "run"
    experiment.run(make_config(places, **changes | {"method.in_score": True}), str(run))
    (member,) = detector_folder.load(find(run / "things")).members
    split = data.load(make_config(places).dataset, "things", "test")
    images = np.stack([split[i]["image"] for i in range(len(split))])
    scores, _ = base.predict(member, images)
    described = np.asarray(base.describe_with(member, images))
    bank = np.asarray(member.state["memory_bank"])
    assert bank.shape[1] == described.shape[3] - 1 == len(member.params["map"])
    gaps = described[..., None, :-1] - bank
    distances = np.sqrt((gaps**2).sum(-1)).min(-1)
    (distance, odds), (by, odds_by) = np.asarray(member.state["z_scores"])
    both = (distances - distance) / by + (described[..., -1] - odds) / odds_by
    np.testing.assert_allclose(scores, both.max((1, 2)) / 2, rtol=2e-3, atol=1e-3)
    lines = (run / "things/scores.csv").read_text().splitlines()[1:]
    written = [float(line.split(",")[-1]) for line in lines]
    np.testing.assert_allclose(sorted(written), sorted(scores), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method.ncl.batch_size": 9}, "'ncl' .* batches of 9 and the train split of"),
        ({"method.texture": "dtd"}, "no texture source"),
        (
            {"dataset.textures": "test/good", "method.ncl.batch_size": 4},
            "as many textures, and there are 2",
        ),
    ],
    ids=str,
)
def test_what_cannot_work_is_found_before_anything_is_trained(
    changes, message, places, tmp_path
):
    if "dataset.textures" in changes:
        changes = changes | {"dataset.textures": str(places[0] / "test/good")}
    config = make_config(places, **{"dataset.data_dir": str(tmp_path)} | changes)
    with pytest.raises(InputError, match=message):
        experiment.run(config, str(tmp_path / "run"))
    # So the same --workdir can be used once it is mended.
    assert not (tmp_path / "run").exists()
