"""Own images: MVTec AD's layout, plain folders, CSVs."""

import csv
import os

import numpy as np
import pytest
import trees

from jaxad import config as config_lib
from jaxad import data
from jaxad.errors import InputError


@pytest.fixture
def config(tmp_path):
    config = config_lib.base().dataset
    config.name, config.path = "folder", str(tmp_path)
    config.image_size = (6, 8)
    return config


def write(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def test_one_category_in_the_layout_of_mvtec_ad(config, tmp_path):
    trees.mvtec_ad(tmp_path, ["bottle"])
    config.path = str(tmp_path / "bottle")
    assert data.categories(config) == ("bottle",)
    train = data.load(config, "bottle", "train")
    assert train.filenames == [f"train/good/00{i}.png" for i in range(3)]
    test = data.load(config, "bottle", "test")
    assert test.filenames[:3:2] == ["test/good/000.png", "test/bent/000.png"]
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert test.defect_types == ["good", "good", "bent", "bent"]
    assert test.has_masks
    assert test.notes == ()
    assert test[2]["mask"][0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_several_categories(config, tmp_path):
    trees.mvtec_ad(tmp_path)
    assert data.categories(config) == ("bottle", "grid")
    config.category = "grid"
    assert data.categories(config) == ("grid",)
    image = data.load(config, "grid", "train")[0]["image"]
    np.testing.assert_allclose(image[2, 3] * 255, [90, 90, 90], rtol=1e-6)


def test_masks_are_found_by_stem_whatever_their_suffix(config, tmp_path):
    for name in ("a", "b"):
        trees.image(tmp_path / f"test/dent/{name}.jpg")
    trees.image(tmp_path / "train/good/0.png")
    trees.mask(tmp_path / "ground_truth/dent/a.bmp")
    trees.mask(tmp_path / "ground_truth/dent/c_mask.png")
    trees.mask(tmp_path / "ground_truth/scratch/a_mask.png")
    test = data.load(config, tmp_path.name, "test")
    assert [test.read(i)[1] is not None for i in (0, 1)] == [True, False]
    assert test.notes == (
        data.Note("ground_truth/dent/c_mask.png", "mask without image"),
        data.Note("ground_truth/scratch/a_mask.png", "mask without image"),
    )
    assert data.load(config, tmp_path.name, "train").notes == ()


def test_unicode_and_spaces_in_names(config, tmp_path):
    root = tmp_path / "Größe 5 µm, neu"
    trees.image(root / "train/good/Bild Nr. 1 – gut.png")
    trees.image(root / "test/Kratzer tief/日本 語.webp")
    trees.mask(root / "ground_truth/Kratzer tief/日本 語_mask.png")
    config.path = str(root)
    (category,) = data.categories(config)
    test = data.load(config, category, "test")
    assert test.filenames == ["test/Kratzer tief/日本 語.webp"]
    assert test[0]["mask"].any()


def test_a_plain_folder_holds_some_normal_images_out(config, tmp_path):
    for i in range(10):
        trees.image(tmp_path / f"images/{i}.png", mark=i)
    config.path = str(tmp_path / "images")
    assert data.categories(config) == ("images",)
    splits = [data.load(config, "images", name) for name in ("train", "test")]
    assert [len(split) for split in splits] == [8, 2]
    names = [set(split.filenames) for split in splits]
    assert names[0] | names[1] == {f"{i}.png" for i in range(10)}
    assert not splits[1].has_masks
    # One more image moves at most one other across.
    trees.image(tmp_path / "images/new.png", mark=99)
    after = set(data.load(config, "images", "test").filenames)
    assert len(after ^ names[1]) <= 2


def test_a_plain_folder_of_anomalous_images_joins_the_test(config, tmp_path):
    for i in range(4):
        trees.image(tmp_path / f"fine/{i}.png", mark=i)
    trees.image(tmp_path / "broken ones/0.png", mark=9)
    config.path, config.anomalous_path = (
        str(tmp_path / "fine"),
        str(tmp_path / "broken ones"),
    )
    config.test_share = 0.5
    test = data.load(config, "fine", "test")
    assert test.labels.tolist() == [0, 0, 1]
    assert test.filenames[2] == "../broken ones/0.png"
    assert test.defect_types == ["good", "good", "broken ones"]
    config.test_share = 0.0
    assert data.load(config, "fine", "test").labels.tolist() == [1]
    assert len(data.load(config, "fine", "train")) == 4
    config.test_share = 1.0
    with pytest.raises(InputError, match="test_share=1.0 must be"):
        data.load(config, "fine", "train")


def test_a_csv(config, tmp_path):
    trees.image(tmp_path / "pictures/a b.png", mark=1)
    trees.image(tmp_path / "pictures/c.png", mark=2)
    trees.image(tmp_path / "d.png", mark=3)
    trees.mask(tmp_path / "masks/anything.png")
    config.path = write(
        tmp_path / "own.csv",
        ("file", "split", "label", "mask", "defect_type"),
        ("pictures/a b.png", "train", "normal", "", ""),
        ("pictures/c.png", "test", "0", "", ""),
        (tmp_path / "d.png", "test", "Anomalous", "masks/anything.png", "dent"),
    )
    assert data.categories(config) == ("own",)
    assert data.load(config, "own", "train").filenames == ["pictures/a b.png"]
    test = data.load(config, "own", "test")
    assert test.filenames == ["pictures/c.png", "d.png"]
    assert test.labels.tolist() == [0, 1]
    assert test.defect_types == ["good", "dent"]
    assert test[1]["mask"].sum() == 24


def test_categories_that_differ_in_case_alone(config, tmp_path):
    for name in ("cap", "Cap"):
        trees.image(tmp_path / name / "train/good/0.png")
    config.path = str(tmp_path)
    with pytest.raises(InputError, match="'Cap' and 'cap', which differ in case alone"):
        data.categories(config)


def test_a_csv_may_have_categories(config, tmp_path):
    for name in "abc":
        trees.image(tmp_path / f"{name}.png")
    config.path = write(
        tmp_path / "own.csv",
        ("file", "split", "label", "category"),
        ("a.png", "train", "normal", "left"),
        ("b.png", "train", "normal", "right"),
        ("c.png", "test", "1", "right"),
    )
    assert data.categories(config) == ("left", "right")
    assert data.load(config, "right", "train").filenames == ["b.png"]
    assert len(data.load(config, "left", "test")) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("file", "split"), ("a.png", "train")], "own.csv has no column label"),
        (
            [("file", "split", "label"), ("a.png", "val", "normal")],
            "own.csv, line 2: split 'val' must be one of train, test",
        ),
        (
            [("file", "split", "label"), ("a.png", "train", "fine")],
            "own.csv, line 2: label 'fine' must be one of",
        ),
        (
            [("file", "split", "label"), ("a.png", "train")],
            "own.csv, line 2: not as many cells",
        ),
        (
            [("file", "split", "label"), ("b.png", "train", "normal")],
            "own.csv, line 2: file 'b.png' does not exist",
        ),
    ],
)
def test_mistakes_in_a_csv(config, tmp_path, rows, message):
    trees.image(tmp_path / "a.png")
    config.path = write(tmp_path / "own.csv", *rows)
    with pytest.raises(InputError, match=message):
        data.load(config, "own", "train")


