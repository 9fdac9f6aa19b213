import io
import os
import shutil
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
import trees
from PIL import Image

from jaxad import config as config_lib
from jaxad import data
from jaxad.data import images, tars
from jaxad.errors import InputError
from jaxad.run import decoded


def config_of(path, **changes):
    config = config_lib.base().dataset
    config.update(name="folder", path=str(path), **{"image_size": (8, 8)} | changes)
    return config


def corpus(path, **changes):
    return data.corpus(config_of(path, **changes))


def validation(path):
    return data.validation(config_of(path), corpus(path))


@pytest.fixture
def classes(tmp_path):
    for name, count in (("n02", 3), ("n01", 2)):
        for i in range(count):
            trees.image(tmp_path / f"imagenet/train/{name}/{i}.JPEG", mark=i)
    trees.image(tmp_path / "imagenet/val/n01/0.JPEG")
    return tmp_path / "imagenet"


def test_folders_are_the_classes(classes):
    for path in (classes / "train", classes):  # with val beside it
        split = corpus(path)
        assert split.classes == ("n01", "n02")
        np.testing.assert_array_equal(split.labels, [0, 0, 1, 1, 1])
        assert split.filenames[0] == "n01/0.JPEG"
        assert split[4]["label"] == 1 and split[4]["image"].shape == (8, 8, 3)


def test_val_beside_train_has_its_classes(classes, caplog):
    split = validation(classes)
    assert split.classes == ("n01", "n02") and split.filenames == ["n01/0.JPEG"]
    trees.image(classes / "val/n02/7.JPEG", mark=3)
    split = validation(classes)
    np.testing.assert_array_equal(split.labels, [0, 1])
    assert split[1]["label"] == 1 and split.version != corpus(classes).version
    assert validation(classes / "train") is None
    # A corpus without classes has no use for one.
    assert data.validation(config_of(classes), corpus(classes / "train/n02")) is None
    assert not caplog.records
    trees.image(classes / "val/n03/0.JPEG")
    assert validation(classes) is None
    assert "n03/0.JPEG lies in no folder that is named as one of the 2" in caplog.text


def test_without_folders_there_are_no_classes(classes):
    split = corpus(classes / "train" / "n02")
    assert split.classes == () and len(split) == 3
    np.testing.assert_array_equal(split.labels, 0)
    trees.image(classes / "train" / "alone.png")
    mixed = corpus(classes / "train")
    assert mixed.classes == () and len(mixed) == 6


def test_of_categories_only_normal_training_images_count(tmp_path):
    trees.mvtec_ad(tmp_path, train=3, good=2, bad=2)
    split = corpus(tmp_path)
    assert split.classes == ("bottle", "grid") and len(split) == 6
    np.testing.assert_array_equal(split.labels, [0, 0, 0, 1, 1, 1])
    one = corpus(tmp_path, category="grid")
    assert one.classes == () and len(one) == 3
    assert one[0]["label"] == 0


def test_a_limit_is_of_each_class(classes):
    np.testing.assert_array_equal(corpus(classes, limit=2).labels, [0, 0, 1, 1])


def test_its_version_changes_with_a_picture(classes):
    before = corpus(classes).version
    assert corpus(classes).version == before
    trees.image(classes / "train/n01/0.JPEG", (0, 0, 0), size=(9, 9))
    assert corpus(classes).version != before


def test_large_jpegs_are_decoded_small(tmp_path):
    """A ramp of 640 x 960 pixels, for 64 x 64: at an eighth, and the same to the eye.

    One that lies on its side comes upright from its own eighth.
    """
    ramp = np.add.outer(np.arange(640) / 4, np.arange(960) / 10).astype(np.uint8)
    made = Image.fromarray(ramp).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    trees.save(tmp_path / "a.jpg", made, quality=95)
    trees.save(tmp_path / "b.jpg", made, quality=95, exif=exif)
    trees.save(tmp_path / "c.png", made)
    split = corpus(tmp_path, image_size=(64, 64))
    sizes = [split.decode(split.read(i)[0]).size for i in range(3)]
    assert sizes == [(120, 80), (80, 120), (960, 640)]
    whole = images.decode_image(split.read(0)[0])
    assert whole.size == (960, 640)
    small, want = split[0]["image"], split.geometry.image(whole)
    assert np.abs(small - want).max() < 4 / 255
    turned = np.rot90(small, -1)
    assert np.abs(split[1]["image"] - turned).max() < 8 / 255


