"""What the check says of masks: literal sentences of small masks."""

import io

import numpy as np
import pytest
import trees
from PIL import Image

from jaxad import data
from jaxad.data import images
from jaxad.data.images import Geometry
from jaxad.run import masks


def told(mask, geometry, *, label=1, has_masks=True, ids=False, size=None, turn=1):
    """kind -> detail of one mask: an array, an image, bytes, or several of these."""

    def encoded(one):
        if isinstance(one, np.ndarray):
            one = Image.fromarray(one)
        return one if isinstance(one, bytes) or one is None else trees.encoded(one)

    several = isinstance(mask, tuple)
    files = tuple(map(encoded, mask)) if several else encoded(mask)
    split = data.Split(
        name="test",
        filenames=["bad/0.png"],
        labels=np.array([label], np.int32),
        defect_types=["bad"],
        has_masks=has_masks,
        geometry=geometry,
        version="1",
        read=lambda i: (b"", files),
        mask_ids=ids,
    )
    if size is None:
        size = geometry.size if mask is None else mask.shape
    found = list(masks.notes(split, 0, files, size, turn))
    assert {note.file for note in found} <= {"bad/0.png"}
    assert len({note.kind for note in found}) == len(found)
    return {note.kind: note.detail for note in found}


def squares(shape, *corners, side=8, value=255):
    mask = np.zeros(shape, np.uint8)
    for y, x in corners:
        mask[y : y + side, x : x + side] = value
    return mask


def test_small_defects_vanish():
    # Of 2000 x 2000, 8 pixels are nine tenths of one of 224 x 224.
    one = squares((2000, 2000), (500, 500))
    geometry = Geometry((224, 224))
    assert not geometry.mask(one).any()
    assert told(one, geometry) == {
        "mask emptied by resizing": "64 pixels, of which none is left at 224 x 224"
    }
    assert told(one, Geometry((448, 448))) == {}
    assert told(one, Geometry((2000, 2000))) == {}


def test_some_of_several_defects_vanish():
    mask = squares((400, 400), (20, 20), (200, 300), (390, 390), side=6)
    mask[100:140, 100:140] = 255
    # A diagonal touch is one defect.
    mask[106 + 60 : 112 + 60, 150:156] = 255
    mask[112 + 60 : 118 + 60, 156:162] = 255
    assert told(mask, Geometry((40, 40))) == {
        "defects lost by resizing": "4 of 5 at 40 x 40"
    }
    assert told(mask, Geometry((200, 200))) == {}


def test_what_the_crop_leaves_out():
    # 100 x 100, of which the middle 50 are looked at.
    geometry = Geometry((50, 50), "resize_crop", 100)
    assert told(squares((100, 100), (4, 4)), geometry) == {
        "mask cropped away": "64 pixels outside of the centre that is looked at"
    }
    assert told(squares((100, 100), (40, 21)), geometry) == {
        "mask partly cropped away": "50% of 64 pixels"
    }
    assert told(squares((100, 100), (40, 40)), geometry) == {}
    # A defect outside is none that resizing has lost.
    both = squares((100, 100), (4, 4), (40, 40))
    assert told(both, geometry) == {"mask partly cropped away": "50% of 128 pixels"}


@pytest.mark.parametrize(
    ("mask", "detail"),
    [
        (255 - squares((32, 32), (8, 8)), "94% of the pixels, 100% of the border"),
        (255 - squares((32, 32), (8, 8), side=20), "61% of the pixels, 100% of the"),
        (squares((32, 32), (1, 1), side=31), "94% of the pixels, 48% of the border"),
    ],
)
def test_inverted_and_nearly_full(mask, detail):
    found = told(mask, Geometry((32, 32)))
    (kind,) = found
    assert kind == "mask of nearly all of its image, perhaps inverted"
    assert found[kind].startswith(detail)


def test_large_defects_are_no_inverted_masks():
    whole = squares((32, 32), (3, 3), side=26)  # two thirds, and no border
    half = squares((32, 32), (0, 0), side=32)
    half[:, 16:] = 0
    for mask in (whole, half):
        assert told(mask, Geometry((32, 32))) == {}


def test_values_that_need_a_word():
    geometry = Geometry((1, 8))
    kind = "mask with other values than 0 and 255"

    def of(*values):
        found = told(np.array([values], np.uint8), geometry)
        return found.pop(kind, None)

    assert of(0, 0, 1, 1) is of(0, 255, 255, 0) is of(0, 0, 255, 0) is None
    assert of(0, 3, 0, 0) == "0, 3; anomalous where not 0"
    assert of(0, 0, 0, 1, 2, 3, 4, 5) == "0, 1, 2, 3, ...; anomalous where not 0"
    assert of(0, 0, 1, 2, 2, 254, 255, 0) == (
        "0, 1, 2, 254, ...; anomalous above 127.5, 3 pixels of less count as normal"
    )
    deep = np.array([[0, 0, 65535, 65535]], np.uint16)
    assert told(deep, geometry) == {}
    # Where a data set has class ids, they are what is expected.
    assert told(np.array([[0, 0, 5, 1]], np.uint8), geometry, ids=True) == {}


