"""The builders' data, prepared and read as a run does it, without TensorFlow."""

import contextlib
import csv
import dataclasses
import functools
import http.server
import logging
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import trees
from PIL import Image

from jaxad import config as config_lib
from jaxad import data
from jaxad.data import builders, protocol
from jaxad.errors import InputError, NotHere
from tfds_builders import archives, btad, mvtec_ad, visa

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path):
    config = config_lib.base().dataset
    config.data_dir = str(tmp_path / "prepared")
    config.image_size = (6, 8)
    return config


def from_tree(config, name, root):
    config.name, config.manual_dir = name, str(root)
    return config


LEFT_HALF = np.repeat([[1, 1, 1, 1, 0, 0, 0, 0]], 6, axis=0)


# --------------------------------------------------------------------------------------
# ELPV
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elpv(tmp_path_factory):
    config = config_lib.base().dataset
    config.name, config.image_size = "elpv", (30, 30)
    config.data_dir = str(tmp_path_factory.mktemp("elpv"))
    return config


def elpv_table():
    import elpv_dataset

    table = pathlib.Path(elpv_dataset.__file__).parent / "data/labels.csv"
    lines = table.read_text().splitlines()
    rows = csv.reader(lines, delimiter=" ", skipinitialspace=True)
    return [(name, float(p), kind) for name, p, kind in rows]


@pytest.mark.parametrize(
    ("category", "train", "normal", "anomalous"),
    [("mono", 352, 236, 313), ("poly", 552, 368, 402)],
)
def test_elpv_has_the_split_of_the_protocol(elpv, category, train, normal, anomalous):
    splits = {name: data.load(elpv, category, name) for name in ("train", "test")}
    assert splits["train"].labels.tolist() == [0] * train
    assert splits["test"].labels.tolist() == [0] * normal + [1] * anomalous
    assert not splits["test"].has_masks
    names = [n for n, p, kind in elpv_table() if kind == category and p == 0]
    order = np.random.RandomState(0).permutation(len(names))
    assert set(splits["train"].filenames) == {names[i] for i in order[:train]}
    assert set(splits["test"].filenames[:normal]) == {names[i] for i in order[train:]}
    assert splits["test"].filenames[:normal] == sorted(
        splits["test"].filenames[:normal]
    )


def test_elpv_categories(elpv):
    elpv = elpv.copy_and_resolve_references()
    for text, expected in (
        ("all", ("mono", "poly")),
        ("poly", ("poly",)),
        (" poly, mono,poly", ("poly", "mono")),
        ("mono_uncertain", ("mono_uncertain",)),
    ):
        elpv.category = text
        assert data.categories(elpv) == expected
    for text, message in (("duo", "'duo' is not in elpv"), ("mon", "mean 'mono'")):
        elpv.category = text
        with pytest.raises(InputError, match=message):
            data.categories(elpv)
    elpv.category = ""
    with pytest.raises(InputError, match="category is empty"):
        data.categories(elpv)


