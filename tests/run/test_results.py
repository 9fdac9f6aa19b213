import csv
import json
import os
import types

import numpy as np

from jaxad.detectors import threshold
from jaxad.run import results


def test_json_is_strict_and_undefined_is_null(tmp_path):
    path = tmp_path / "a" / "results.json"
    results.write_json(path, {"x": float("nan"), "y": [np.float32(0.5), np.int32(3)]})
    assert json.loads(path.read_text()) == {"x": None, "y": [0.5, 3]}
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_scores_keep_every_bit_of_a_float32(tmp_path):
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    split = types.SimpleNamespace(
        filenames=[f"good/ü {i}, b.png" for i in range(50)],
        labels=np.arange(50) % 2,
        defect_types=["good", "cut, deep"] * 25,
    )
    results.write_scores(tmp_path / "scores.csv", split, values)
    with open(tmp_path / "scores.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "label", "score"]
    assert rows[1][:2] == ["good/ü 1, b.png", "1"]
    back = [np.float32(row[2]) for row in rows]
    np.testing.assert_array_equal(back, values)
    results.write_defect_types(tmp_path / "defect_types.csv", split)
    with open(tmp_path / "defect_types.csv", encoding="utf-8", newline="") as file:
        kinds = list(csv.reader(file))
    assert kinds[0] == ["file", "defect_type"] and len(kinds) == 51
    assert kinds[2] == ["good/ü 1, b.png", "cut, deep"]


LATIN = os.fsdecode(b"gr\xfcn.png")


def test_names_come_back_byte_for_byte(tmp_path):
    split = types.SimpleNamespace(
        filenames=[LATIN, "ü.png"], labels=np.array([0, 1]), defect_types=["", "x"]
    )
    scores = np.array([0.25, 0.5], np.float32)
    decision = threshold.calibrate(np.arange(20) / 100, method="split", rate=0.1)
    results.write_scores(tmp_path / "scores.csv", split, scores)
    results.write_verdicts(tmp_path / "verdicts.csv", split, scores, decision)
    results.write_suspects(tmp_path / "suspects.csv", split, scores)
    results.write_defect_types(tmp_path / "defect_types.csv", split)
    for name in ("scores", "verdicts", "suspects", "defect_types"):
        written = (tmp_path / f"{name}.csv").read_bytes()
        assert b"gr\xfcn.png," in written and "ü.png,".encode() in written


def test_json_is_utf_8_whatever_the_names(tmp_path):
    results.write_json(tmp_path / "a.json", {LATIN: "ü"})
    written = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert r"gr\udcfcn.png" in written and "ü" in written
    assert json.loads(written) == {LATIN: "ü"}


def test_a_category_may_be_called_mean():
    rows = {"mean": {"image_auroc": 0.9}, "b": {"image_auroc": 0.7}}
    outcome = {"categories": rows, "mean": results.mean(rows)}
    assert [line[:14] for line in results.table(outcome).splitlines()] == [
        "| category    ",
        "| ----------- ",
        "| mean        ",
        "| b           ",
        "| mean of all ",
    ]
    assert results.table(outcome).splitlines()[2].split()[3] == "90.00"


def test_mean_is_unweighted_and_none_where_a_category_has_none():
    rows = {
        "a": {"image_auroc": 0.9, "pixel_auroc": 0.5},
        "b": {"image_auroc": 0.7, "pixel_auroc": None},
    }
    got = results.mean(rows)
    assert abs(got["image_auroc"] - 0.8) < 1e-12
    assert got["pixel_auroc"] is None


def test_table_shows_undefined_as_a_dash_and_always_the_image_metrics():
    rows = {"a": {"image_auroc": float("nan"), "pixel_auroc": None}}
    outcome = results.finite({"categories": rows, "mean": results.mean(rows)})
    assert results.table(outcome).splitlines()[-1] == (
        "| a        |           - |        - |            - |"
    )


def test_table_by_hand():
    rows = {"mono": {"image_auroc": 0.95712, "pixel_auroc": None}}
    outcome = {"categories": rows, "mean": results.mean(rows)}
    assert results.table(outcome) == (
        "| category | image_auroc | image_ap | image_f1_max |\n"
        "| -------- | ----------: | -------: | -----------: |\n"
        "| mono     |       95.71 |        - |            - |\n"
    )
    rows["poly"] = {"image_auroc": 0.85, "pixel_auroc": None}
    table = results.table({"categories": rows, "mean": results.mean(rows)})
    assert table.splitlines()[-1] == (
        "| mean     |       90.36 |        - |            - |"
    )
