"""Pictures that anomalies are pasted from: a folder, or DTD as TFDS prepares it."""

import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxad import config as config_lib
from jaxad import data
from jaxad.errors import InputError


class Dtd(tfds.core.GeneratorBasedBuilder):
    """DTD's splits, without its download."""

    VERSION = tfds.core.Version("3.0.1")

    def __init__(self, source, **options):
        self.source = source
        super().__init__(**options)

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image()})
        return tfds.core.DatasetInfo(
            builder=self, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        values = {"train": (1, 2), "validation": (3,), "test": (4,)}
        return {name: self._generate_examples(v) for name, v in values.items()}

    def _generate_examples(self, values):
        for value in values:
            yield value, {"image": str(self.source / f"{value}.png")}


def dataset(**fields):
    config = config_lib.base().dataset
    config.update({"image_size": (8, 6), "data_dir": "/nowhere"} | fields)
    return config


def picture(path, level, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level,) * 3).save(path)


def levels(split):
    return [round(255 * float(split[i]["image"].mean())) for i in range(len(split))]


def test_a_folder_and_its_subfolders(tmp_path):
    picture(tmp_path / "woven" / "b.png", 30)
    picture(tmp_path / "dotted" / "a.png", 20)
    picture(tmp_path / "c.png", 10)
    (tmp_path / "woven" / "notes.txt").write_text("not a picture")
    textures = data.load_textures(dataset(textures=str(tmp_path)))
    assert textures.filenames == ["c.png", "dotted/a.png", "woven/b.png"]
    assert levels(textures) == [10, 20, 30]
    assert textures[0]["image"].shape == (8, 6, 3)


def test_its_version_changes_with_its_files(tmp_path):
    picture(tmp_path / "a.png", 20)
    before = data.load_textures(dataset(textures=str(tmp_path))).version
    picture(tmp_path / "b.png", 20)
    assert data.load_textures(dataset(textures=str(tmp_path))).version != before


def test_its_version_is_of_one_folder(tmp_path, monkeypatch):
    """Names, sizes and times are the same in two, which are called the same."""
    versions = []
    for place, level in (("one", 20), ("other", 30)):
        picture(tmp_path / place / "pictures/a.bmp", level)
        os.utime(tmp_path / place / "pictures/a.bmp", (1e9, 1e9))
        monkeypatch.chdir(tmp_path / place)
        versions.append(data.load_textures(dataset(textures="pictures")).version)
    assert versions[0] != versions[1]


def test_dtd_as_tfds_prepares_it(tmp_path):
    for value in (1, 2, 3, 4):
        picture(tmp_path / f"{value}.png", value)
    Dtd(
        source=tmp_path, data_dir=tmp_path, file_format="array_record"
    ).download_and_prepare()
    textures = data.load_textures(dataset(data_dir=str(tmp_path)))
    assert levels(textures) == [1, 2, 3, 4]


def test_dtd_that_is_prepared_anew_is_another_source(tmp_path):
    def prepared(place):
        Dtd(
            source=tmp_path, data_dir=place, file_format="array_record"
        ).download_and_prepare()
        return data.load_textures(dataset(data_dir=str(place)))

    for value in (1, 2, 3, 4):
        picture(tmp_path / f"{value}.png", value)
    first = prepared(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "copy", copy_function=shutil.copyfile)
    copy = data.load_textures(dataset(data_dir=str(tmp_path / "copy")))
    assert copy.version == first.version
    picture(tmp_path / "1.png", 9)
    shutil.rmtree(tmp_path / "data")
    anew = prepared(tmp_path / "data")
    assert anew.version != first.version and levels(anew) == [9, 2, 3, 4]


def test_no_source():
    assert data.load_textures(dataset()) is None


def test_a_folder_that_is_missing_or_empty(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder"):
        data.load_textures(dataset(textures=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="holds no image"):
        data.load_textures(dataset(textures=str(tmp_path)))


@pytest.fixture
def ten(tmp_path):
    for i in range(10):
        picture(tmp_path / f"{i}.png", i)
    return data.load_textures(dataset(textures=str(tmp_path)))


def drawn(batches, count):
    """(images, textures) of the next batches, by their grey levels."""
    found = []
    for _ in range(count):
        batch = next(batches)
        both = (batch[name].mean((1, 2, 3)) for name in ("image", "texture"))
        found.append(tuple(np.rint(255 * x).astype(int).tolist() for x in both))
    return found


def test_a_texture_for_every_image_of_a_batch(ten):
    split = ten.take([0, 1, 2, 3])
    steps = drawn(data.train_batches(split, 2, seed=0, textures=ten), 10)
    for epoch in (steps[:5], steps[5:]):
        used = [level for _, textures in epoch for level in textures]
        assert sorted(used) == list(range(10))  # each once an epoch of its own
    plain = data.train_batches(split, 2, seed=0)
    assert [images for images, _ in steps[:3]] == [
        np.round(255 * next(plain)["image"].mean((1, 2, 3))).astype(int).tolist()
        for _ in range(3)
    ]


def test_an_image_meets_other_textures_where_the_counts_are_equal(ten):
    steps = drawn(data.train_batches(ten, 5, seed=0, textures=ten), 40)
    pairs = {pair for step in steps for pair in zip(*step, strict=True)}
    assert len(pairs) > 60  # of 100, in 200 draws; 10 if all went in one order


def test_batches_go_on_at_a_step_and_are_shared_by_processes(ten):
    options = dict(seed=0, textures=ten)
    steps = drawn(data.train_batches(ten, 4, **options), 5)
    assert drawn(data.train_batches(ten, 4, start_step=3, **options), 2) == steps[3:]
    shares = [
        drawn(data.train_batches(ten, 4, process=i, processes=2, **options), 5)
        for i in range(2)
    ]
    assert steps == [
        tuple(a + b for a, b in zip(*both, strict=True))
        for both in zip(*shares, strict=True)
    ]


def test_fewer_textures_than_a_batch(ten):
    with pytest.raises(InputError, match="as many textures, and there are 3"):
        data.train_batches(ten, 4, seed=0, textures=ten.take([0, 1, 2]))