def tar_of(path, contents):
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def encoded(image, form):
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def test_imagenets_tar_is_read_as_it_lies(tmp_path):
    """A tar for each class, in it a JPEG in CMYK and a PNG under a JPEG's name."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    blue = Image.new("RGB", (16, 16), (0, 0, 255))
    classes = {
        "n02": {"n02_1.JPEG": encoded(blue, "PNG"), "n02_2.JPEG": b"", "note": b"x"},
        "n01": {"n01_9.JPEG": encoded(red, "JPEG")},
    }
    inner = {
        f"{name}.tar": tar_of(tmp_path / name, content).read_bytes()
        for name, content in classes.items()
    }
    path = tar_of(tmp_path / tars.IMAGENET, inner)
    split = corpus(tmp_path)
    assert split.classes == ("n01", "n02")
    names = ["n01/n01_9.JPEG", "n02/n02_1.JPEG", "n02/n02_2.JPEG"]
    assert split.filenames == names
    np.testing.assert_allclose(split[0]["image"][4, 4], [1, 0, 0], atol=0.02)
    np.testing.assert_array_equal(split[1]["image"][4, 4], [0, 0, 1])
    with pytest.raises(InputError, match="n02_2.JPEG cannot be read .the file is emp"):
        split[2]
    assert validation(tmp_path) is None
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"n02_1.JPEG") + 600])
    with pytest.raises(InputError, match="ILSVRC2012_img_train.tar .*; fetch it again"):
        corpus(path)


def test_imagenets_validation_set_has_its_classes_by_its_numbers(tmp_path):
    """Its first picture is of n01751748, its third of n02105855."""
    picture = encoded(Image.new("RGB", (9, 9)), "JPEG")
    names = "n01751748", "n02105855"
    inner = {
        f"{name}.tar": tar_of(tmp_path / name, {f"{name}_1.JPEG": picture}).read_bytes()
        for name in names
    }
    tar = tar_of(tmp_path / tars.IMAGENET, inner)
    numbers = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in (3, 1)]
    tar_of(tmp_path / tars.IMAGENET_VALIDATION, dict.fromkeys(numbers, picture))
    for path in (tmp_path, tar):
        split = validation(path)
        assert split.filenames == numbers[::-1] and split.classes == names
        np.testing.assert_array_equal(split.labels, [0, 1])
    # As it is extracted, without a folder a class.
    for name in names:
        trees.image(tmp_path / f"extracted/train/{name}/a.JPEG")
    for name in numbers:
        trees.image(tmp_path / "extracted/val" / name)
    np.testing.assert_array_equal(validation(tmp_path / "extracted").labels, [0, 1])


def test_other_tars_hold_folders(tmp_path):
    picture = encoded(Image.new("L", (9, 9), 5), "PNG")
    names = "./train/b/0.png", "./train/a/1.png", "./train/a/._1.png"
    path = tar_of(tmp_path / "own.tar", dict.fromkeys(names, picture))
    split = corpus(path)
    assert split.filenames == ["train/a/1.png", "train/b/0.png"]
    assert split.classes == ("a", "b") and split[1]["label"] == 1
    assert validation(path) is None
    both = tar_of(
        tmp_path / "both.tar", dict.fromkeys((*names, "val/b/1.png"), picture)
    )
    assert corpus(both).filenames == split.filenames
    assert validation(both).filenames == ["val/b/1.png"]
    np.testing.assert_array_equal(validation(both).labels, [1])
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(path)
    with pytest.raises(InputError, match="cannot be read as an uncompressed tar"):
        corpus(tmp_path / "packed.tar")
    with pytest.raises(InputError, match="holds no picture; name another"):
        corpus(tar_of(tmp_path / "none.tar", {"a": b""}))


def test_an_empty_folder_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no picture"):
        corpus(tmp_path / "empty")


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Three pictures, each of one grey."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, root, greys, **options):
        self.root, self.greys = root, greys
        super().__init__(data_dir=root / "data", file_format="array_record", **options)

    def _info(self):
        label = tfds.features.ClassLabel(names=["fish", "dog"])
        image = tfds.features.Image()
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(
            builder=self, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(),
            "validation": list(self._generate_examples())[:1],
        }

    def _generate_examples(self):
        labels = "dog", "fish", "dog"
        for i, (grey, label) in enumerate(zip(self.greys, labels, strict=True)):
            path = self.root / f"{i}.png"
            trees.image(path, (grey,) * 3, mark=grey)
            yield i, {"image": str(path), "label": label}


def prepared(root, greys):
    """The folder in which TFDS has prepared them, anew."""
    shutil.rmtree(root / "data", ignore_errors=True)
    builder = Tiny(root, greys)
    builder.download_and_prepare()
    return builder.data_path


def test_a_corpus_that_tfds_has_prepared(tmp_path, monkeypatch):
    path = prepared(tmp_path, (0, 1, 2))
    split = corpus(path)
    assert split.classes == ("fish", "dog")
    np.testing.assert_array_equal(split.labels, [1, 0, 1])
    assert split[2]["image"].shape == (8, 8, 3)
    tested = validation(path)
    assert tested.classes == ("fish", "dog") and tested.labels.tolist() == [1]
    with monkeypatch.context() as patch:  # read whole but once
        patch.setattr(tfds, "builder_from_directory", None)
        assert corpus(path).version == split.version
    features = path / "features.json"
    features.write_text(features.read_text().replace('"image"', '"photo"', 1))
    with pytest.raises(InputError, match=r"no pictures named image, only \['label"):
        corpus(path)
    (path / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as array_record files"):
        corpus(path)


def levels(split, cache):
    """The greys of pictures, from the cache of decoded ones."""
    kept = decoded.kept(split, str(cache), "corpus")
    assert all(kept.kept(i) for i in range(len(kept)))
    return [round(255 * float(kept[i]["image"].mean())) for i in range(len(kept))]


def test_a_corpus_that_is_prepared_anew_has_its_own_pixels(tmp_path):
    for greys in ([0, 10, 20], [70, 10, 20]):
        split = corpus(prepared(tmp_path, greys))
        assert levels(split, tmp_path / "cache") == greys


@pytest.mark.parametrize("form", ["folder", "train", "tar"])
def test_corpora_of_the_same_names_have_their_own_pixels(form, tmp_path, monkeypatch):
    """Sizes and times are the same too, and one path leads to either."""
    for place, level in (("one", 20), ("other", 70)):
        content = encoded(Image.new("RGB", (9, 9), (level,) * 3), "BMP")
        path = tmp_path / place / ("own.tar" if form == "tar" else "own")
        file = path if form == "tar" else path / form / "a.bmp"
        file.parent.mkdir(parents=True)
        if form == "tar":
            tar_of(path, {"a.bmp": content})
        else:
            file.write_bytes(content)
        os.utime(file, (1e9, 1e9))
        monkeypatch.chdir(tmp_path / place)
        assert levels(corpus(path.name), tmp_path / "cache") == [level]