def test_elpv_keeps_the_uncertain_rest_in_configs_of_its_own(elpv):
    import tensorflow_datasets as tfds

    assert len(data.load(elpv, "mono_uncertain", "test")) == 549
    folder = pathlib.Path(elpv.data_dir) / "elpv/mono_uncertain/1.0.0"
    source = tfds.builder_from_directory(folder).as_data_source(
        "uncertain", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert sum(abs(item["probability"] - 1 / 3) < 1e-6 for item in source) == 117
    assert sum(abs(item["probability"] - 2 / 3) < 1e-6 for item in source) == 56
    assert {item["label"] for item in source} == {-1}


def test_limit_takes_some_of_each_label_spread_over_the_split(elpv):
    whole = data.load(elpv, "mono", "test")
    limited = elpv.copy_and_resolve_references()
    limited.limit = 4
    some = data.load(limited, "mono", "test")
    assert some.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    expected = [0, 59, 118, 177, 236, 236 + 78, 236 + 156, 236 + 234]
    assert some.filenames == [whole.filenames[i] for i in expected]
    np.testing.assert_array_equal(some[5]["image"], whole[expected[5]]["image"])


def test_elpv_without_its_package_says_how_to_install_it(elpv, tmp_path, monkeypatch):
    import importlib.util

    elpv = elpv.copy_and_resolve_references()
    elpv.data_dir = str(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install elpv-dataset"):
        data.load(elpv, "mono", "train")


def own_elpv(root, names="abcde"):
    """As many normal cells, and a defective one."""
    rows = [(f"images/{name}.png", 0) for name in names] + [("images/z.png", 1)]
    for i, (name, _) in enumerate(rows):
        trees.image(root / name, 90, mark=i)
    table = "".join(f"{name} {float(p)} mono\n" for name, p in rows)
    (root / "labels.csv").write_text(table)
    return root


def test_elpv_remembers_the_folder_it_was_prepared_from(config, tmp_path):
    from_tree(config, "elpv", own_elpv(tmp_path / "one"))
    assert len(data.load(config, "mono", "train")) == 3
    own_elpv(tmp_path / "one", "abcdefghij")  # changed: prepared anew
    assert len(data.load(config, "mono", "train")) == 6
    config.manual_dir = str(own_elpv(tmp_path / "two"))
    with pytest.raises(InputError, match="was prepared from .*one, not from .*two"):
        data.load(config, "mono", "train")
    shutil.rmtree(tmp_path / "one")  # prepared data stand on their own
    config.manual_dir = ""
    assert len(data.load(config, "mono", "train")) == 6


def test_elpv_of_unknown_origin_is_prepared_from_the_folder_that_is_named(
    config, tmp_path
):
    from_tree(config, "elpv", own_elpv(tmp_path / "one"))
    data.load(config, "mono", "train")
    (tmp_path / "prepared/elpv/mono/1.0.0/metadata.json").unlink()
    config.manual_dir = str(own_elpv(tmp_path / "two", "abcdefghij"))
    assert len(data.load(config, "mono", "train")) == 6


# --------------------------------------------------------------------------------------
# MVTec AD
# --------------------------------------------------------------------------------------


def test_mvtec_ad(config, tmp_path):
    from_tree(config, "mvtec_ad", trees.mvtec_ad(tmp_path / "tree"))
    train = data.load(config, "bottle", "train")
    assert train.filenames == [f"bottle/train/good/00{i}.png" for i in range(3)]
    assert train.labels.tolist() == [0, 0, 0]
    test = data.load(config, "bottle", "test")
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert test.defect_types == ["good", "good", "bent", "bent"]
    assert test.has_masks
    np.testing.assert_array_equal(test[3]["mask"], LEFT_HALF)
    np.testing.assert_array_equal(test[1]["mask"], np.zeros((6, 8)))
    np.testing.assert_allclose(test[3]["image"][2, 3] * 255, trees.RED, rtol=1e-6)


def test_grey_images_become_three_equal_channels(config, tmp_path):
    from_tree(config, "mvtec_ad", trees.mvtec_ad(tmp_path / "tree"))
    image = data.load(config, "grid", "train")[1]["image"]
    np.testing.assert_allclose(image[2, 3] * 255, [90, 90, 90], rtol=1e-6)


def test_masks_are_paired_by_name_not_by_position(config, tmp_path):
    root = trees.mvtec_ad(tmp_path / "tree", ["bottle"])
    truth = root / "bottle/ground_truth/bent"
    # One more mask at the front, without image: positions no longer agree.
    (truth / "001_mask.png").rename(truth / "0011_mask.png")
    trees.mask(truth / "001_mask.png", value=0)
    from_tree(config, "mvtec_ad", root)
    test = data.load(config, "bottle", "test")
    assert [test[i]["mask"].any() for i in (2, 3)] == [True, False]


def test_masks_are_read_by_their_colours_where_there_are_no_ids(config, tmp_path):
    root = trees.mvtec_ad(tmp_path / "tree", ["bottle"])
    white = Image.fromarray((255 * LEFT_HALF).astype(np.uint8)).quantize(2)
    assert white.getpalette()[:6] == [255, 255, 255, 0, 0, 0]
    trees.save(root / "bottle/ground_truth/bent/001_mask.png", white)
    from_tree(config, "mvtec_ad", root)
    test = data.load(config, "bottle", "test")
    np.testing.assert_array_equal(test[3]["mask"], LEFT_HALF)


def test_differences_from_the_published_counts_are_listed(config, tmp_path, caplog):
    from_tree(config, "mvtec_ad", trees.mvtec_ad(tmp_path / "tree"))
    with caplog.at_level(logging.WARNING):
        data.load(config, "bottle", "train")
    for part in (
        "tree differs from mvtec_ad/bottle/1.0.0",
        "3 images in train/good, not 209",
        "0 images in test/contamination, not 21",
        "2 images in test/bent, not 0",
    ):
        assert part in caplog.text


def test_the_published_archive_must_hold_the_published_counts(
    config, tmp_path, monkeypatch
):
    tree = trees.mvtec_ad(tmp_path / "tree", ["bottle"])
    archive = trees.packed(tree, tmp_path / "manual/mvtec_anomaly_detection.tar.xz")
    known = dataclasses.replace(
        mvtec_ad.Builder.ARCHIVE, sha256=archives.sha256(archive)
    )
    monkeypatch.setattr(mvtec_ad.Builder, "ARCHIVE", known)
    from_tree(config, "mvtec_ad", archive.parent)
    with pytest.raises(InputError, match="3 images in train/good, not 209"):
        data.load(config, "bottle", "train")
    counts = {"train/good": 3, "test/good": 2, "test/bent": 2}
    monkeypatch.setattr(mvtec_ad.Builder, "published_counts", lambda self: counts)
    assert len(data.load(config, "bottle", "train")) == 3


def test_published_counts_are_those_of_the_papers():
    def total(builder, kinds):
        published = [
            builder(config=c, data_dir="/nowhere").published_counts()
            for c in builder.builder_configs
        ]
        return sum(n for p in published for kind, n in p.items() if kind in kinds)

    assert len(mvtec_ad.Builder.builder_configs) == 15
    assert total(mvtec_ad.Builder, {"train/good"}) == 3629
    assert total(mvtec_ad.Builder, {"test/good"}) == 467
    assert total(btad.Builder, {"train/ok"}) == 1799
    assert total(btad.Builder, {"test/ok"}) == 451
    assert total(btad.Builder, {"test/ko"}) == 290
    everything = {"train/normal", "train/anomaly", "test/normal", "test/anomaly"}
    assert len(visa.Builder.builder_configs) == 36
    assert total(visa.Builder, everything) == 3 * 10821
    assert total(visa.Builder, {"train/anomaly"}) == 720 + 240


def test_an_anomalous_image_without_mask_is_named(config, tmp_path):
    root = trees.mvtec_ad(tmp_path / "tree", ["bottle"])
    (root / "bottle/ground_truth/bent/001_mask.png").unlink()
    from_tree(config, "mvtec_ad", root)
    with pytest.raises(InputError, match="bent/001.png has no mask"):
        data.load(config, "bottle", "test")


def test_a_category_without_images_is_named(config, tmp_path):
    from_tree(config, "mvtec_ad", trees.mvtec_ad(tmp_path / "tree", ["bottle"], good=0))
    shutil.rmtree(tmp_path / "tree/bottle/test")
    with pytest.raises(InputError, match="no image in the test split of mvtec_ad/bott"):
        data.load(config, "bottle", "train")
    with pytest.raises(InputError, match="no image in the train split of mvtec_ad/cap"):
        data.load(config, "capsule", "train")


def test_a_mask_of_another_size_is_named(config, tmp_path):
    root = trees.mvtec_ad(tmp_path / "tree", ["bottle"])
    trees.mask(root / "bottle/ground_truth/bent/001_mask.png", size=(5, 8))
    from_tree(config, "mvtec_ad", root)
    with pytest.raises(InputError, match="001_mask.png is 5 x 8 pixels, its image"):
        data.load(config, "bottle", "test")


# --------------------------------------------------------------------------------------
# Prepared data
# --------------------------------------------------------------------------------------


def test_half_prepared_data_is_never_taken_for_whole(config, tmp_path):
    root = trees.mvtec_ad(tmp_path / "tree", ["bottle"])
    (root / "bottle/test/bent/001.png").write_bytes(b"")
    from_tree(config, "mvtec_ad", root)
    with pytest.raises(InputError, match="001.png cannot be read .the file is empty"):
        data.load(config, "bottle", "train")
    prepared = pathlib.Path(config.data_dir) / "mvtec_ad/bottle"
    assert not any(prepared.iterdir())
    trees.image(root / "bottle/test/bent/001.png")
    assert len(data.load(config, "bottle", "test")) == 4


def test_a_kill_while_preparing_leaves_nothing_that_counts(config, tmp_path):
    # What TFDS leaves of a process killed half-way: a folder of another name.
    root = trees.mvtec_ad(tmp_path / "tree", ["bottle"])
    from_tree(config, "mvtec_ad", root)
    prepared = pathlib.Path(config.data_dir) / "mvtec_ad/bottle"
    (prepared / "incomplete.ABCDEF_1.0.0").mkdir(parents=True)
    assert len(data.load(config, "bottle", "train")) == 3


def test_a_changed_folder_is_prepared_anew(config, tmp_path):
    root = trees.mvtec_ad(tmp_path / "tree", ["bottle"])
    from_tree(config, "mvtec_ad", root)
    before = data.load(config, "bottle", "train")
    again = data.load(config, "bottle", "train")
    assert before.version == again.version
    trees.image(root / "bottle/train/good/003.png", mark=77)
    after = data.load(config, "bottle", "train")
    assert len(after) == 4
    assert after.version != before.version
    shutil.rmtree(root)  # prepared data stand on their own
    config.manual_dir = ""
    assert len(data.load(config, "bottle", "train")) == 4


def test_a_split_is_read_once_a_process(config, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    reads, real = [], tfds.core.DatasetBuilder.as_data_source

    def counted(self, split, **options):
        reads.append(split)
        return real(self, split, **options)

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", counted)
    root = trees.mvtec_ad(tmp_path / "tree", ["bottle"])
    from_tree(config, "mvtec_ad", root)
    small = data.load(config, "bottle", "test")
    config.image_size = (3, 4)
    data.load(config, "bottle", "train")
    smaller = data.load(config, "bottle", "test")
    assert reads == ["test", "train"]
    assert (small[0]["image"].shape, smaller[0]["image"].shape) == (
        (6, 8, 3),
        (3, 4, 3),
    )
    trees.image(root / "bottle/test/good/009.png", mark=77)
    assert len(data.load(config, "bottle", "test")) == 5
    assert reads == ["test", "train", "test"]


def test_data_prepared_from_another_folder_are_not_used(config, tmp_path):
    from_tree(config, "mvtec_ad", trees.mvtec_ad(tmp_path / "one"))
    data.load(config, "bottle", "train")
    from_tree(config, "mvtec_ad", trees.mvtec_ad(tmp_path / "two"))
    with pytest.raises(InputError, match="was prepared from .*one, not from .*two"):
        data.load(config, "bottle", "train")
    config.manual_dir = str(tmp_path / "three")
    with pytest.raises(InputError, match="manual_dir=.*three is not a folder"):
        data.load(config, "bottle", "train")


@pytest.mark.parametrize("name", ["elpv", "mvtec_ad", "visa", "btad"])
def test_a_named_folder_without_the_data_is_refused(config, tmp_path, name):
    """Nothing is downloaded, and no package used, in its place."""
    (tmp_path / "mine").mkdir()
    from_tree(config, name, tmp_path / "mine")
    category = data.categories(config)[0]
    with pytest.raises(InputError, match="manual_dir=.*mine is empty.\n.*(It is|Put)"):
        data.load(config, category, "train")
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(InputError, match="config.dataset.manual_dir=.*mine .*hold"):
        data.load(config, category, "train")


@pytest.mark.parametrize("damage", ["truncated", "missing", "tfrecord"])
def test_damaged_data_say_what_to_remove(config, tmp_path, damage):
    from_tree(config, "mvtec_ad", trees.mvtec_ad(tmp_path / "tree", ["bottle"]))
    data.load(config, "bottle", "train")
    prepared = pathlib.Path(config.data_dir) / "mvtec_ad/bottle/1.0.0"
    (records,) = prepared.glob("*-train.array_record*")
    if damage == "truncated":
        records.write_bytes(records.read_bytes()[:100])
    elif damage == "missing":
        records.unlink()
    else:  # as TFDS with TensorFlow writes by default
        info = prepared / "dataset_info.json"
        info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(
        InputError, match="remove that folder|another config.dataset.data"
    ):
        data.load(config, "bottle", "train")


def test_two_processes_may_prepare_the_same(config, tmp_path, monkeypatch):
    from_tree(config, "mvtec_ad", trees.mvtec_ad(tmp_path / "tree"))
    real = mvtec_ad.Builder.download_and_prepare

    def raced(self, **options):
        real(self, **options)
        raise OSError("Directory not empty")

    monkeypatch.setattr(mvtec_ad.Builder, "download_and_prepare", raced)
    assert len(data.load(config, "bottle", "train")) == 3


def test_a_data_dir_that_cannot_be_written_is_named(config, tmp_path):
    from_tree(config, "mvtec_ad", trees.mvtec_ad(tmp_path / "tree"))
    (tmp_path / "file").touch()
    config.data_dir = str(tmp_path / "file" / "prepared")
    with pytest.raises(InputError, match="cannot be prepared in .*file/prepared"):
        data.load(config, "bottle", "train")


def test_two_processes_at_the_same_time(config, tmp_path):
    """One finishes while the other writes; the later one leaves it as it is."""
    import tensorflow_datasets as tfds

    from_tree(config, "mvtec_ad", trees.mvtec_ad(tmp_path / "tree"))
    late = mvtec_ad.Builder(
        config="bottle", data_dir=config.data_dir, file_format="array_record"
    )
    generate = late._generate_examples

    def overtaken(root, items):
        data.load(config, "bottle", "train")
        return generate(root, items)

    late._generate_examples = overtaken
    with pytest.raises(OSError):
        late.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=config.manual_dir)
        )
    assert len(data.load(config, "bottle", "test")) == 4


# --------------------------------------------------------------------------------------
# VisA
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visa_config(tmp_path_factory):
    root = trees.visa(tmp_path_factory.mktemp("visa"))
    config = config_lib.base().dataset
    config.data_dir = str(tmp_path_factory.mktemp("prepared"))
    config.image_size = (6, 8)
    return from_tree(config, "visa", root)


@pytest.mark.parametrize(
    ("protocol", "train", "test"),
    [("1cls", (10, 0), (10, 20)), ("2cls_highshot", (10, 10), (10, 10))],
)
def test_visa_protocols(visa_config, protocol, train, test):
    config = visa_config.copy_and_resolve_references()
    config.protocol = protocol
    for name, (normal, anomalous) in (("train", train), ("test", test)):
        split = data.load(config, "candle", name)
        assert split.labels.tolist() == [0] * normal + [1] * anomalous
    assert split.filenames[0] == "candle/Data/Images/Normal/0010.JPG"
    assert split.defect_types[-1] == "melt,scratch"
    # The last one is a palette image, black whatever the id.
    for i in (len(split) - 2, len(split) - 1):
        np.testing.assert_array_equal(split[i]["mask"], LEFT_HALF)


def test_visa_keeps_the_class_ids(visa_config):
    import tensorflow_datasets as tfds

    data.load(visa_config, "candle", "test")
    folder = pathlib.Path(visa_config.data_dir) / "visa/candle_1cls/1.0.0"
    source = tfds.builder_from_directory(folder).as_data_source("test")
    ids = [item["mask_classes"].max() for item in source]
    assert ids == [0] * 10 + [1 + i % 8 for i in range(20)]


def test_few_shot_draws(visa_config):
    config = visa_config.copy_and_resolve_references()
    config.protocol = "2cls_fewshot"
    pool = data.load(config, "candle", "train")
    assert len(pool) == 20
    drawn = {}
    for config.draw in range(5):
        for config.shots in (5, 10):
            split = data.load(config, "candle", "train")
            assert split.labels.tolist() == [0] * config.shots + [1] * config.shots
            drawn[config.draw, config.shots] = set(split.filenames)
    assert all(drawn[draw, 5] < drawn[draw, 10] for draw in range(5))
    assert len({frozenset(drawn[draw, 5]) for draw in range(5)}) == 5
    assert len(data.load(config, "candle", "test")) == 20  # not drawn from
    config.protocol = "1cls"
    with pytest.raises(InputError, match="shots=10 is for the protocol 2cls_fewshot"):
        data.load(config, "candle", "train")
    config.protocol = "3cls"
    with pytest.raises(InputError, match="protocol='3cls' is not known"):
        data.load(config, "candle", "train")


def test_few_shot_is_a_function_of_object_and_draw():
    labels = [0] * 20 + [1] * 20
    first = protocol.few_shot("candle", 0, 3, labels)
    assert first == protocol.few_shot("candle", 0, 3, labels)
    assert first != protocol.few_shot("pcb1", 0, 3, labels)
    assert first == [3, 14, 16, 21, 22, 35]  # fixed for good
    with pytest.raises(InputError, match="shots=5, but the pool of candle has only 4"):
        protocol.few_shot("candle", 0, 5, [0] * 5 + [1] * 4)


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("visa", "draw", -1, "config.dataset.draw=-1 must be 0 or more"),
        ("visa", "draw", 1, "config.dataset.draw=1 must be 0 with .*shots=0"),
        ("mvtec_ad", "shots", 5, "shots=5 is for the protocol 2cls_fewshot, not 1cls"),
        (
            "elpv",
            "protocol",
            "2cls",
            "protocol='2cls' is not known .* choose one of 1cls, 2",
        ),
        ("elpv", "path", "x", "dataset.path=x must be left out .* it is for folder"),
        ("folder", "manual_dir", "x", "dataset.manual_dir=x must be left out with"),
        (
            "folder",
            "test_share",
            0.5,
            "test_share=0.5 must be left out: .*2cls_fewshot",
        ),
    ],
)
def test_fields_that_cannot_be(config, name, field, value, message):
    config.name, config.path = name, "" if name != "folder" else str(ROOT)
    if field in ("draw", "test_share"):
        config.protocol = "2cls_fewshot"
    config[field] = value
    with pytest.raises(InputError, match=message):
        data.categories(config)
    with pytest.raises(InputError, match=message):
        data.load(config, "candle", "train")


