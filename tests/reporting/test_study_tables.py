"""A study's numbers, tables and charts, on results that are written by hand."""

import csv
import dataclasses

import made
import numpy as np
import pytest

from jaxad import resampled
from jaxad.reporting import (
    pages,
    study_charts,
    study_images,
    study_page,
    study_results,
    study_tables,
)
from jaxad.run import results
from tfds_builders.published import GROUPS


def write(folder, auroc, *, ratios=(0.1, 0.2, 0.4), baseline="r0", names=None):
    """A study with rows r0, r1, ...

    Args:
      auroc: [rows, seeds, categories, banks].
      names: of the categories; c0, c1, ... by default.
    """
    auroc = np.asarray(auroc)
    rows = [f"r{i}" for i in range(len(auroc))]
    for row, ratio, seeds in zip(rows, ratios, auroc, strict=False):
        for seed, categories in enumerate(seeds):
            place, found = folder / row / str(seed), {}
            for j, banks in enumerate(categories.tolist()):
                name = names[j] if names else f"c{j}"
                found[name] = {"image_auroc": banks[0]}
                if len(banks) > 1:
                    found[name]["banks"] = {"metrics": {"image_auroc": banks}}
            outcome = {"categories": found, "seconds": {"total": 1.0}}
            results.write_json(place / "results.json", outcome)
            results.write_json(place / "config.json", {"coreset": {"ratio": ratio}})
    written = {"rows": {row: row for row in rows}, "baseline": baseline}
    results.write_json(folder / "study.json", written)
    return study_results.read(folder)


# Two rows, two seeds, two categories, two banks.
TWO = [
    [[[0.80, 0.82], [0.90, 0.92]], [[0.84, 0.86], [0.94, 0.96]]],
    [[[0.83, 0.85], [0.90, 0.92]], [[0.86, 0.88], [0.97, 0.99]]],
]


def test_means_over_banks_categories_and_seeds(tmp_path):
    study = write(tmp_path, TWO)
    one = study_results.cell(study, "r0", "image_auroc")
    # Seeds: 0.86 and 0.90.
    assert one.mean.value == pytest.approx(0.88) and one.unit == "seed"
    assert one.mean.deviation == pytest.approx(0.04 / 2**0.5)
    # Banks of a seed, over categories: 0.85 and 0.87.
    assert one.within == pytest.approx(0.02 / 2**0.5)
    alone = study_results.cell(study, "r0", "image_auroc", {"c1"})
    assert alone.mean.value == pytest.approx(0.93)


def test_pairs_of_runs(tmp_path):
    study = write(tmp_path, TWO)
    found = study_results.against(study, "image_auroc", "r0", "r1")
    # 0.015 with the first seed, 0.025 with the second.
    assert (found.unit, found.value) == ("seed", pytest.approx(0.02))
    half = 12.706204736432095 * 0.005  # Student's t with one degree
    assert found.difference.low == pytest.approx(0.02 - half)
    assert found.signed_rank.too_few()
    assert study_results.best(study, "image_auroc") is None


def test_draws_are_averaged_within_a_seed_and_rows_have_their_own_baseline(tmp_path):
    # Two seeds of pre-training, two draws each.
    found = {
        "moco": [[0.60, 0.70], [0.62, 0.72]],
        "moco + SPD": [[0.65, 0.75], [0.63, 0.77]],
        "simclr": [[0.50, 0.60], [0.52, 0.62]],
        "simclr + SPD": [[0.51, 0.61], [0.52, 0.62]],
    }
    for row, seeds in found.items():
        for seed, draws in enumerate(seeds):
            for draw, value in enumerate(draws):
                place = tmp_path / row / f"{seed}.{draw}"
                outcome = {"categories": {"c": {"image_auroc": value}}}
                results.write_json(place / "results.json", outcome)
                results.write_json(place / "config.json", {})
                scored(place / "c", [0.1, 0.2, 0.5, 0.3, 0.6, 0.7], 0.5)
    baselines = {"moco + SPD": "moco", "simclr + SPD": "simclr"}
    written = {"rows": {row: row for row in found}, "baselines": baselines}
    results.write_json(tmp_path / "study.json", written)
    study = study_results.read(tmp_path)
    one = study_results.cell(study, "moco", "image_auroc")
    # Seeds 0.65 and 0.67; draws of either 0.1 apart.
    assert (one.unit, one.mean.count) == ("seed", 2)
    assert one.mean.value == pytest.approx(0.66)
    assert one.within == pytest.approx(0.1 / 2**0.5)
    tests = study_images.tests(study)
    text = study_tables.markdown(study, tests)
    assert "± draws |" in text and "## Against each row's own baseline" in text
    # 0.05 with the first seed, 0.03 with the second; 0.01 and 0.
    assert "| moco + SPD | moco | image_auroc | +4.00 [-8.71, +16.71] | 2 se" in text
    assert "| simclr + SPD | simclr | image_auroc | +0.50 [-5.85, +6.85] | 2 " in text
    assert "\n| moco | " not in text.split("## Against")[1].split("## Ranks")[0]
    assert {(x.row, x.baseline) for x in tests} == set(baselines.items())
    assert {x.repeat for x in tests} == {(s, d) for s in (0, 1) for d in (0, 1)}
    study_results.write_values(study)
    lines = (tmp_path / "study.csv").read_text().splitlines()
    assert lines[2] == "moco,0,c,,1,0,image_auroc,0.7"


