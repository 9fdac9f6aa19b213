"""How own images may be laid out, and that whatever is not taken is told of."""

import os
import pathlib

import pytest
import trees

from jaxad import config as config_lib
from jaxad import data
from jaxad.data import images
from jaxad.errors import InputError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "bottle"


@pytest.fixture
def config(root):
    config = config_lib.base().dataset
    config.name, config.path, config.image_size = "folder", str(root), (6, 8)
    return config


def make(root, *names):
    """Images of different pixels, and masks where a folder says so."""
    for i, name in enumerate(names):
        path = root / name
        if {"ground_truth", "masks", "Masks", "mask", "gt"} & set(path.parts):
            trees.mask(path)
        else:
            trees.image(path, mark=i)


def split(config, name="test", category="bottle"):
    """(file, label, kind of the defect, number of masks) of all images."""
    assert category in data.categories(config)
    found = data.load(config, category, name)
    masks = [found.read(i)[1] for i in range(len(found))]
    counts = [len(m) if isinstance(m, tuple) else int(m is not None) for m in masks]
    labels = found.labels.tolist()
    return list(zip(found.filenames, labels, found.defect_types, counts, strict=True))


def notes(config, category="bottle"):
    """(file, kind) of everything that is told of."""
    return {
        (note.file, note.kind): (note.detail, note.grave)
        for name in ("train", "test")
        for note in data.load(config, category, name).notes
    }


# ---- Layouts


def test_mvtec_loco(config, root):
    make(
        root,
        *("train/good/000.png", "validation/good/000.png", "validation/good/001.png"),
        *("test/good/000.png", "test/logical_anomalies/000.png"),
        *("test/logical_anomalies/001.png", "test/structural_anomalies/000.png"),
        "ground_truth/structural_anomalies/000/000.png",
    )
    for name, box in (("000", (0, 1)), ("001", (4, 5))):
        trees.mask(root / f"ground_truth/logical_anomalies/001/{name}.png", 0)
        path = root / f"ground_truth/logical_anomalies/001/{name}.png"
        mask = images.Image.open(path).copy()
        mask.paste(255, (box[0], 0, box[1], 6))
        mask.save(path)
    make(root, "ground_truth/logical_anomalies/000/000.png")
    assert split(config) == [
        ("test/good/000.png", 0, "good", 0),
        ("test/logical_anomalies/000.png", 1, "logical_anomalies", 1),
        ("test/logical_anomalies/001.png", 1, "logical_anomalies", 2),
        ("test/structural_anomalies/000.png", 1, "structural_anomalies", 1),
    ]
    mask = data.load(config, "bottle", "test")[2]["mask"]
    assert mask[0].tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    assert notes(config) == {
        ("validation/good/", "image outside of train and test"): (
            "2, such as 000.png",
            False,
        )
    }


def test_mvtec_ad_2(config, root):
    make(
        root,
        *("train/good/000_regular.png", "validation/good/000_regular.png"),
        *("test_public/good/000_regular.png", "test_public/bad/000_overexposed.png"),
        "test_public/ground_truth/bad/000_overexposed_mask.png",
        *("test_private/000.png", "test_private/001.png"),
        "test_private_mixed/000_mixed.png",
    )
    assert split(config, "train") == [("train/good/000_regular.png", 0, "good", 0)]
    assert split(config) == [
        ("test_public/good/000_regular.png", 0, "good", 0),
        ("test_public/bad/000_overexposed.png", 1, "bad", 1),
    ]
    outside = "image outside of train and test"
    assert set(notes(config)) == {
        ("test_private/", outside),
        ("test_private_mixed/000_mixed.png", outside),
        ("validation/good/000_regular.png", outside),
    }


@pytest.mark.parametrize(
    ("good", "bad"),
    [("good", "bad"), ("OK", "NG"), ("Normal", "Anomalous"), ("ok", "nok")],
)
def test_good_and_bad_side_by_side(config, root, good, bad):
    make(root, *(f"{good}/{i:03}.png" for i in range(10)))
    make(root, f"{bad}/000.png", f"{bad}/001.png", f"ground_truth/{bad}/000_mask.png")
    train, test = split(config, "train"), split(config)
    assert [len(train), len(test)] == [8, 4]
    assert {label for _, label, *_ in train} == {0}
    assert test[2:] == [(f"{bad}/000.png", 1, bad, 1), (f"{bad}/001.png", 1, bad, 0)]
    config.test_share = 0.5
    assert [len(split(config, "train")), len(split(config))] == [5, 7]