def test_visa_lists_what_differs(visa_config, tmp_path, caplog):
    config = visa_config.copy_and_resolve_references()
    config.data_dir = str(tmp_path / "prepared")
    config.manual_dir = str(trees.visa(tmp_path / "tree"))
    folder = tmp_path / "tree/candle/Data/Images/Normal"
    trees.image(folder / "9999.JPG")
    (folder / "0000.JPG").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(data.load(config, "candle", "train")) == 9
    for part in (
        "1cls.csv is not the published split",
        "1 images of candle/Data/Images/Normal are in no split, the first is 9999.JPG",
        "9 images in train/normal, not 900",
    ):
        assert part in caplog.text


# --------------------------------------------------------------------------------------
# BTAD, and every builder
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("product", ["01", "03"])
def test_btad_mixes_bmp_and_png_and_misses_numbers(config, tmp_path, product):
    from_tree(config, "btad", trees.btad(tmp_path / "tree"))
    assert data.load(config, product, "train").filenames == [
        f"{product}/train/ok/000{i}.bmp" for i in (0, 1, 3)
    ]
    test = data.load(config, product, "test")
    assert test.filenames[1:] == [f"{product}/test/ko/000{i}.bmp" for i in (0, 2)]
    np.testing.assert_array_equal(test[2]["mask"], LEFT_HALF)


