"""Finished runs, written as a run writes them and without one."""

import json
import types

import numpy as np

from jaxad import config as config_lib
from jaxad import metrics
from jaxad.data.images import Geometry
from jaxad.detectors import threshold
from jaxad.inference import decisions
from jaxad.inference.thumbnails import Thumbnails
from jaxad.run import results

NORMAL, ANOMALOUS, CALIBRATION = 12, 10, 40
_GEOMETRY = Geometry((16, 16))


def split(names=None, normal=NORMAL, anomalous=ANOMALOUS):
    """Test images of a category: good ones, and two kinds of defects."""
    kinds = ["good"] * normal + [("cut", "dent, deep")[i % 2] for i in range(anomalous)]
    files = names or [f"test/{kind}/{i:02}.png" for i, kind in enumerate(kinds)]
    labels = np.array([0] * normal + [1] * anomalous, np.int32)
    return types.SimpleNamespace(filenames=files, labels=labels, defect_types=kinds)


def scores_of(images, seed=0, shift=2.0):
    """Around 10, anomalous ones by about `shift` more."""
    noise = np.random.default_rng(seed).normal(size=len(images.labels))
    return (10 + 0.5 * noise + shift * images.labels).astype(np.float32)


def thumbnails(images, scores, seed=0):
    found, random = Thumbnails(), np.random.default_rng(seed)
    for i, score in enumerate(scores):
        mask = np.zeros((16, 16), np.uint8)
        mask[4:9, 5:12] = images.labels[i]
        anomaly_map = 0.5 * score + 0.5 * score * mask
        found.add(i, random.random((16, 16, 3)), anomaly_map, mask, _GEOMETRY, (40, 80))
    return found


def row(images, scores, decision=None):
    """What results say of a category."""
    both = len(set(images.labels.tolist())) == 2
    best = metrics.f1_max(scores, images.labels) if both else (None, None)
    return {
        **dict.fromkeys(results.COLUMNS),
        "image_auroc": metrics.auroc(scores, images.labels) if both else None,
        "image_f1_max": best[0],
        "image_f1_threshold": best[1],
        "train_normal": CALIBRATION,
        "images": {"train": "own/1", "test": "own/2/Geometry(size=(0, 0), "
                   "policy='resize', resize_to=0)"},
        "key": "0123",
        "test_normal": int((images.labels == 0).sum()),
        "test_anomalous": int((images.labels == 1).sum()),
        "detector": {"small": {"bank_patches": 12, "radius": 1.5}},
        "threshold": decision and decision.results(scores, images.labels),
    }  # fmt: skip


def run(
    folder, names=("cap",), *, images=None, draw=0, shift=2.0, decided=True, **fields
):
    """A finished run in a folder, and its scores by category.

    Args:
      folder: made for it.
      names: of the categories.
      images: of each, of `split`.
      draw, shift: of the scores.
      decided: whether there is a threshold.
      fields: of the config that are not at their default.
    """
    images = images or split()
    config = config_lib.base()
    config.update_from_flattened_dict(fields)
    rows, found = {}, {}
    for number, name in enumerate(names):
        place = folder / name
        scores = found[name] = scores_of(images, draw + number, shift)
        decision = None
        if decided:
            calibration = 10 + 0.5 * np.random.default_rng(99).normal(size=CALIBRATION)
            calibration = calibration.astype(np.float32)
            decision = decisions.Decision(
                threshold.calibrate(calibration, method="split", rate=0.05),
                threshold.calibrate(calibration, method="split", rate=0.05),
            )
            train = types.SimpleNamespace(
                filenames=[f"train/{i}.png" for i in range(CALIBRATION)]
            )
            results.write_suspects(place / "suspects.csv", train, calibration)
            worst = split(normal=3, anomalous=0)
            thumbnails(worst, calibration[:3]).save(place / "suspects.npz")
        results.write_scores(place / "scores.csv", images, scores)
        results.write_defect_types(place / "defect_types.csv", images)
        thumbnails(images, scores, draw).save(place / "thumbnails.npz")
        rows[name] = row(images, scores, decision)
    outcome = {
        "dataset": config.dataset.name or "own",
        "method": config.method.name,
        "seed": config.seed,
        "texture": None,
        "backbones": [{"name": "small", "weights": "random", "sha256": "ab" * 32}],
        "metrics": [],
        "categories": rows,
        "mean": results.mean(rows),
        "seconds": {"fit": 1.25, "total": 2.5},
        "versions": {"python": "3.12", "jaxad": "0.1.0", "device": "1 x cpu"},
    }
    results.write_json(folder / "config.json", config.to_dict())
    results.write_json(folder / "results.json", outcome)
    return found


def curves(folder, count=30):
    """A training stage, with a step that has no loss."""
    folder.mkdir(parents=True)
    lines = [{"step": 10 * i, "loss": 1 / (1 + i), "rate": None} for i in range(count)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def study(folder, *rows):
    """Says that a folder is a study of runs that lie in it."""
    written = {"rows": {row: row for row in rows}, "baseline": rows[0]}
    results.write_json(folder / "study.json", written)