def test_empty_masks():
    empty = np.zeros((6, 8), np.uint8)
    kind = "empty mask of an anomalous image"
    assert told(empty, Geometry((6, 8))) == {kind: ""}
    assert told(empty, Geometry((6, 8)), label=0) == {}
    ids = Image.fromarray(squares((6, 8), (1, 1), side=3, value=1), "P")
    ids.putpalette([0] * 768)
    found = told(ids, Geometry((6, 8)), size=(6, 8))
    assert found == {kind: "its palette makes all of it black"}
    assert told(ids, Geometry((6, 8)), size=(6, 8), ids=True) == {}


def test_masks_that_are_missing_or_wrong():
    geometry = Geometry((6, 8))
    assert told(None, geometry) == {"anomalous image without mask": ""}
    assert told(None, geometry, has_masks=False) == {}
    assert told(None, geometry, label=0) == {}
    square = squares((6, 8), (1, 1), side=3)
    kind = "normal image with a mask that is not empty"
    assert told(square, geometry, label=0) == {kind: ""}
    assert told(b"", geometry, size=(6, 8)) == {"unreadable mask": "the file is empty"}
    assert told(square, geometry, size=(6, 9)) == {
        "mask of another size": "6 x 8, image 6 x 9"
    }
    assert told(square, geometry, size=(8, 6)) == {
        "mask of another size": "6 x 8, image 8 x 6; one of them is turned, perhaps by "
        "its EXIF orientation"
    }


@pytest.mark.parametrize(
    ("shape", "turn", "unclear"),
    [
        ((8, 8), 1, False),
        ((8, 8), 6, True),
        ((6, 8), 3, True),  # upside down
        ((6, 8), 6, False),  # as stored it would be 8 x 6
    ],
)
def test_masks_of_turned_images_whose_shape_does_not_tell(shape, turn, unclear):
    kind = "mask taken as drawn on the image as EXIF turns it"
    mask = squares(shape, (1, 1), side=3)
    want = {kind: f"EXIF orientation {turn}"} if unclear else {}
    assert told(mask, Geometry(shape), turn=turn) == want
    # One that is turned as its image is has been drawn on what is stored.
    file, exif = io.BytesIO(), Image.Exif()
    exif[274] = turn
    Image.fromarray(mask).save(file, "png", exif=exif)
    assert images.orientation(file.getvalue()) == turn
    assert kind not in told(file.getvalue(), Geometry((8, 8)), size=(8, 8), turn=turn)


def test_several_masks_of_one_image_count_together():
    one, other = squares((40, 40), (4, 4)), squares((40, 40), (24, 24), side=2)
    assert told((one, other), Geometry((40, 40)), size=(40, 40)) == {}
    assert told((one, other), Geometry((10, 10)), size=(40, 40)) == {
        "defects lost by resizing": "1 of 2 at 10 x 10"
    }
    assert told((one, other[1:]), Geometry((40, 40)), size=(40, 40)) == {
        "mask of another size": "39 x 40, image 40 x 40"
    }


# --------------------------------------------------------------------------------------
# All together
# --------------------------------------------------------------------------------------


def whole(geometry, sizes, kinds, *, labels=(0, 1, 1, 1), has_masks=True):
    split = data.Split(
        name="test",
        filenames=[f"{i}.png" for i in range(len(labels))],
        labels=np.array(labels, np.int32),
        defect_types=["bad"] * len(labels),
        has_masks=has_masks,
        geometry=geometry,
        version="1",
        read=None,
    )
    return [(note.file, note.kind, note.detail) for note in masks.of_split(
        split, sizes, kinds
    )]  # fmt: skip


def test_images_that_pixel_metrics_take_for_normal():
    kinds = [
        set(),
        {"mask emptied by resizing", "mixed sizes"},
        {"anomalous image without mask"},
        {"mask partly cropped away"},
    ]
    assert whole(Geometry((6, 8)), [(6, 8)] * 4, kinds) == [
        (
            "test",
            "anomalous images without an anomalous pixel",
            "2 of 3 at 6 x 8; pixel metrics take all of them for normal",
        )
    ]
    assert whole(Geometry((6, 8)), [(6, 8)] * 4, kinds, has_masks=False) == []


def test_padding_is_counted():
    sizes = [(10, 20), (20, 10), (10, 10)]  # half, half and nothing
    found = whole(Geometry((8, 8), "pad"), sizes, [set()] * 3)
    assert found == [
        ("test", "padding counts as normal pixels", "33% of all pixels at 8 x 8")
    ]
    assert whole(Geometry((8, 8)), sizes, [set()] * 3) == []
    assert whole(Geometry((8, 8), "pad"), [], []) == []