def test_an_unknown_data_set_is_suggested_for(config):
    config.name = "mvtec"
    with pytest.raises(
        InputError, match="'mvtec' is not known .did you mean 'mvtec_ad"
    ):
        data.categories(config)


def test_a_download_is_checked_by_its_sha256(config, tmp_path, monkeypatch):
    archive = trees.packed(trees.btad(tmp_path / "tree"), tmp_path / "www/btad.zip")
    config.download = True
    with _served(archive.parent) as (address, _):
        for sha256, works in ((archives.sha256(archive), True), ("0" * 64, False)):
            _publish(monkeypatch, f"{address}/btad.zip", archive.stat().st_size, sha256)
            config.name, config.data_dir = "btad", str(tmp_path / f"prepared {works}")
            if works:
                assert len(data.load(config, "01", "train")) == 3
            else:
                with pytest.raises(InputError, match="NonMatchingChecksumError"):
                    data.load(config, "01", "train")


def test_nothing_is_downloaded_unasked_and_nothing_twice(config, tmp_path, monkeypatch):
    archive = trees.packed(trees.btad(tmp_path / "tree"), tmp_path / "www/btad.zip")
    config.name = "btad"
    with _served(archive.parent) as (address, asked):
        size, sha256 = archive.stat().st_size, archives.sha256(archive)
        _publish(monkeypatch, f"{address}/btad.zip", size, sha256)
        with pytest.raises(NotHere) as error:
            data.load(config, "01", "train")
        assert not asked
        config.download = True
        assert len(data.load(config, "01", "train")) == 3
        assert "GET" in asked
    # The other categories are prepared from what is there, also without a network.
    config.download = False
    assert len(data.load(config, "03", "train")) == 3
    manual = f"{config.data_dir}/downloads/manual"
    assert str(error.value).splitlines() == [
        "the data set is not on this machine, and is not downloaded unasked.",
        "It is btad.zip, 0.0 GB, under the licence CC BY-SA 4.0.",
        f"It comes from {address}/btad.zip",
        f"Put it, or the folder extracted from it, into {manual}, or into any folder "
        "that --config.dataset.manual_dir=FOLDER names.",
        "Or add --config.dataset.download=True, which downloads it.",
    ]
    assert error.value.question == (
        "Download btad.zip, 0.0 GB, under the licence CC BY-SA 4.0, from "
        f"{address}/btad.zip to {config.data_dir}/downloads?"
    )


