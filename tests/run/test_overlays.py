import dataclasses
import json
import os
import re

import numpy as np
import pytest
import trees
from PIL import Image

from jaxad import data
from jaxad.data.images import Geometry
from jaxad.detectors import threshold
from jaxad.inference import decisions, pictures
from jaxad.run import evaluate, overlays, raw_maps


def test_choose_by_hand():
    scores = np.array([0.1, 0.9, 0.5, 0.2, 0.8, 0.7])
    labels = np.array([0, 1, 1, 0, 0, 1])
    chosen = overlays.choose(scores, labels, 2)
    assert {kind: list(index) for kind, index in chosen.items()} == {
        "anomalous_highest": [1, 5],
        "anomalous_lowest": [2],
        "normal_highest": [4, 3],
        "normal_lowest": [0],
    }


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_choose_never_takes_an_image_twice(count):
    rng = np.random.default_rng(0)
    scores, labels = rng.random(7), np.array([0, 0, 0, 0, 0, 1, 1])
    index = np.concatenate(list(overlays.choose(scores, labels, count).values()))
    assert len(set(index.tolist())) == len(index) <= 4 * count


def test_choose_without_anomalous_images():
    chosen = overlays.choose(np.array([0.3, 0.1]), np.array([0, 0]), 1)
    assert list(chosen["normal_highest"]) == [0]
    assert len(chosen["anomalous_highest"]) == 0


SIZE = (30, 90)  # of the files; the detector sees 8 x 8


def split(**fields):
    def read(i):
        image = trees.encoded(Image.new("L", SIZE[::-1], 100 + i))
        mask = np.zeros(SIZE, np.uint8)
        mask[10:20, 20:50] = 255
        return image, trees.encoded(Image.fromarray(mask)) if i else None

    return data.Split(
        name="test",
        filenames=["good/0 1.png", "bad/ü.png"],
        labels=np.array([0, 1], np.int32),
        defect_types=["good", "bent"],
        has_masks=True,
        geometry=Geometry((8, 8)),
        version="1",
        read=read,
        **fields,
    )


def write(folder, images, scores, predict=None, **options):
    """Pictures of what was evaluated so."""
    ranges = np.array([[100, 100], [101, 101]], np.float32)
    found = evaluate.Evaluation(np.array(scores), ranges, {})
    options = {"count": 1} | options
    overlays.write(folder, predict or red, images, found, 4, **options)


def red(images):
    assert images.shape == (4, 8, 8, 3)  # always the compiled batch
    return images.mean((1, 2, 3)), images[..., 0]


@pytest.fixture
def rendered(monkeypatch):
    """What every picture was made of."""
    calls, render = [], pictures.render

    def noting(**options):
        calls.append(options)
        return render(**options)

    monkeypatch.setattr(pictures, "render", noting)
    return calls


def test_write_names_files_by_kind_rank_and_image(tmp_path, rendered):
    write(tmp_path, split(), [0.1, 0.2])
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == [
        "anomalous_highest_1_bad_ü.png",
        "normal_highest_1_good_0_1.png",
    ]
    anomalous, normal = rendered
    assert anomalous["title"] == "bad/ü.png" and anomalous["verdict"] is None
    assert anomalous["details"] == ["bent", "score 0.2", "anomalous, highest 1"]
    # In the image's own shape.
    for panel in (anomalous["anomaly_map"], anomalous["mask"]):
        assert panel.shape == SIZE
    assert anomalous["mask"].sum() == 10 * 30 and normal["mask"] is None
    np.testing.assert_allclose(normal["anomaly_map"], 100 / 255, rtol=1e-6)
    # One scale for both, of the lowest and the highest values of all maps.
    assert normal["scale"] == anomalous["scale"] == (100.5, 101.0, None)


def test_names_are_of_any_length_and_bytes(tmp_path):
    long = "line 3/" + "/".join(["2024-11-27 é" * 15] * 20) + "/part_0001.png"
    names = [long, os.fsdecode(b"gr\xfcn/\xff.png")]
    named = dataclasses.replace(split(), filenames=names)
    write(tmp_path, named, [0.1, 0.2])
    bytes_, cut = sorted(p.name for p in (tmp_path / "maps").iterdir())
    assert bytes_ == "anomalous_highest_1_gr_n_.png"
    assert len(os.fsencode(cut)) in (137, 138)
    assert re.fullmatch(
        r"normal_highest_1_line_3_2024-11-27_é.*_[0-9a-f]{12}_.*_part_0001.png", cut
    )
    # What differs in its middle alone is told apart.
    other = pictures.fitting(f"{long[:1000]}x{long[1000:]}".replace("/", "_"))
    assert other != pictures.fitting(long.replace("/", "_"))
    assert pictures.fitting("a" * 134 + ".png") == "a" * 134 + ".png"


def test_pictures_that_cannot_be_drawn_are_told_of_and_no_more(
    tmp_path, caplog, rendered
):
    def read(i):
        if i == 1:
            raise FileNotFoundError(2, "No such file", "bad/ü.png")
        return split().read(i)

    broken = dataclasses.replace(split(), read=read)
    write(tmp_path / "a", broken, [0.1, 0.2])
    assert [p.name for p in (tmp_path / "a/maps").iterdir()] == [
        "normal_highest_1_good_0_1.png"
    ]
    assert "1 of 2 pictures could not be drawn, the first because bad/ü.png" in (
        caplog.text
    )
    (tmp_path / "b").touch()  # no folder
    write(tmp_path / "b", split(), [0.1, 0.2])
    assert "2 of 2 pictures could not be drawn" in caplog.text
    assert "b/maps/anomalous_highest_1_bad_ü.png cannot be written" in caplog.text