def test_a_folder_for_each_kind_of_defect_beside_good(config, root):
    config.test_share = 0.0
    make(root, "good/a.png", "dent/a.png", "scratch/monday/a.png", "masks/dent/a.png")
    assert split(config) == [
        ("dent/a.png", 1, "dent", 1),
        ("scratch/monday/a.png", 1, "monday", 0),
    ]
    # Where one is called bad, others are neither.
    make(root, "bad/scratch/b.png", "raw/c.png", "raw/d.png", "front.png")
    assert split(config) == [("bad/scratch/b.png", 1, "scratch", 0)]
    beside = "image outside of the folders of good and bad"
    assert set(notes(config)) == {
        ("dent/a.png", beside),
        ("raw/", beside),
        ("scratch/monday/a.png", beside),
        ("front.png", beside),
        ("masks/dent/a.png", "mask without image"),
    }


def test_names_that_a_config_declares(config, root):
    config.normal_names = ("Gut",)
    make(root, "train/gut/0.png", "test/gut/0.png", "test/kratzer/0.png")
    assert split(config, "train") == [("train/gut/0.png", 0, "good", 0)]
    assert [row[1:3] for row in split(config)] == [(0, "good"), (1, "kratzer")]
    config.normal_names = ()
    (row,) = split(config, "train")
    assert row[1:3] == (1, "gut")


def test_names_that_nothing_is_called_are_refused(config, root):
    """Or test/gut would silently become a kind of defect."""
    make(root, "train/good/0.png", "test/gut/0.png", "test/kratzer/0.png")
    config.normal_names = ("GUT",)
    assert data.categories(config) == ("bottle",)
    config.normal_names = ("gut", "gutt")
    with pytest.raises(InputError, match="normal_names has 'gutt', which no folder or"):
        data.categories(config)
    table = root / "own.csv"
    table.write_text("file,split,label\ntrain/good/0.png,train,Gut\n")
    config.path, config.normal_names = str(table), ("gut",)
    assert data.categories(config) == ("own",)
    config.normal_names = ("gutt",)
    with pytest.raises(InputError, match="normal_names has 'gutt', which no folder or"):
        data.categories(config)


def test_case_does_not_count(config, root):
    make(root, "Train/Good/0.PNG", "TEST/OK/0.JPG", "TEST/Dent/0.bmp")
    make(root, "Ground_Truth/dent/0_MASK.png")
    trees.mask(root / "Ground_Truth/dent/0_MASK.png")
    assert split(config, "train") == [("Train/Good/0.PNG", 0, "good", 0)]
    assert split(config) == [
        ("TEST/OK/0.JPG", 0, "good", 0),
        ("TEST/Dent/0.bmp", 1, "Dent", 1),
    ]


@pytest.mark.parametrize("layout", ["train/good", "train", "good", ""])
def test_normal_images_alone(config, root, layout):
    config.test_share = 0.0
    make(root / layout, "a.png", "b.png")
    prefix = f"{layout}/" if layout else ""
    assert split(config, "train") == [
        (f"{prefix}{name}.png", 0, "good", 0) for name in "ab"
    ]
    assert split(config) == []
    assert notes(config) == {}


def test_folders_are_read_with_all_folders_in_them(config, root):
    days = ("2024-05-01", "2024-05-02/late")
    make(root, *(f"train/good/{day}/0.png" for day in days), "train/good/0.png")
    make(root, *(f"test/dent/{day}/0.png" for day in days))
    make(root, *(f"ground_truth/dent/{day}/0_mask.png" for day in days))
    assert len(split(config, "train")) == 3
    assert split(config) == [(f"test/dent/{day}/0.png", 1, "dent", 1) for day in days]
    assert notes(config) == {}


def test_a_plain_folder_is_read_with_all_folders_in_it(config, root):
    make(root, *(f"2024-05-0{i}/{j}.png" for i in range(5) for j in range(2)), "a.png")
    config.test_share = 0.0
    assert len(split(config, "train")) == 11
    told = "folders in it are taken for normal images"
    assert notes(config) == {(".", told): ("5, such as 2024-05-00", False)}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        # Whether their images are normal is anybody's guess.
        (["gut/0.png", "schlecht/0.png"], "holds gut beside"),
        (["0.png", "rejects/0.png"], "holds rejects beside"),
        (["lot 7/0.png", "lot 7/cracked/0.png"], "holds lot 7/cracked beside"),
        (["0/0.png", "1/0.png"], "holds 0 beside"),
        # One folder alone is the one that is meant.
        (["pictures/0.png"], None),
        (["pictures/day 1/0.png", "pictures/day 2/0.png"], None),
    ],
)
def test_folders_that_may_be_labels(config, root, names, told):
    make(root, *names)
    config.test_share = 0.0
    if told is None:
        assert len(split(config, "train")) == len(names)
    else:
        with pytest.raises(InputError, match=f"{told}.*config.dataset.normal_names"):
            split(config)