def test_what_is_not_here_is_found_without_a_builder(config, tmp_path):
    config.name = "btad"
    with pytest.raises(NotHere) as slow:
        data.load(config, "01", "train")
    # What that has left is no data.
    with pytest.raises(NotHere) as quick:
        data.require_here(config)
    assert str(quick.value) == str(slow.value)
    assert quick.value.question == slow.value.question
    config.download = True
    data.require_here(config)
    config.download, config.manual_dir = False, str(tmp_path / "manual")
    with pytest.raises(InputError, match="manual_dir=.* is not a folder"):
        data.require_here(config)
    (tmp_path / "manual").mkdir()
    with pytest.raises(InputError, match="is empty.\nIt is btad.zip, 1.2 GB"):
        data.require_here(config)


def test_what_may_be_data_is_left_to_the_builder(config, tmp_path):
    config.name, home = "btad", pathlib.Path(config.data_dir)
    for there in (
        "downloads/manual/btad",  # whatever it is, it is looked into
        "downloads/avire.dimi.unid_pape_btad_btad123.zip",
        "downloads/btad/avire.dimi.unid_pape_btad_btad123.zip",
        "btad/03/1.0.0",
    ):
        (home / there).mkdir(parents=True)
        data.require_here(config)
        shutil.rmtree(home)
    for other in ("downloads/extracted/btad", "mvtec_ad/bottle/1.0.0", "btad/03"):
        (home / other).mkdir(parents=True)
        with pytest.raises(NotHere):
            data.require_here(config)
    config.data_dir, config.manual_dir = "", str(tmp_path)
    data.require_here(config)
    config.name, config.manual_dir = "elpv", ""
    data.require_here(config)


