"""A run that is extended, beside one that had all the images from the start."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import runs
import trees
from PIL import Image

from jaxad import arrays, detectors, methods
from jaxad import config as config_lib
from jaxad.bank import memory_bank
from jaxad.errors import InputError
from jaxad.methods.base import Backbone
from jaxad.run import experiment, extend
from jaxad.run import pipeline as pipeline_lib
from jaxad.run.pipeline import Pipeline

ROOT = pathlib.Path(__file__).parents[1]
KINDS = {
    "patchcore": {},
    "reconpatch": {"method.name": "reconpatch", "method.dim": 16, "method.epochs": 1},
    "ensemble": {"ensemble.members": ("resnet18", "efficientnet_lite0")},
    "projected": {"coreset.projection_dim": 8},
}


def picture(path, i, size=(48, 40)):
    """Noise of the picture's own, brighter and rougher from picture to picture."""
    generator, level = np.random.default_rng(i), i % 17
    pixels = generator.normal(60 + 10 * level, 5 + level, (*size, 3))
    trees.save(path, Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))


def category(root, train):
    for i in train:
        picture(root / f"train/good/{i:02}.png", i)
    for i in (20, 21):
        picture(root / f"test/good/{i}.png", i)
        picture(root / f"test/bent/{i}.png", i + 10)
    return root


def config(path, kind="patchcore", **fields):
    made = config_lib.base()
    if kind == "reconpatch":
        from jaxad.methods import reconpatch

        made.method = reconpatch.fields()
        made.method.batch_size = 64
    made.update_from_flattened_dict(
        {
            "dataset.name": "folder",
            "dataset.path": str(path),
            "dataset.image_size": (64, 64),
            "backbone.name": "resnet18",
            "coreset.ratio": 0.2,
            "batch_size": 2,
            "overlays": 0,
            "threshold.calibration": "none",
            "compilation_cache": "",
            **KINDS[kind],
            **fields,
        }
    )
    return made


POWERS = {"resnet18": 1, "efficientnet_lite0": 2}


