"""Classification and segmentation, from labelled pictures to what `jaxad.load` says."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from jaxad import config as config_lib
from jaxad import data, models, rng
from jaxad.augment import views
from jaxad.detectors import base
from jaxad.errors import InputError
from jaxad.inference import gate, predictor
from jaxad.methods import two_class, two_class_fields
from jaxad.run import alone, experiment, extend

NARROW = (6, 6, 4, 4, 4)
FROZEN = {"method.encoder_factor": 0.0, "method.statistics": "frozen"}


def make_config(path, task, backbone="plugins.encoder", **fields):
    config = runs.config(path, **{"backbone.name": backbone, "metrics": ("visa",)})
    two_class_fields.configured(config, task)
    config.method.update(widths=NARROW, learning_rate=0.01, epochs=80)
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module", params=two_class_fields.TASKS)
def run(request, things, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    # Of a segmentation the encoder stands still.
    pixels = request.param == "segmentation"
    fields = FROZEN | {"method.epochs": 40} if pixels else {}
    config = make_config(things, request.param, **fields)
    return config, workdir, experiment.run(config, str(workdir))


# ---- A run


def test_it_learns_from_both_classes(run):
    config, workdir, outcome = run
    row = outcome["categories"]["things"]
    # Sixteen good ones, ten of which train, and four squares, two of which do.
    assert (row["train_normal"], row["train_anomalous"]) == (8, 2)
    assert (row["test_normal"], row["test_anomalous"]) == (6, 2)
    assert row["image_auroc"] == row["image_aupr"] == 1.0
    if config.method.task == "segmentation":
        assert row["pixel_auroc"] > 0.8 and row["visa_pixel_auroc"] > 0.8
    curves = (workdir / "things" / config.method.task / "metrics.jsonl").read_text()
    last = json.loads(curves.splitlines()[-1])
    assert last["logit_anomalous"] > last["logit_normal"]


def test_the_threshold_is_of_images_that_trained_nothing(run):
    config, workdir, outcome = run
    threshold = outcome["categories"]["things"]["threshold"]
    assert threshold["method"] == "split" and len(threshold["scores"]) == 2
    with open(workdir / "things/train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    split = data.load(config.dataset, "things", "train")
    assert sorted(row["file"] for row in rows) == sorted(split.filenames)
    held_out = [row for row in rows if row["use"] == "threshold"]
    assert [row["label"] for row in held_out] == ["0", "0"]


def test_what_is_loaded_says_what_the_run_said(run):
    config, workdir, _ = run
    detector = predictor.load(workdir)
    split = data.load(config.dataset, "things", "test")
    images = np.stack([split[i]["image"] for i in range(len(split))])
    scores, maps = base.predict(detector.members, images)
    with open(workdir / "things/scores.csv", newline="") as file:
        expected = [float(row["score"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert maps.shape == images.shape[:3]
    if config.method.task == "segmentation":
        np.testing.assert_allclose(maps.max((1, 2)), scores, rtol=1e-6)


def test_it_is_exported_as_any_detector(run, tmp_path):
    config, workdir, _ = run
    if config.method.task == "segmentation":
        pytest.skip("the same, but for a network that takes long to compile")
    split = data.load(config.dataset, "things", "test")
    card = gate.export(workdir, tmp_path / "program", split)
    assert card["gate"]["largest"]["flipped_verdicts"] == 0
    assert card["output"]["score"]["about"].endswith("the log-odds of an anomaly")


def test_more_good_images_alone_do_not_extend_it(run, things, tmp_path):
    _, workdir, _ = run
    more = str(things / "test/good")
    with pytest.raises(InputError, match="two_class cannot be extended: its network"):
        extend.run(str(workdir), more, str(tmp_path / "new"))


# ---- The networks


def test_the_mean_of_a_classifier_s_map_is_its_logit(run):
    config, workdir, _ = run
    (detector,) = predictor.load(workdir).members
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    described = base.describe_with(detector, images)
    found = detector.scorer.score({}, described)
    if config.method.task == "segmentation":
        assert described.shape == (2, 32, 32, 1)
        np.testing.assert_array_equal(found.images, described.max((1, 2, 3)))
        return
    normalised = detector.backbone.normalise(jnp.asarray(images))
    maps = jax.jit(detector.backbone.module.apply)(
        detector.params["backbone"], normalised
    )[1]
    layer = detector.params["head"]["params"]["layer0"]
    logits = maps["layer4"].mean((1, 2)) @ layer["kernel"] + layer["bias"][None]
    np.testing.assert_allclose(found.images, logits[:, 0], rtol=1e-4, atol=1e-5)


def test_the_backbone_is_tuned_unless_it_is_frozen(run):
    config, workdir, _ = run
    (detector,) = predictor.load(workdir).members
    module, start = models.load("plugins.encoder", "random")
    start, end = models.fold(module, start), detector.params["backbone"]
    pairs = zip(jax.tree.leaves(start), jax.tree.leaves(end), strict=True)
    largest = [float(jnp.abs(x - y).max()) for x, y in pairs]
    assert (max(largest) < 1e-6) == (config.method.task == "segmentation")


def test_a_mask_is_mirrored_with_its_image():
    keys = rng.per_example(jax.random.key(0), jnp.arange(16))
    rows = jnp.broadcast_to(jnp.arange(8.0), (16, 8, 8))
    flip = jax.vmap(views.random_flip)
    masks, images = flip(keys, rows), flip(keys, rows[..., None])
    np.testing.assert_array_equal(masks, images[..., 0])
    assert 0 < (masks[:, 0, 0] == 7).sum() < 16


# ---- What cannot work


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("classification", {"dataset.protocol": "1cls"}, "no anomalous image"),
        (
            "classification",
            {"dataset.protocol": "1cls", "dataset.check": False},
            "have no anomalous one; config.dataset.protocol=2cls_highshot divides",
        ),
        (
            "classification",
            {"dataset.protocol": "2cls_fewshot", "dataset.shots": 5},
            "shots=5, but the pool of things has only 3 normal images",
        ),
        ("classification", {"backbone.name": "plugins.backbone"}, "no level 'layer4'"),
        ("segmentation", {"backbone.name": "plugins.levels"}, "has no level 'stem'"),
        ("segmentation", {"detector.name": "knn"}, "=knn must be logits with .*two_cl"),
        (
            "segmentation",
            {"ensemble.members": ("plugins.encoder",)},
            "not of one scale",
        ),
        ("segmentation", {"detector.image_score": "reweighted"}, "choose max, mean or"),
        ("classification", {"detector.image_score": "max"}, "=max must be mean with"),
        ("classification", {"threshold.calibration": "folds"}, "=folds asks for what"),
        ("classification", {"threshold.share": 0.01}, "of the 10 normal .* out 0"),
        ("classification", {"method.batch_size": 16}, "batches of 16 and .* only 10"),
        ("segmentation", {"method.widths": (8, 8)}, "five widths of 1 or more"),
    ],
)
def test_mistakes_are_told(task, fields, message, things, tmp_path):
    config = make_config(things, task, **fields)
    with pytest.raises(InputError, match=message):
        experiment.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_segmentation_without_masks_is_told(tmp_path):
    runs.category(tmp_path / "caps")
    config = make_config(tmp_path / "caps", "segmentation")
    with pytest.raises(InputError, match="learns from masks, and .* of caps have none"):
        experiment.run(config, str(tmp_path / "run"))


def test_weights_of_another_shape_are_told(things, tmp_path):
    config = make_config(things, "classification")
    config.backbone.weights = str(tmp_path / "weights.npz")
    np.savez(config.backbone.weights, **{"conv1.weight": np.zeros((4, 3, 5, 5))})
    with pytest.raises(
        InputError, match="conv1.weight has shape .* the backbone needs"
    ):
        experiment.run(config, str(tmp_path / "run"))


def test_logits_are_not_scored_where_there_are_none(things, tmp_path):
    config = runs.config(things, **{"detector.name": "logits"})
    with pytest.raises(InputError, match="takes one channel a patch, and there are 10"):
        experiment.run(config, str(tmp_path / "run"))


def test_good_images_alone_are_not_enough():
    config = make_config("", "classification")
    with pytest.raises(InputError, match="learns from good images alone"):
        alone.fit(np.zeros((2, 8, 8, 3), np.uint8), config)


def test_few_shots_and_the_defaults():
    config = config_lib.base()
    two_class_fields.configured(config, "segmentation", shots=5, draw=3)
    assert config.dataset.protocol == "2cls_fewshot" and config.dataset.draw == 3
    assert (config.method.gamma, config.method.batch_size) == (2.0, 8)
    assert (config.method.epochs, config.method.encoder_factor) == (200, 0.1)
    assert config.threshold.calibration == "none"
    with pytest.raises(InputError, match="method.task='detection' is not known"):
        two_class.fields("detection")
