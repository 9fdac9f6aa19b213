"""Heads of several categories and seeds in one program, from configs to results."""

import csv
import json

import numpy as np
import pytest
import runs

from jaxad.errors import InputError
from jaxad.methods import reconpatch
from jaxad.run import experiment
from jaxad.training import loop

pytestmark = pytest.mark.usefixtures("one_device")

SEEDS = (0, 3)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Of two categories."""
    root = tmp_path_factory.mktemp("together")
    for name in ("cap", "hat"):
        runs.category(root / name, train=4, test=2)
    return root


def config(images, category="cap,hat", **changed):
    fields = {"dataset.category": category, "threshold.calibration": "none"}
    made = runs.config(images, **fields, batch_size=2)
    made.method = reconpatch.fields()
    made.method.update(dim=8, learning_rate=1e-3, epochs=2, batch_size=32)
    made.train.log_every = 2
    made.update_from_flattened_dict(changed)
    return made


def all_runs(folder, images):
    vectorize = {"method.vectorize": 3}
    return [
        (config(images, seed=seed, **vectorize), str(folder / str(seed)))
        for seed in SEEDS
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, images):
    """Two seeds of two categories: folder, outcomes, how many heads were together."""
    folder, sizes, plain = tmp_path_factory.mktemp("runs"), [], loop.train_together

    def counted(stage, runs, **options):
        sizes.append(len(runs))
        return plain(stage, runs, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_together", counted)
        return folder, experiment.run_together(all_runs(folder, images)), sizes


def files(folder):
    """Of a category, the parts of a checkpoint aside."""
    paths = [p.relative_to(folder) for p in folder.rglob("*")]
    return {str(p) for p in paths if len(p.parts) < 3}


def scores(path):
    with path.open(newline="") as file:
        return [float(row["score"]) for row in csv.DictReader(file)]


def curve(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_runs_together_are_what_each_is_alone(tmp_path, images, finished):
    folder, outcomes, sizes = finished
    assert sizes == [3]  # the fourth is left alone
    assert [outcome["seed"] for outcome in outcomes] == list(SEEDS)
    want = experiment.run(config(images, "cap"), str(tmp_path))
    assert outcomes[0]["seconds"].keys() == want["seconds"].keys()
    ours, theirs = folder / "0/cap", tmp_path / "cap"
    assert files(ours) == files(theirs)
    seconds = json.loads((ours / "result.json").read_text())["seconds"]
    assert seconds["total"] >= sum(seconds[p] for p in ("reconpatch", "score"))
    np.testing.assert_allclose(
        scores(ours / "scores.csv"), scores(theirs / "scores.csv"), rtol=1e-4
    )
    got, right = (curve(place / "reconpatch/metrics.jsonl") for place in (ours, theirs))
    assert [line["step"] for line in got] == [line["step"] for line in right]
    for a, b in zip(got, right, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)


def test_a_finished_head_is_not_trained_again(images, finished, monkeypatch):
    """A run that was stopped before it scored its second category."""
    folder, outcomes, _ = finished
    for name in ("results.json", "hat/result.json", "hat/scores.csv"):
        (folder / "0" / name).unlink()
    before = (folder / "0/cap/scores.csv").stat().st_mtime_ns

    def never(*arguments, **options):
        raise AssertionError("heads were trained again")

    monkeypatch.setattr(loop, "train_together", never)
    monkeypatch.setattr(loop, "train", never)
    again = experiment.run_together(all_runs(folder, images))
    assert again[0]["categories"] == outcomes[0]["categories"]
    assert again[1] == outcomes[1]
    assert (folder / "0/cap/scores.csv").stat().st_mtime_ns == before


def test_runs_that_train_together_differ_in_their_seed_alone(tmp_path, images):
    first, second = config(images), config(images, seed=1, **{"method.dim": 4})
    with pytest.raises(InputError, match=r"not in config.method.dim$"):
        experiment.run_together([(first, str(tmp_path / "a")), (second, "b")])
    assert not any(tmp_path.iterdir())