@pytest.mark.parametrize(
    "category", ["../../esc", "/esc", "a\\b", "..", ".", "", " ", "a,b"]
)
def test_a_category_that_is_no_plain_name(config, tmp_path, category):
    config.path = write(
        tmp_path / "own.csv",
        ("file", "split", "label", "category"),
        ("a.png", "train", "normal", "left"),
        ("b.png", "train", "normal", category),
    )
    for call in (data.categories, lambda c: data.load(c, category, "train")):
        with pytest.raises(InputError, match="own.csv, line 3: category '.*plain name"):
            call(config)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_csv_that_is_not_in_utf_8(config, tmp_path, encoding):
    config.path = str(tmp_path / "own.csv")
    text = "file,split,label\nGröße.png,train,normal\n"
    (tmp_path / "own.csv").write_text(text, encoding=encoding)
    with pytest.raises(InputError, match="own.csv is not in UTF-8; save it as CSV UTF"):
        data.categories(config)


def test_a_path_that_holds_nothing(config, tmp_path):
    for path in ("", str(tmp_path / "missing")):
        config.path = path
        with pytest.raises(
            InputError, match="dataset.path=.* (does not exist|is empty)"
        ):
            data.categories(config)
    (tmp_path / "empty").mkdir()
    config.path = str(tmp_path / "empty")
    with pytest.raises(InputError, match="holds neither images nor train/good"):
        data.categories(config)


def test_listing_reads_no_image(config, tmp_path):
    folder = tmp_path / "train/good"
    folder.mkdir(parents=True)
    for i in range(2000):
        (folder / f"{i:04}.png").touch()  # no images at all
    assert len(data.load(config, tmp_path.name, "train")) == 2000


def test_the_version_changes_with_the_files(config, tmp_path):
    def version():
        return data.load(config, tmp_path.name, "train").version

    trees.image(tmp_path / "train/good/0.png")
    first = version()
    assert version() == first
    os.utime(tmp_path / "train/good/0.png", (1, 1))
    second = version()
    trees.image(tmp_path / "train/good/1.png")
    third = version()
    config.image_size = (5, 8)
    assert len({first, second, third, version()}) == 4


def test_image_size_must_be_set(config, tmp_path):
    trees.image(tmp_path / "train/good/0.png")
    config.image_size = (0, 0)
    with pytest.raises(InputError, match="image_size"):
        data.load(config, tmp_path.name, "train")
