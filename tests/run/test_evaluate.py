import numpy as np

from jaxad import data
from jaxad.run import evaluate


class Split:
    """Three random images with masks."""

    labels = np.array([0, 1, 1], np.int32)
    filenames = ["a", "b", "c"]
    has_masks = True
    geometry = data.Geometry((16, 16))

    def __len__(self):
        return 3

    def __getitem__(self, i):
        random = np.random.default_rng(i)
        return {
            "index": i,
            "filename": self.filenames[i],
            "label": self.labels[i],
            "size": (16, 32),
            "image": random.uniform(size=(16, 16, 3)).astype(np.float32),
            "mask": random.integers(0, 2, (16, 16)).astype(np.uint8),
        }


MAGNITUDES = dict(rotation=20, translation=0.1, brightness=0.2, contrast=0.2, blur=1.0)


def test_disturbed_is_a_split_that_batches_read():
    split = evaluate.Disturbed(Split(), 7, **MAGNITUDES)
    assert len(split) == 3 and split.has_masks
    np.testing.assert_array_equal(split.labels, [0, 1, 1])
    (batch,) = data.eval_batches(split, 4)
    plain = Split()[1]
    assert np.abs(batch["image"][1] - plain["image"]).max() > 0.1
    assert (batch["mask"][1] != plain["mask"]).any()
    assert batch["mask"].dtype == np.uint8 and batch["image"].dtype == np.float32


def test_disturbance_is_a_function_of_seed_and_index():
    split = evaluate.Disturbed(Split(), 7, **MAGNITUDES)
    again = evaluate.Disturbed(Split(), 7, **MAGNITUDES)
    other = evaluate.Disturbed(Split(), 8, **MAGNITUDES)
    split[0], again[2]  # what was read before does not matter
    np.testing.assert_array_equal(split[1]["image"], again[1]["image"])
    assert (split[1]["image"] != other[1]["image"]).any()


def test_anomalous_images_without_an_anomalous_pixel_are_told_of(caplog):
    class Blank(Split):
        def __getitem__(self, i):
            item = super().__getitem__(i)
            return item | {"mask": item["mask"] * (i == 1)}

    def predict(images):
        return [(images.mean((1, 2, 3)), images[..., 0])]

    evaluate.evaluate(predict, Split(), 2, label="a")
    assert caplog.text == ""
    evaluate.evaluate(predict, Blank(), 2, label="b: score")
    assert "at the size that is scored: 1; pixel metrics" in caplog.text