def test_of_one_seed_banks_are_what_varies(tmp_path):
    study = write(tmp_path, np.array(TWO)[:, :1])
    found = study_results.against(study, "image_auroc", "r0", "r1")
    assert (found.unit, found.signed_rank.count) == ("bank", 2)
    one = study_results.cell(study, "r0", "image_auroc")
    assert (one.unit, one.mean.count) == ("bank", 2)


def test_of_one_bank_categories_are(tmp_path):
    study = write(tmp_path, np.array(TWO)[:, :1, :, :1])
    found = study_results.against(study, "image_auroc", "r0", "r1")
    # 0.03 and 0: Student's with one degree.
    assert (found.unit, found.value) == ("category", pytest.approx(0.015))
    one = study_results.cell(study, "r0", "image_auroc")
    assert (one.unit, one.mean.deviation, one.within) == (None, None, None)
    single = write(tmp_path / "single", np.array(TWO)[:, :1, :1, :1])
    assert study_results.against(single, "image_auroc", "r0", "r1").difference is None
    text = study_tables.markdown(single, [])
    assert "| r1 | image_auroc | +3.00 | one pair | - | - |" in text
    assert "image_auroc: 2 rows on 1 data sets are too few to rank" in text


def test_the_best_is_bold_where_the_test_says_so(tmp_path):
    seeds = np.array([0.80, 0.81, 0.79, 0.80])
    noise = np.array([0.001, -0.001, 0.002, 0.0])
    near, far = seeds + 0.001 + 3 * noise, seeds + 0.05 + noise
    study = write(tmp_path / "sure", np.array([seeds, near, far])[..., None, None])
    assert study_results.best(study, "image_auroc") == "r2"
    text = study_tables.latex(study)
    assert r"r2 & \textbf{85.05 $\pm$ 0.70} \\" in text
    assert text.count("textbf") == 1 and r"image\_auroc" in text
    unsure = write(tmp_path / "not", np.array([seeds, near])[..., None, None])
    assert "textbf" not in study_tables.latex(unsure)


def test_tables(tmp_path):
    study = write(tmp_path, TWO)
    (tmp_path / "r1" / "2.failed.txt").write_text("no | memory\n\nTraceback")
    study = study_results.read(tmp_path)
    so_far = study_tables.markdown(study).splitlines()
    assert so_far[2] == "| row | runs | image_auroc | ± banks |"
    assert so_far[4] == "| r0 | 2 | 88.00 ± 2.83 [62.59, 113.41] | 1.41 |"
    assert "* r1, seed 2: no | memory" in so_far
    assert not any(line.startswith("## Against") for line in so_far)
    assert "| r1 | 85.50 ± 2.12 | 94.50 ± 4.95 | 90.00 ± 3.54 |" in so_far
    study_tables.write(study, tests=[])
    text = (tmp_path / "study.md").read_text()
    assert "| r1 | image_auroc | +2.00 [-4.35, +8.35] | 2 seeds | 0.16 | 0.5 " in text
    with open(tmp_path / "study.csv") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + 2 * 2 * 2 * 2
    assert rows[1] == ["r0", "0", "c0", "", "", "0", "image_auroc", "0.8"]
    assert rows[-1] == ["r1", "1", "c1", "", "", "1", "image_auroc", "0.99"]