def test_pictures_beside_categories_do_not_hide_them(config, tmp_path):
    make(tmp_path, "overview.png", "drawings/a.png", "drawings/b.png")
    trees.mvtec_ad(tmp_path, ["bottle", "cap"])
    make(tmp_path, "nut/good/0.png", "nut/bad/0.png")
    config.path = str(tmp_path)
    assert data.categories(config) == ("bottle", "cap", "nut")
    assert set(notes(config)) == {
        ("../overview.png", "image outside of the categories"),
        ("../drawings/", "image outside of the categories"),
    }
    assert notes(config, "cap") == {}


def test_a_link_keeps_its_name(config, root, tmp_path):
    make(root, "train/good/0.png")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/flask").symlink_to(root)
    for path in (tmp_path / "links", tmp_path / "links/flask"):
        config.path = str(path)
        assert data.categories(config) == ("flask",)
        assert len(data.load(config, "flask", "train")) == 1


@pytest.mark.parametrize(
    "inside",
    [
        "test/a.png",
        "masks/a.png",
        "x/bad/a.png",
        "a/b/ok/a.png",
        "a/b/train/good/a.png",
    ],
)
def test_a_folder_that_is_no_plain_one(config, root, inside):
    make(root, "0.png", inside)
    with pytest.raises(InputError, match="bottle is no folder of normal images alone"):
        split(config)


# ---- Fields


@pytest.mark.parametrize(
    ("layout", "field", "value"),
    [
        ("train/good/0.png", "anomalous_path", "."),
        ("train/good/0.png", "test_share", 0.3),
        ("a/train/good/0.png", "test_share", 0.3),
        ("a/good/0.png", "anomalous_path", "."),
    ],
)
def test_a_field_without_effect_is_refused(config, root, layout, field, value):
    make(root, layout)
    config[field] = value
    with pytest.raises(InputError, match=f"config.dataset.{field}=.* must be left out"):
        data.categories(config)


def test_a_folder_of_anomalous_images_may_have_one_for_each_defect(config, root):
    config.anomalous_path, config.test_share = str(root.parent / "broken"), 0.0
    make(root, "0.png")
    make(root.parent, "broken/0.png", "broken/dent/1.png", "broken/cut/monday/0.png")
    make(root.parent, "broken/masks/dent/1.png", "broken/masks/dent/7.png")
    assert split(config) == [
        ("../broken/0.png", 1, "broken", 0),
        ("../broken/cut/monday/0.png", 1, "cut", 0),
        ("../broken/dent/1.png", 1, "dent", 1),
    ]
    assert set(notes(config)) == {("../broken/masks/dent/7.png", "mask without image")}
    make(root.parent, "broken/good/5.png")
    with pytest.raises(InputError, match="broken holds good; name a folder of anom"):
        split(config)


def test_a_folder_of_anomalous_images_may_lie_in_that_of_normal_ones(config, root):
    config.anomalous_path, config.test_share = str(root / "broken"), 0.0
    make(root, "0.png", "broken/1.png")
    assert len(split(config, "train")) == 1
    assert split(config) == [("broken/1.png", 1, "broken", 0)]


def test_a_folder_of_anomalous_images_holds_some(config, root):
    make(root, "0.png", "1.png")
    (root.parent / "broken").mkdir()
    config.anomalous_path = str(root.parent / "broken")
    with pytest.raises(InputError, match="anomalous_path=.*broken holds no images"):
        split(config)


@pytest.mark.parametrize("path", ["0.png", "own.csv", "."])
def test_anomalous_path_is_another_folder(config, root, path):
    make(root, "0.png")
    (root / "own.csv").touch()
    config.anomalous_path = str(root / path)
    with pytest.raises(InputError, match="anomalous_path=.* (must be|is one picture)"):
        split(config)


# ---- Masks