def test_categories_are_those_that_builders_have():
    for name in builders.NAMES:
        made = builders._class(name)
        config = config_lib.base().dataset
        config.name = name
        everything, known = builders.categories(config)
        assert everything == made.CATEGORIES
        variants = [builders._variant(config, category) for category in known]
        assert set(variants) <= made.builder_configs.keys()
    assert known == ("01", "02", "03")
    config.name = "elpv"
    assert builders.categories(config)[1] == tuple(
        builders._class("elpv").builder_configs
    )


@contextlib.contextmanager
def _served(folder):
    """The address of a server of the folder, and the methods that it is asked."""
    asked = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.command)

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def _publish(monkeypatch, url, size, sha256):
    """BTAD's archive is this one, with the counts of the small tree."""
    from tensorflow_datasets.core.download import checksums

    archive = dataclasses.replace(
        btad.Builder.ARCHIVE, url=url, size=size, sha256=sha256
    )
    monkeypatch.setattr(btad.Builder, "ARCHIVE", archive)
    info = checksums.UrlInfo(size=size, checksum=sha256, filename="btad.zip")
    monkeypatch.setattr(btad.Builder, "url_infos", {url: info})
    counts = {"train/ok": 3, "test/ok": 1, "test/ko": 2}
    monkeypatch.setattr(btad.Builder, "published_counts", lambda self: counts)