def blocks(name):
    """A backbone whose features are the pixels of 8 x 8 blocks, to a power."""

    def levels(variables, images):
        b, h, w, _ = images.shape
        x = images.reshape(b, h // 8, 8, w // 8, 8, 3) ** POWERS[name]
        return [x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 8, w // 8, -1)]

    return Backbone(name, None, ("blocks",), (0.0,) * 3, (1.0,) * 3, levels)


@pytest.fixture(scope="module", autouse=True)
def no_networks():
    """The real ones are for `test_command`."""
    loaded = {}

    def load(config):
        key = config.backbone.name, config.method.to_json()
        if key not in loaded:
            backbone = blocks(config.backbone.name)
            method = methods.build(config, backbone)
            scorer = detectors.build(config)
            sha256 = "ab" * 32
            loaded[key] = Pipeline(config, backbone, {}, sha256, method, scorer, None)
        return dataclasses.replace(
            loaded[key], config=config, scorer=detectors.build(config)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_lib, "load", load)
        yield


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Five images, three more of another size, and all eight."""
    root = tmp_path_factory.mktemp("extend")
    category(root / "some/cap", range(5))
    category(root / "all/cap", range(5))
    for i in (5, 6, 7):
        picture(root / f"more/{i:02}.png", i, size=(70, 50))
        picture(root / f"all/cap/train/good/{i:02}.png", i, size=(70, 50))
    return root


@pytest.fixture(scope="module")
def base(places):
    """A run on the five, with a cache of its own."""
    workdir = places / "base"
    experiment.run(
        config(places / "some/cap", feature_cache=str(places / "cache")), str(workdir)
    )
    return workdir


def tree(workdir, member="resnet18"):
    return arrays.restore(workdir / "cap/detector" / member)


def bank(workdir):
    return tree(workdir)["state"]["memory_bank"]


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["patchcore", "ensemble", "projected"])
def test_exact_is_a_run_on_all_images(kind, places, tmp_path):
    some = config(places / "some/cap", kind)
    experiment.run(some, str(tmp_path / "base"))
    untouched = contents(tmp_path / "base")
    experiment.run(config(places / "all/cap", kind), str(tmp_path / "all"))

    extend.run(str(tmp_path / "base"), str(places / "more"), str(tmp_path / "new"))
    for member in some.ensemble.members or ("resnet18",):
        old, new = tree(tmp_path / "all", member), tree(tmp_path / "new", member)
        for name in ("memory_bank", "owners"):
            np.testing.assert_array_equal(new["state"][name], old["state"][name])
        assert new["report"]["radius"] == old["report"]["radius"]
        assert new.get("spread") == old.get("spread")
    scores = [
        (tmp_path / run / "cap/scores.csv").read_bytes() for run in ("all", "new")
    ]
    assert scores[0] == scores[1]
    assert contents(tmp_path / "base") == untouched


def test_a_learnt_map_stays(places, tmp_path):
    experiment.run(config(places / "some/cap", "reconpatch"), str(tmp_path / "base"))
    more = str(places / "more")
    extend.run(str(tmp_path / "base"), more, str(tmp_path / "exact"))
    extend.run(str(tmp_path / "base"), more, str(tmp_path / "fast"), mode="fast")
    old = tree(tmp_path / "base")
    for mode in extend.MODES:
        new = tree(tmp_path / mode)
        jax.tree.map(
            np.testing.assert_array_equal, new["params"]["f"], old["params"]["f"]
        )
        assert new["state"]["memory_bank"].shape == (int(0.2 * 8 * 64), 16)


@pytest.mark.parametrize("with_cache", [True, False])
def test_fast_keeps_the_bank_and_says_how_well_it_covers(
    with_cache, base, places, tmp_path
):
    if not with_cache:
        workdir = tmp_path / "base"
        experiment.run(config(places / "some/cap"), str(workdir))
    else:
        workdir = base
    outcome = extend.run(
        str(workdir), str(places / "more"), str(tmp_path / "new"), mode="fast"
    )
    before, after = bank(workdir), bank(tmp_path / "new")
    np.testing.assert_array_equal(after[: len(before)], before)
    assert len(after) == int(0.2 * 8 * 64)

    # Against descriptors from another run, all distances by the book.
    cached = map(np.load, (places / "cache").glob("*/features.npy"))
    (old,) = (x.reshape(-1, x.shape[-1]) for x in cached if len(x) == 5)
    every = config(places / "all/cap", **{"coreset.ratio": 1.0})
    experiment.run(every, str(tmp_path / "everything"))
    rows = bank(tmp_path / "everything")
    new = rows[~(rows[:, None] == old[None]).all(-1).any(1)]
    assert len(new) == 3 * 64

    def radius(rows, centres):
        gaps = rows[:, None].astype(np.float64) - centres[None]
        return np.sqrt((gaps**2).sum(-1)).min(1).max()

    coverage = outcome["categories"]["cap"]["detector"]["resnet18"]
    want = {
        "bank_patches": len(after),
        "radius_before": radius(old, before),
        "added_before": radius(new, before),
        "added": radius(new, after),
    }
    if with_cache:
        want["radius"] = radius(np.concatenate([old, new]), after)
    else:
        want["radius_bound"] = max(want["radius_before"], want["added"])
    assert coverage.keys() == want.keys()
    for name, value in want.items():
        assert coverage[name] == pytest.approx(value, rel=1e-6), name
    assert coverage["added"] < coverage["added_before"]


def test_results_say_what_was_added(base, places, tmp_path):
    outcome = extend.run(
        str(base), str(places / "more"), str(tmp_path / "new"), mode="fast"
    )
    assert outcome == json.loads((tmp_path / "new/results.json").read_text())
    (record,) = outcome["extensions"]
    assert record["mode"] == "fast" and record["count"] == 3
    assert record["images"] == str(places / "more") and record["base"] == str(base)
    assert len(record["sha256"]) == 64 and record["duplicates"] == 0
    # Again: nothing to do. Other images: another run.
    again = extend.run(
        str(base), str(places / "more"), str(tmp_path / "new"), mode="fast"
    )
    assert again == outcome
    with pytest.raises(InputError, match="another run .it differs in extensions"):
        extend.run(str(base), str(places / "more"), str(tmp_path / "new"))
    with pytest.raises(InputError, match="another run"):
        extend.run(str(base), str(places / "more"), str(base))


def test_an_extended_run_is_extended(base, places, tmp_path):
    for i in (5, 6):
        picture(tmp_path / f"first/{i:02}.png", i, size=(70, 50))
    picture(tmp_path / "second/07.png", 7, size=(70, 50))
    once, twice = tmp_path / "once", tmp_path / "twice"
    extend.run(str(base), str(tmp_path / "first"), str(once), mode="fast")
    outcome = extend.run(str(once), str(tmp_path / "second"), str(twice))
    assert [record["count"] for record in outcome["extensions"]] == [2, 1]
    experiment.run(config(places / "all/cap"), str(tmp_path / "all"))
    np.testing.assert_array_equal(bank(twice), bank(tmp_path / "all"))
    # The cache has all old images but those of the first extension.
    coverage = outcome["categories"]["cap"]["detector"]["resnet18"]
    assert "radius" in coverage and "radius_before" in coverage

    (tmp_path / "first/05.png").unlink()
    with pytest.raises(InputError, match="first, which an earlier .* has changed"):
        extend.run(str(once), str(tmp_path / "second"), str(tmp_path / "new"))
    assert extend.run(
        str(once), str(tmp_path / "second"), str(tmp_path / "fast"), mode="fast"
    )


def test_an_approximate_search_stays_one_and_is_measured(places, tmp_path):
    approximate = config(places / "some/cap", **{"detector.search": "approximate"})
    outcomes = [
        experiment.run(approximate, str(tmp_path / "base")),
        extend.run(str(tmp_path / "base"), str(places / "more"), str(tmp_path / "new")),
    ]
    for outcome in outcomes:
        measured = outcome["categories"]["cap"]["recall_at_1"]["resnet18"]
        # Four test images; on a CPU nothing is missed.
        assert measured == {"recall": 1.0, "patches": 4 * 64, "images": 4}


def test_duplicates_are_counted_and_copies_of_test_images_refused(
    base, places, tmp_path, caplog
):
    picture(tmp_path / "same/a.png", 2)
    picture(tmp_path / "same/b.png", 2)
    outcome = extend.run(
        str(base), str(tmp_path / "same"), str(tmp_path / "new"), mode="fast"
    )
    assert outcome["extensions"][0]["duplicates"] == 2
    coverage = outcome["categories"]["cap"]["detector"]["resnet18"]
    assert coverage["added_before"] <= coverage["radius_before"] * (1 + 1e-6)
    picture(tmp_path / "leak/a.png", 21)
    with pytest.raises(InputError, match=r"a.png: image of test in added \(same as"):
        extend.run(str(base), str(tmp_path / "leak"), str(tmp_path / "leaked"))
    assert not (tmp_path / "leaked").exists()


def test_changed_training_images(places, tmp_path):
    category(tmp_path / "cap", range(3))
    workdir, new = tmp_path / "base", tmp_path / "new"
    decoded = tmp_path / "decoded"
    fields = {"dataset.cache": str(decoded)}
    experiment.run(config(tmp_path / "cap", **fields), str(workdir))
    (tmp_path / "cap/train/good/00.png").unlink()
    outcome = extend.run(
        str(workdir), str(places / "more"), str(tmp_path / "fast"), mode="fast"
    )
    # Those of the base, train and test: what is not read is not decoded.
    assert len(list(decoded.iterdir())) == 2
    with pytest.raises(InputError, match="the training images of .* have changed"):
        extend.run(str(workdir), str(places / "more"), str(new))
    # Its share is that of the three images that the bank has seen, and the new ones.
    assert outcome["categories"]["cap"]["detector"]["resnet18"]["bank_patches"] == int(
        0.2 * 6 * 64
    )


def test_a_damaged_detector(places, tmp_path):
    category(tmp_path / "cap", range(3))
    experiment.run(config(tmp_path / "cap"), str(tmp_path / "base"))
    path = tmp_path / "base/cap/detector/resnet18/arrays.npz"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="resnet18/arrays.npz is damaged"):
        extend.run(str(tmp_path / "base"), str(places / "more"), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ("nowhere", {}, "images=.*nowhere does not exist"),
        ("empty", {}, "empty holds neither images nor train/good"),
        ("defects", {}, "defects has no normal image"),
        ("broken", {}, "broken.png: unreadable image"),
        ("two", {}, "two has the categories hat, shoe, but not cap"),
        ("more", {"mode": "quick"}, "mode='quick' is not known"),
        ("more", {"category": "cup"}, "category=cup is not in the run .did you mean"),
    ],
)
def test_mistakes_are_told(images, options, message, base, places, tmp_path):
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "defects/train/bent/1.png", 9)
    picture(tmp_path / "broken/broken.png", 9)
    content = (tmp_path / "broken/broken.png").read_bytes()
    (tmp_path / "broken/broken.png").write_bytes(content[: len(content) // 2])
    for name in ("hat", "shoe"):
        picture(tmp_path / f"two/{name}/train/good/1.png", 9)
    path = places / images if images == "more" else tmp_path / images
    with pytest.raises(InputError, match=message):
        extend.run(str(base), str(path), str(tmp_path / "new"), **options)
    assert not (tmp_path / "new").exists()


def test_a_base_that_is_none(places, tmp_path):
    with pytest.raises(InputError, match="config.json does not exist"):
        extend.run(str(tmp_path), str(places / "more"), str(tmp_path / "new"))


def test_an_unfinished_base(base, places, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_bytes((base / "config.json").read_bytes())
    with pytest.raises(InputError, match="no finished category cap"):
        extend.run(str(tmp_path / "base"), str(places / "more"), str(tmp_path / "new"))


def test_command(places, server, tmp_path):
    def command(*arguments):
        return server.call(*arguments, environment=runs.environment(devices=1))

    base, new = tmp_path / "base", tmp_path / "new"
    done = command(
        "main",
        f"--config=configs/patchcore_folder.py:path={places / 'some/cap'}",
        f"--workdir={base}",
        "--config.compilation_cache=",
        "--config.backbone.name=plugins.backbone",
        "--config.dataset.image_size=(32, 32)",
        "--config.batch_size=8",
        "--config.coreset.ratio=0.2",
    )
    assert done.returncode == 0, done.stderr
    where = ("--base", base, "--images", places / "more", "--mode", "fast")
    done = command("extend", *where, "--workdir", new)
    assert done.returncode == 0, done.stderr
    assert "3 images added, the bank grows from 64 to 102 patches" in done.stderr
    assert (new / "results.md").read_text() in done.stdout
    failed = command("extend", *where)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("error: --workdir is missing")


def test_radius_of_a_coreset():
    x = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    chosen, radius = memory_bank.covered_coreset(x, 40)
    assert chosen.tolist() == memory_bank.greedy_coreset(x, 40).tolist()
    gaps = x[:, None].astype(np.float64) - x[chosen][None]
    want = np.sqrt((gaps**2).sum(-1)).min(1).max()
    assert radius == pytest.approx(want, rel=1e-12)
    assert memory_bank.covering_radius(x, x[chosen]) == pytest.approx(want, rel=1e-6)
    assert memory_bank.covered_coreset(x, 500)[1] == 0
    assert memory_bank.covered_coreset(np.ones((9, 2)), 4)[1] == 0
