"""Two-class divisions of data sets that have none of their own."""

import numpy as np
import pytest
import trees
from PIL import Image

from jaxad import config as config_lib
from jaxad import data
from jaxad.errors import InputError


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Thirty good images and twenty with a defect, each with its mask."""
    root = tmp_path_factory.mktemp("protocol") / "caps"
    black = Image.new("L", (4, 4))
    for i in range(30):
        split = "train" if i < 20 else "test"
        trees.save(root / f"{split}/good/{i:02}.png", black)
    for i in range(20):
        trees.save(root / f"test/dent/{i:02}.png", black)
        trees.save(
            root / f"ground_truth/dent/{i:02}_mask.png", Image.new("L", (4, 4), 1)
        )
    config = config_lib.base().dataset
    config.name, config.path, config.image_size = "folder", str(root), (4, 4)
    return config


def split_of(config, name, **fields):
    config = config.copy_and_resolve_references()
    config.update(fields)
    return data.load(config, "caps", name)


@pytest.mark.parametrize(
    ("protocol", "train", "test"),
    [("2cls_highshot", (18, 12), (12, 8)), ("2cls_fewshot", (6, 4), (24, 16))],
)
def test_shares_of_both_classes(config, protocol, train, test):
    splits = [split_of(config, name, protocol=protocol) for name in ("train", "test")]
    for split, counts, name in zip(
        splits, (train, test), ("train", "test"), strict=True
    ):
        assert split.name == name and split.has_masks
        assert np.bincount(split.labels).tolist() == list(counts)
        assert split[len(split) - 1]["mask"].all() and not split[0]["mask"].any()
    names = [{*split.filenames} for split in splits]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 50
    again = split_of(config, "train", protocol=protocol)
    assert again.filenames == splits[0].filenames
    assert again.version == splits[0].version != splits[1].version


def test_the_pool_trains_under_either_protocol(config):
    """And what tests depends on nothing but the category's name."""
    few, many = (
        {*split_of(config, "train", protocol=f"2cls_{shots}shot").filenames}
        for shots in ("few", "high")
    )
    assert few < many


def test_draws_are_nested_and_leave_the_test_alone(config):
    fields = dict(protocol="2cls_fewshot")
    pool, test = (split_of(config, name, **fields) for name in ("train", "test"))
    drawn = {
        (draw, shots): split_of(config, "train", shots=shots, draw=draw, **fields)
        for draw in range(3)
        for shots in (1, 3)
    }
    for (draw, shots), split in drawn.items():
        assert split.labels.tolist() == [0] * shots + [1] * shots
        assert {*split.filenames} <= {*pool.filenames}
        assert {*drawn[draw, 1].filenames} <= {*split.filenames}
    assert len({tuple(drawn[draw, 3].filenames) for draw in range(3)}) == 3
    other = split_of(config, "test", shots=3, draw=2, **fields)
    assert other.version == test.version


def test_what_cannot_be_drawn_is_told(config):
    few = dict(protocol="2cls_fewshot")
    with pytest.raises(InputError, match="shots=5, .* pool of caps has only 4 anomal"):
        split_of(config, "train", shots=5, **few)
    alone = config.copy_and_resolve_references()
    alone.path += "/train/good"
    alone.protocol = "2cls_highshot"
    with pytest.raises(
        InputError, match="divides the 0 anomalous images of good into 0"
    ):
        data.load(alone, "good", "train")