def test_objects_and_textures_have_means_of_their_own(tmp_path):
    objects, textures = GROUPS["objects"], GROUPS["textures"]
    assert (len(objects), len(textures)) == (10, 5)
    # Objects 0.80 to 0.89, textures 0.95 to 0.99; the second seed is 0.01 higher.
    first = np.concatenate([np.arange(80, 90), np.arange(95, 100)]) / 100
    auroc = np.array([[first, first + 0.01]])[..., None]
    study = write(tmp_path, auroc, names=objects + textures)
    text = study_tables.markdown(study)
    assert "| zipper | carpet | grid | leather | tile | wood | objects | text" in text
    assert "| 85.00 ± 0.71 | 97.50 ± 0.71 | 89.17 ± 0.71 |" in text
    assert "wood & objects & textures & mean" in study_tables.latex(study)
    heat = study_charts.heat(study, "image_auroc")
    assert [cell["text"] for cell in heat["cells"][-3:]] == ["85.00", "97.50", "89.17"]
    study_results.write_values(study)
    with open(tmp_path / "study.csv") as file:
        of = {row["category"]: row["group"] for row in csv.DictReader(file)}
    assert of["bottle"] == "objects" and of["wood"] == "textures"
    # A category is missing; a group is all that there is.
    some = write(tmp_path / "some", auroc[:, :, 1:], names=objects[1:] + textures)
    assert [*some.groups()] == ["textures"]
    assert not write(tmp_path / "one", auroc[:, :, 10:], names=textures).groups()


def test_ranks_are_over_categories_or_of_one_over_seeds(tmp_path):
    three = np.random.default_rng(0).random((3, 2, 4, 1))
    rows, unit, found = study_results.ranking(write(tmp_path, three), "image_auroc")
    means = three.mean((1, 3))
    wanted = 3 - np.argsort(np.argsort(means, 0), 0).mean(1)
    assert (rows, unit, found.count) == (["r0", "r1", "r2"], "category", 4)
    np.testing.assert_allclose(found.ranks, wanted)
    told = study_tables.markdown(write(tmp_path / "two", three[:, :, :2]), [])
    assert "over 2 categories: " in told and "Too few: no ranks could lie" in told
    ranks = told.split("## Ranks")[1]
    assert ranks.count("; r") == 2 and "Iman-Davenport" not in ranks
    one = write(tmp_path / "one", three[:, :, :1])
    assert study_results.ranking(one, "image_auroc")[1] == "seed"