def test_nothing_needs_tensorflow_and_nothing_is_printed(tmp_path):
    trees.mvtec_ad(tmp_path / "tree")
    program = """
import sys
from jaxad import config, data
dataset = config.base().dataset
dataset.name, dataset.data_dir, dataset.manual_dir = "mvtec_ad", *sys.argv[1:]
dataset.image_size = (6, 8)
for batch in data.eval_batches(data.load(dataset, "grid", "test"), 3):
    assert batch["image"].shape == (3, 6, 8, 3)
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            program,
            tmp_path / "p",
            tmp_path / "tree",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if "differs from" not in line]
    assert lines == []


def test_every_builder_says_where_its_data_come_from():
    for name in builders.NAMES:
        folder = ROOT / "tfds_builders" / name
        for file in ("README.md", "CITATIONS.bib", "TAGS.txt"):
            assert (folder / file).read_text()
    for builder in (mvtec_ad.Builder, visa.Builder, btad.Builder):
        archive = builder.ARCHIVE
        table = ROOT / "tfds_builders" / builder.name / "checksums.tsv"
        assert table.read_text().split() == [
            archive.url,
            str(archive.size),
            archive.sha256,
            archive.name,
        ]


def test_images_keep_their_bytes(config, tmp_path):
    root = trees.visa(tmp_path / "tree")
    from_tree(config, "visa", root)
    split = data.load(config, "candle", "train")
    assert split.read(4)[0] == (root / split.filenames[4]).read_bytes()
    Image.open(root / split.filenames[4]).verify()