@pytest.mark.parametrize(
    ("pictures", "masks", "counts"),
    [
        # A name that ends in _mask itself.
        (["face_mask.png"], ["face_mask.png"], [1]),
        (["face_mask.png"], ["face_mask_mask.png"], [1]),
        (["face.png", "face_mask.png"], ["face.png", "face_mask.png"], [1, 1]),
        (
            ["face.png", "face_mask.png"],
            ["face_mask.png", "face_mask_mask.png"],
            [1, 1],
        ),
        # Two of one stem: the one of the same name, or both together.
        (["0.bmp", "0.png"], ["0.png"], [0, 1]),
        (["0.png"], ["0.png", "0_mask.png"], [2]),
        (["0.png"], ["0_mask.bmp", "0_mask.png"], [2]),
        (["0.png"], ["0/a.png", "0/b.png", "0/c.png"], [3]),
        # Composed and decomposed letters.
        (["stück.png"], ["stu\u0308ck_mask.png"], [1]),
        (["stu\u0308ck.png"], ["stück.png"], [1]),
    ],
)
def test_which_mask_belongs_to_which_image(config, root, pictures, masks, counts):
    make(root, "train/good/0.png", *(f"test/bad/{name}" for name in pictures))
    make(root, *(f"ground_truth/bad/{name}" for name in masks))
    assert [row[3] for row in split(config)] == counts


@pytest.mark.parametrize(
    "place",
    [
        *("ground_truth/dent/7.png", "ground_truth/7.png", "masks/dent/7_mask.png"),
        *("masks/7.png", "test/ground_truth/dent/7.png", "test/masks/7.png"),
        *("test/dent/masks/7.png", "ground_truth/test/dent/7.png"),
        *("test/dent/gt/7.png", "Masks/Dent/7.png"),
    ],
)
def test_where_masks_lie(config, root, place):
    make(root, "train/good/0.png", "train/good/7.png", "test/good/7.png")
    make(root, "test/dent/7.png", "test/cut/0.png", place)
    assert split(config)[1:] == [
        ("test/cut/0.png", 1, "cut", 0),
        ("test/dent/7.png", 1, "dent", 1),
    ]
    assert notes(config) == {}


def test_masks_that_cannot_be_placed(config, root):
    make(root, "train/good/0.png", "test/dent/7.png", "test/cut/7.png")
    make(root, "ground_truth/7.png")
    assert notes(config) == {
        ("ground_truth/7.png", "mask of several images"): (
            "2, such as test/cut/7.png",
            True,
        )
    }
    (root / "ground_truth/7.png").unlink()
    # That none at all has an image is grave.
    make(root, "ground_truth/dent/7_seg.png")
    one = ("ground_truth/dent/7_seg.png", "mask without image")
    ((detail, grave),) = notes(config).values()
    assert notes(config).keys() == {one} and "docs/own_images.md" in detail and grave
    make(root, "ground_truth/dent/7.png")
    assert notes(config) == {one: ("", False)}


def test_masks_of_normal_images(config, root):
    """They are to be empty, which the check looks at."""
    make(root, "train/good/0.png", "test/good/0.png", "ground_truth/good/0.png")
    assert split(config) == [("test/good/0.png", 0, "good", 1)]


def test_what_is_told_of_masks(config, root):
    make(root, "train/good/0.png", "test/bad/0.png", "test/bad/0_mask.png")
    make(
        root, "test/bad/1.png", "ground_truth/bad/1.png", "ground_truth/bad/1_mask.png"
    )
    assert notes(config) == {
        ("test/bad/0_mask.png", "image that is named as a mask of another"): ("", True),
        ("test/bad/1.png", "several masks of one image"): ("2, taken together", False),
    }


# ---- What is left out


CLUTTER = (
    *(".ipynb_checkpoints", ".thumbnails", "@eaDir", "lost+found", "__MACOSX"),
    *("$RECYCLE.BIN", "#recycle"),
)


@pytest.mark.parametrize("name", CLUTTER)
def test_clutter_is_no_kind_of_defect(config, root, name):
    make(root, "train/good/0.png", "test/bad/0.png")
    make(root, f"train/{name}/0.png", f"test/{name}/0.png", f"{name}/0.png")
    make(root, f"train/good/{name}/0.png/thumb.png", f"test/bad/{name}/0.png")
    assert [len(split(config, "train")), len(split(config))] == [1, 1]
    assert notes(config) == {}
    make(root.parent, "plain/0.png", f"plain/{name}/0.png")
    config.path, config.test_share = str(root.parent / "plain"), 0.0
    assert len(split(config, "train", "plain")) == 1


