import dataclasses
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
from jaxad.run import evaluate, overlays


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


def predict(images):
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
    overlays.write(tmp_path, predict, split(), np.array([0.1, 0.2]), 1, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
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
    # One scale for both: from the median to the maximum.
    assert normal["scale"] == anomalous["scale"]
    assert normal["scale"][:2] == pytest.approx((100.5 / 255, 101 / 255), rel=1e-6)


def test_names_are_of_any_length_and_bytes(tmp_path):
    long = "line 3/" + "/".join(["2024-11-27 é" * 15] * 20) + "/part_0001.png"
    names = [long, os.fsdecode(b"gr\xfcn/\xff.png")]
    named = dataclasses.replace(split(), filenames=names)
    overlays.write(tmp_path, predict, named, np.array([0.1, 0.2]), 1, 4)
    bytes_, cut = sorted(p.name for p in tmp_path.iterdir())
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
    overlays.write(tmp_path / "a", predict, broken, np.array([0.1, 0.2]), 1, 4)
    assert [p.name for p in (tmp_path / "a").iterdir()] == [
        "normal_highest_1_good_0_1.png"
    ]
    assert "1 of 2 pictures could not be drawn, the first because bad/ü.png" in (
        caplog.text
    )
    (tmp_path / "b").touch()  # no folder
    overlays.write(tmp_path / "b", predict, split(), np.array([0.1, 0.2]), 1, 4)
    assert "2 of 2 pictures could not be drawn" in caplog.text
    assert "b/anomalous_highest_1_bad_ü.png cannot be written" in caplog.text


def test_write_shows_decisions(tmp_path, rendered):
    scores = np.arange(20) / 100
    decision = decisions.Decision(
        threshold.calibrate(scores, method="split", rate=0.1),
        threshold.calibrate(scores, method="split", rate=0.1),
    )
    overlays.write(
        tmp_path, predict, split(), np.array([0.1, 0.25]), 1, 4, decision=decision
    )
    anomalous, normal = rendered
    assert (anomalous["verdict"], normal["verdict"]) == ("anomalous", "normal")
    assert anomalous["details"] == [
        "bent", "score 0.25 (threshold 0.18)", "p = 0.048", "anomalous, highest 1",
    ]  # fmt: skip
    assert normal["scale"] == pytest.approx((0.09, 0.27, 0.18))


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
    overlays.write(tmp_path, predict, disturbed, np.array([0.1, 0.2]), 1, 4)
    for call in rendered:
        assert call["anomaly_map"].shape == (8, 8) == call["mask"].shape
        np.testing.assert_array_equal(call["image"][..., 0], call["anomaly_map"])
