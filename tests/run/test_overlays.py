import numpy as np
import pytest
from PIL import Image

from jaxad.run import overlays


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


def test_render_colours_by_hand():
    """Hottest is red, coldest keeps the image; the mask's outline is white."""
    image = np.zeros((224, 224, 3), np.float32)
    heat = np.zeros((224, 224), np.float32)
    heat[:, 112:] = 2.0
    mask = np.zeros((224, 224), np.uint8)
    mask[50:100, 20:80] = 1
    picture = np.asarray(overlays.render(image, heat, mask, 0.0, 2.0, "caption"))
    assert picture.shape == (224 + 18, 448, 3)
    left, right = picture[18:, :224], picture[18:, 224:]
    assert (left == 0).all()
    # 0.7 and 0.15 of the last and the first colour, rounded to eight bits.
    np.testing.assert_allclose(right[200, 200], [150.5, 17.5, 19.6], atol=0.51)
    np.testing.assert_allclose(right[200, 10], [4.5, 6.0, 24.0], atol=0.51)
    assert (right[50, 20:80] == 255).all()
    assert not (right[75, 50] == 255).all()


def test_write_names_files_by_kind_rank_and_image(tmp_path):
    class Split:
        filenames = ["good/0 1.png", "bad/ü.png"]
        labels = np.array([0, 1])

        def __getitem__(self, i):
            image = np.full((8, 8, 3), 0.5, np.float32)
            return {"image": image, "mask": np.zeros((8, 8), np.uint8)}

    def predict(images):
        assert images.shape == (4, 8, 8, 3)  # always the compiled batch
        return images.mean((1, 2, 3)), images[..., 0]

    overlays.write(tmp_path, predict, Split(), np.array([0.1, 0.2]), 1, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "anomalous_highest_1_bad_ü.png",
        "normal_highest_1_good_0_1.png",
    ]
    with Image.open(tmp_path / "normal_highest_1_good_0_1.png") as picture:
        assert picture.size == (2 * 224, 224 + 18)