def test_every_picture_is_taken_or_told_of(config, root):
    """Of each kind one, and as many notes: nothing is counted twice or not at all."""
    make(
        root,
        *("train/good/0.png", "train/good/deep/1.png", "train/2.png"),
        *("test/3.png", "test/good/4.png", "test/bad/5.png", "other/6.png", "7.png"),
        *("ground_truth/bad/5.png", "ground_truth/bad/8.png", "ground_truth/9.png"),
        *("test/ok/masks/10.png", "val/11.png", "test/bad/masks/.hidden.png"),
    )
    for name in ("train/good/12.heic", "test/bad/13.raw", "ground_truth/bad/14.psd"):
        (root / name).touch()
    for name in ("train/good/15.png", "test/16", "ground_truth/bad/17.png", "18.png"):
        (root / name).symlink_to("/nowhere/at/all.png")
    (root / "notes.txt").touch()
    taken = {row[0] for name in ("train", "test") for row in split(config, name)}
    assert taken == {
        *("train/good/0.png", "train/good/deep/1.png"),
        *("test/good/4.png", "test/bad/5.png"),
    }
    told = {}
    for file, kind in notes(config):
        told.setdefault(kind, set()).add(file)
    unlabelled = {"train/2.png", "test/3.png"}
    outside = {"other/6.png", "7.png", "val/11.png"}
    lost = {"ground_truth/bad/8.png", "ground_truth/9.png", "test/ok/masks/10.png"}
    assert told == {
        "image without a folder that labels it": unlabelled,
        "image outside of train and test": outside,
        "mask without image": lost,
        "picture of a format that is not read": {
            *("train/good/12.heic", "test/bad/13.raw", "ground_truth/bad/14.psd"),
        },
        "link that leads nowhere": {
            *("train/good/15.png", "test/16", "ground_truth/bad/17.png", "18.png"),
        },
    }
    grave = {kind for (_, kind), (_, grave) in notes(config).items() if grave}
    assert grave == {"link that leads nowhere"}


def test_many_of_a_folder_are_counted(config, root):
    make(root, "train/good/0.png")
    for i in range(300):
        (root / f"train/good/{i:03}.heic").touch()
    kind = "picture of a format that is not read"
    assert notes(config) == {("train/good/", kind): ("300, such as 000.heic", False)}


def test_nothing_but_what_cannot_be_read(config, root):
    (root / "monday").mkdir(parents=True)
    for name in ("a.heic", "monday/b.dng"):
        (root / name).touch()
    with pytest.raises(InputError, match=r"cannot be read \(2, such as a.heic\)"):
        data.categories(config)
    (root / "train").mkdir()
    (root / "train/good").symlink_to("/nowhere")
    message = "no training image, but there is: link that leads nowhere: train/good"
    with pytest.raises(InputError, match=message):
        data.load(config, "bottle", "train")


def test_links_to_folders(config, root, tmp_path):
    make(tmp_path, "elsewhere/0.png")
    make(root, "test/bad/1.png")
    (root / "train").mkdir()
    (root / "train/good").symlink_to(tmp_path / "elsewhere")
    (root / "test/good").symlink_to(tmp_path / "elsewhere")
    (root / "test/again").symlink_to(root / "test")
    os.symlink("self", root / "test/bad/self")
    # A folder that two links lead to is both: that its images are too is for the check.
    assert [row[0] for row in split(config, "train")] == ["train/good/0.png"]
    assert [row[0] for row in split(config)] == ["test/good/0.png", "test/bad/1.png"]
    assert set(notes(config)) == {
        ("test/again", "link to a folder that it lies in"),
        ("test/bad/self", "link that leads nowhere"),
    }


def test_a_folder_that_cannot_be_listed(config, root, monkeypatch):
    make(root, "train/good/0.png", "test/bad/0.png", "ground_truth/bad/0.png")
    scandir = os.scandir

    def refuse(path):
        if pathlib.Path(path).name == "ground_truth":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    message = r"ground_truth cannot be read \(Permission denied\); mend or move it"
    with pytest.raises(InputError, match=message):
        data.load(config, "bottle", "test")


@pytest.mark.parametrize("layout", ["train/good", "good", "."])
def test_normal_images_that_are_given(config, root, layout, caplog):
    """As jaxad.fit and jaxad.extend take them: all, whatever the config says."""
    config.update(name="elpv", path="", image_size=(6, 8), limit=1)
    config.normal_names = ("gut",)
    make(root / layout, *(f"{i}.png" for i in range(5)))
    (root / layout / "5.heic").touch()
    assert len(data.good(config, root)) == 5
    assert "picture of a format that is not read: " in caplog.text
    (root / layout / "6.png").symlink_to("/nowhere")
    with pytest.raises(InputError, match="images=.*: link that leads nowhere: .*6.png"):
        data.good(config, root)
    config.check = False
    assert len(data.good(config, root)) == 5


def test_names_that_are_no_unicode(config, root):
    make(root, "train/good/0.png")
    os.rename(
        root / "train/good/0.png", os.fsencode(root / "train/good") + b"/\xe9.png"
    )
    (row,) = split(config, "train")
    assert os.fsencode(row[0]) == b"train/good/\xe9.png"
    config.path = str(root / "train/good")
    assert len(split(config, "train", "good")) == 1
