"""Runs side by side: what is paired, what is not, and who changed sides."""

import json

import made
import numpy as np
import pytest
from test_pages import Page

from jaxad import metrics, statistics
from jaxad.reporting import comparing, pages, reading
from jaxad.resampled import PixelCounts


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on the same images, at other sizes; and their scores."""
    root = tmp_path_factory.mktemp("runs")
    size = {"dataset.image_size": (64, 64)}
    found = [
        made.run(root / "a/0", shift=0.9),
        made.run(root / "b/0", draw=1, shift=1.4, batch_size=8, **size),
    ]
    # As a run has it that sees images at that size.
    path = root / "b/0/results.json"
    path.write_text(path.read_text().replace("size=(0, 0)", "size=(64, 64)"))
    return root, [one["cap"] for one in found]


def changed(runs, name, edit):
    """The second run, with its results changed."""
    root, _ = runs
    path = root / "b/0/results.json"
    before = path.read_text()
    content = json.loads(before)
    edit(content["categories"])
    path.write_text(json.dumps(content))
    try:
        one, other = reading.run(root / "a/0"), reading.run(root / "b/0")
        return comparing.why_apart(one, other, name, "AB")
    finally:
        path.write_text(before)


def test_a_size_makes_no_other_images(runs):
    assert changed(runs, "cap", lambda rows: None) is None


def test_other_images_are_told_of(runs):
    def content(rows):
        rows["cap"]["images"]["test"] = rows["cap"]["images"]["test"].replace("2", "3")

    assert changed(runs, "cap", content) == "A and B have other test images"
    assert changed(runs, "nut", lambda rows: None) == "A has no category nut"


def test_other_files_and_labels_are_told_of(runs, tmp_path):
    root, _ = runs
    one = reading.run(root / "a/0")
    made.run(tmp_path / "few", images=made.split(normal=5))
    few = reading.run(tmp_path / "few")
    apart = comparing.why_apart(one, few, "cap", "AB")
    assert apart == "A has 22 test images, B 15 others"
    labels = made.split()
    labels.labels[0] = 1
    made.run(tmp_path / "labels", images=labels)
    other = reading.run(tmp_path / "labels")
    assert "other labels" in comparing.why_apart(one, other, "cap", "AB")


def test_who_changed_sides(runs):
    root, scores = runs
    both = [reading.run(root / name).categories[0] for name in ("a/0", "b/0")]
    found = comparing.compare(*both)
    labels, value = made.split().labels, both[0].threshold.value
    assert value == both[1].threshold.value
    right = [(one > value) == (labels == 1) for one in scores]
    assert {(side.image, side.gained) for side in found.sides} == {
        (i, bool(right[1][i])) for i in range(22) if right[0][i] != right[1][i]
    }
    gained = [side.gained for side in found.sides]
    assert gained == sorted(gained) and True in gained
    for side in found.sides:
        assert side.anomalous == (labels[side.image] == 1)
    moved = [abs(scores[1][s.image] - scores[0][s.image]) for s in found.sides]
    kept = [m for m, s in zip(moved, found.sides, strict=True) if s.gained]
    assert kept == sorted(kept, reverse=True)
    assert found.auroc == statistics.auroc_difference(*scores, labels)
    assert found.average_precision.value == pytest.approx(
        metrics.average_precision(scores[1], labels)
        - metrics.average_precision(scores[0], labels)
    )
    anomalous = labels == 1
    assert found.anomalous_p_value == statistics.verdicts_p_value(
        right[0][anomalous], right[1][anomalous]
    )


def test_a_page_of_two_runs(runs, tmp_path):
    root, scores = runs
    folders = [root / "a/0", root / "b/0"]
    page = Page(pages.write_comparison(folders, tmp_path / "c.html"))
    labels = made.split().labels
    assert "A a/0" in page.text and "B b/0" in page.text  # told apart
    found = statistics.auroc_difference(*scores, labels)
    cells = page.row("cap")
    assert cells[1] == "A"
    rows = [[" ".join(c.split()) for c in row] for row in page.rows]
    (row,) = (row for row in rows if len(row) == 7 and row[1] == "B")
    assert row[2].startswith(
        f"{100 * found.value:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}] p "
    )
    value = reading.run(root / "a/0").categories[0].threshold.value
    misses = [int((one[labels == 1] <= value).sum()) for one in scores]
    assert row[5].startswith(f"{misses[0]} → {misses[1]} of 10 p = ")
    sides = int(((scores[0] > value) != (scores[1] > value)).sum())
    assert row[6] == str(sides) and len(page.having("pair")) == sides
    assert page.row("batch_size")[1:] == ["16", "8"]
    lines = [a for a in page.having("curve")]
    assert len(lines) == 4 and len(page.having("band")) == 2


def test_pixel_metrics_are_compared_where_there_are_masks(tmp_path):
    """The second run's maps are right, the first one's are upside down."""
    images = made.split()
    for name, turned in (("a", -1), ("b", 1)):
        made.run(tmp_path / name, images=images, draw=ord(name))
        counts, random = PixelCounts(), np.random.default_rng(0)
        for i, label in enumerate(images.labels):
            mask = np.zeros((6, 6), np.uint8)
            mask[:2, :3] = label
            counts.add(i, turned * mask.astype(float) + random.random((6, 6)) / 4, mask)
        counts.save(tmp_path / name / "cap/pixel_counts.npz")
    one, other = (reading.run(tmp_path / name).categories[0] for name in "ab")
    found = comparing.compare(one, other).pixels
    assert found["pixel_auroc"].value == found["pixel_auroc"].low == 1
    assert found["pixel_auroc"].p_value < 0.01
    assert found["aupro_0.3"].value == pytest.approx(1)
    folders = [tmp_path / "a", tmp_path / "b"]
    page = Page(pages.write_comparison(folders, tmp_path / "c.html"))
    assert "and pixel metrics with the paired bootstrap" in page.text
    rows = [[" ".join(c.split()) for c in row] for row in page.rows]
    (row,) = (row for row in rows if len(row) == 10 and row[1] == "B")
    assert row[4].startswith("+100.00 [+100.00, +100.00] p ")


def test_runs_on_other_data_stand_side_by_side(runs, tmp_path):
    root, _ = runs
    made.run(tmp_path / "other", ("cap", "nut"), images=made.split(normal=4))
    made.run(tmp_path / "undecided", decided=False)
    folders = [root / "a/0", tmp_path / "other", tmp_path / "undecided"]
    page = Page(pages.write_comparison(folders, tmp_path / "c.html"))
    assert "not compared image by image: A has 22 test images, B 14 others" in page.text
    assert "A has no category nut" in page.text
    assert "a run has no threshold" in page.text
    assert "changed sides:" not in page.text and page.having("pair") == []
    # Of the undecided run the scores are paired all the same.
    rows = [[" ".join(c.split()) for c in row] for row in page.rows]
    (row,) = (row for row in rows if row[:2] == ["cap", "C"] and len(row) == 5)
    assert row[2].startswith("+0.") or row[2].startswith(("+", "-"))


def test_the_same_run_twice_differs_in_nothing(tmp_path):
    made.run(tmp_path / "a")
    made.run(tmp_path / "b")
    page = Page(
        pages.write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "c.html")
    )
    assert "+0.00 [+0.00, +0.00] p = 1" in page.text
    assert "All fields are the same." in page.text
    assert "None: both call the same images anomalous." in page.text


def test_few_images_are_compared_without_tests(tmp_path):
    for name in "ab":
        made.run(tmp_path / name, images=made.split(anomalous=1), draw=ord(name))
    one, other = (reading.run(tmp_path / name).categories[0] for name in "ab")
    found = comparing.compare(one, other)
    assert found.auroc is None and found.average_precision is None
    assert isinstance(found.sides, list) and np.isfinite(found.normal_p_value)
    page = Page(
        pages.write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "c.html")
    )
    assert page.having("curve") == []