def decision():
    """Images above 0.18 and pixels above 120 are anomalous."""
    scores = np.arange(20) / 100
    return decisions.Decision(
        threshold.calibrate(scores, method="split", rate=0.1),
        threshold.calibrate(scores + 119.82, method="split", rate=0.1),
    )


def test_choose_by_verdicts():
    """There are misses where something is missed, and nowhere else."""
    scores = np.array([0.1, 0.9, 0.05, 0.2, 0.8, 0.7, 0.15])
    labels = np.array([0, 1, 1, 0, 0, 1, 1])
    chosen = overlays.choose(scores, labels, 2, decision())
    assert {kind: index.tolist() for kind, index in chosen.items()} == {
        "hit": [1, 5],
        "miss": [2, 6],
        "false_alarm": [4, 3],
        "pass": [0],
    }
    chosen = overlays.choose(scores + 1, labels, 9, decision())
    assert {kind: len(index) for kind, index in chosen.items()} == {
        "hit": 4, "miss": 0, "false_alarm": 3, "pass": 0,
    }  # fmt: skip


def test_write_shows_decisions(tmp_path, rendered):
    write(tmp_path, split(), [0.1, 0.25], decision=decision())
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == [
        "hit_1_bad_ü.png", "pass_1_good_0_1.png",
    ]  # fmt: skip
    anomalous, normal = rendered
    assert (anomalous["verdict"], normal["verdict"]) == ("anomalous", "normal")
    assert anomalous["details"] == [
        "bent", "score 0.25 (threshold 0.18)", "p = 0.048", "hit 1",
    ]  # fmt: skip
    assert normal["scale"] == pytest.approx((60, 180, 120))
    write(tmp_path / "b", split(), [0.25, 0.1], decision=decision())
    assert [call["details"][-1] for call in rendered[2:]] == ["miss 1", "false alarm 1"]


def test_all_is_a_picture_of_every_image(tmp_path, rendered):
    many = split().take([0, 1, 0, 1, 0, 1])  # a batch, and a part of one
    scores = [0.1, 0.2, 0.3, 0.1, 0.2, 0.3]
    found = evaluate.Evaluation(np.array(scores), np.ones((6, 2), np.float32), {})
    overlays.write(tmp_path, red, many, found, 4, count=None, decision=decision())
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == [
        "false_alarm_1_good_0_1.png", "false_alarm_2_good_0_1.png",
        "hit_1_bad_ü.png", "hit_2_bad_ü.png", "miss_1_bad_ü.png",
        "pass_1_good_0_1.png",
    ]  # fmt: skip


def ramp(images):
    """Maps that rise from 100 to 101 from left to right."""
    rising = np.linspace(100, 101, 8, dtype=np.float32)
    return images.mean((1, 2, 3)), np.tile(rising, (len(images), 8, 1))


def test_raw_maps_are_numbers_in_the_images_shape(tmp_path):
    write(tmp_path, split(), [0.1, 0.2], ramp, count=0, raw="npz")
    assert not (tmp_path / "maps").exists()
    folder = tmp_path / "raw_maps"
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.npz")) == [
        "bad/ü.png.npz", "good/0 1.png.npz",
    ]  # fmt: skip
    with np.load(folder / "bad/ü.png.npz") as content:
        exact = content["map"]
    assert exact.shape == SIZE and exact.dtype == np.float32
    assert exact[0, 0] == 100 and exact[-1, -1] == 101
    write(tmp_path / "png", split(), [0.1, 0.2], ramp, count=0, raw="png")
    folder = tmp_path / "png/raw_maps"
    scale = json.loads((folder / "scale.json").read_text())
    assert scale == {"low": 100.0, "high": 101.0}
    with Image.open(folder / "bad/ü.png") as picture:
        assert picture.mode == "I;16"
        levels = np.asarray(picture)
    assert levels[0, 0] == 1 and levels[-1, -1] == 65535
    np.testing.assert_allclose(100 + (levels - 1.0) / 65534, exact, atol=1 / 65534)


def test_raw_maps_say_where_nobody_has_looked(tmp_path):
    ranges = np.array([[-1, 3]], np.float32)
    write = raw_maps.writer(tmp_path, "png", ranges)
    write("../a.jpg", np.array([[np.nan, -1, 1, 3]], np.float32))
    with Image.open(tmp_path / "_/a.jpg.png") as picture:
        np.testing.assert_array_equal(picture, [[0, 1, 32768, 65535]])


def test_write_shows_disturbed_images_as_they_were_scored(tmp_path, rendered):
    disturbed = evaluate.Disturbed(
        split(),
        0,
        rotation=0.0,
        translation=0.0,
        brightness=0.9,
        contrast=0.0,
        blur=0.0,
    )
    write(tmp_path, disturbed, [0.1, 0.2])
    for call in rendered:
        assert call["anomaly_map"].shape == (8, 8) == call["mask"].shape
        np.testing.assert_array_equal(call["image"][..., 0], call["anomaly_map"])