def scored(folder, scores, shift):
    labels = [0, 0, 0, 1, 1, 1]
    lines = [f"{i}.png,{labels[i]},{score}" for i, score in enumerate(scores)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.csv").write_text("\n".join(["file,label,score", *lines]) + "\n")
    counts = resampled.PixelCounts()
    for i, label in enumerate(labels):
        mask = np.zeros((4, 4), bool)
        mask[:2, :2] = label
        anomaly_map = np.linspace(1, 2, 16).reshape(4, 4) + shift * mask
        counts.add(i, anomaly_map, mask)
    counts.save(folder / "pixel_counts.npz")


def test_tests_on_the_same_images(tmp_path):
    study = write(tmp_path, np.array(TWO)[:, :1, :1, :1])
    scored(tmp_path / "r0/0/c0", [0.1, 0.2, 0.5, 0.3, 0.6, 0.7], 0.5)
    scored(tmp_path / "r1/0/c0", [0.1, 0.2, 0.3, 0.4, 0.6, 0.7], 2.0)
    found = {test.metric: test for test in study_images.tests(study)}
    # Of nine pairs of images one is the wrong way round in r0, none in r1.
    auroc = found["image_auroc"]
    assert (auroc.kind, auroc.difference.value) == ("DeLong", pytest.approx(1 / 9))
    pixels = found["pixel_auroc"]
    assert pixels.kind == "paired bootstrap" and pixels.difference.low > 0
    assert pixels.difference.p_value == pytest.approx(2 / 1001)
    assert set(found) == {*results.COLUMNS}
    study_tables.write(study, tests=list(found.values()))
    with open(tmp_path / "study_tests.csv") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert rows["image_auroc"]["test"] == "DeLong"
    assert float(rows["image_auroc"]["difference"]) == pytest.approx(1 / 9)
    text = (tmp_path / "study.md").read_text()
    assert "| r1 | c0 | 0 | image_auroc | +11.11 [" in text
    # VisA's metrics, of which one is no function of how often an image is drawn.
    asked = [*study.metrics, "image_aupr", "visa_pixel_aupr"]
    study = dataclasses.replace(study, metrics=asked)
    tests = study_images.tests(study)
    assert {test.metric for test in tests} - found.keys() == {"image_aupr"}
    assert "No such test: visa_pixel_aupr." in study_tables.markdown(study, tests)


def test_a_folder_that_has_lost_its_config_is_no_run(tmp_path):
    write(tmp_path, TWO)
    (tmp_path / "r1/0/config.json").unlink()
    assert [*study_results.read(tmp_path).runs["r1"]] == [(1, None)]


def test_the_field_that_is_swept(tmp_path):
    three = np.random.default_rng(0).random((3, 2, 2, 1))
    study = write(tmp_path, three)
    field = study_charts.swept(study)
    assert (field.field, field.values) == ("coreset.ratio", [0.1, 0.2, 0.4])
    assert field.series == {"": {0.1: "r0", 0.2: "r1", 0.4: "r2"}}
    drawn = study_charts.lines(study, "image_auroc", field)
    assert [text for _, text in drawn["ticks"]] == ["0.1", "0.2", "0.4"]
    axes, mean = drawn["axes"], 100 * float(three[1].mean())
    assert drawn["series"][0]["dots"][1] == (axes.x(1), axes.y(mean))
    kinds = {kind for kind, _, _ in study_page.charts(study)}
    assert kinds == {"lines", "dots", "heat"}  # two categories are too few for ranks
    four = write(tmp_path / "four", np.repeat(three, 2, axis=2))
    drawn = study_charts.critical(four, "image_auroc")
    assert {one["name"] for one in drawn["names"]} == {"r0", "r1", "r2"}
    heat = study_charts.heat(study, "image_auroc")
    best = three[:, :, 0, 0].mean(1).argmax()
    (full,) = [c for c in heat["cells"][:3] if c["share"] == 1.0]
    assert full["y"] == 30 + 24 * best
    two = write(tmp_path / "two", three[:2])
    assert study_charts.swept(two) is None


def test_what_goes_with_the_swept_field_is_no_series_of_its_own():
    dim, head = [1, 2, 3, 2, 3], ["f", "f", "f", "g", "g"]
    for target, follows in (
        (["4", "5", "6", "5", "6"], True),
        (["4", "5", "6", "7", "7"], True),  # one wherever the head is g
        (["4", "5", "5", "5", "6"], False),  # one for the numbers 2 and 3 of f
    ):
        assert study_charts._follows({"t": target, "h": head}, "t", dim) is follows
    # Two rows have the number 2, one of each head.
    assert not study_charts._follows({"h": head}, "h", dim)


def test_what_goes_with_all_else_leaves_the_others_their_series(tmp_path):
    study = write(tmp_path, np.zeros((6, 1, 1, 1)), ratios=range(6))
    for i, row in enumerate(study.rows):  # every target is another row's
        fields = {"dim": i % 3, "head": "fg"[i // 3], "target": f"{i}th"}
        results.write_json(tmp_path / row / "0" / "config.json", fields)
    found = study_charts.swept(study)
    assert found.field == "dim" and found.series == {
        "head=f": {0: "r0", 1: "r1", 2: "r2"},
        "head=g": {0: "r3", 1: "r4", 2: "r5"},
    }


def test_a_run_of_several_banks_has_their_mean(tmp_path):
    made.run(tmp_path)
    outcome = results.read_json(tmp_path / "results.json")
    outcome["banks"] = {
        "mean": {"image_auroc": 0.9},
        "deviation": {"image_auroc": 0.01},
    }
    results.write_json(tmp_path / "results.json", outcome)
    page = pages.write(tmp_path).read_text()
    assert "mean of all banks" in page and "<td>90.00 ± 1.00</td>" in page


def test_probes_have_differences_but_no_ranks_and_no_images(tmp_path):
    for row, values in (("r0", (0.1, 0.2, 0.4)), ("r1", (0.2, 0.5, 0.6))):
        for seed, value in enumerate(values):
            place = tmp_path / row / str(seed)
            probes = {"cosine_to_negative": value}
            outcome = {"probes": {"after": probes}, "mean": probes}
            results.write_json(place / "results.json", outcome)
            results.write_json(place / "config.json", {})
    written = {"rows": {row: row for row in ("r0", "r1")}, "baseline": "r0"}
    results.write_json(tmp_path / "study.json", written)
    study = study_results.read(tmp_path)
    text = study_tables.markdown(study, study_images.tests(study))
    # 0.1, 0.3 and 0.2 more: 0.2, less and plus 4.3027 x 0.1 / sqrt(3).
    assert "| r1 | cosine_to_negative | +0.2000 [-0.0484, +0.4484] | 3 seeds |" in text
    assert "## Ranks" not in text and "same test images" not in text
    assert "Bold" not in study_tables.latex(study)
