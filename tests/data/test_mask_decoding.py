"""Mask files to what is anomalous: every way that people store one."""

import io

import numpy as np
import pytest
import trees
from PIL import Image

from jaxad import data
from jaxad.data import images

# A defect of 3 x 4 pixels, in no corner, and unlike itself when turned.
DEFECT = np.zeros((16, 24), np.uint8)
DEFECT[2:5, 3:7] = 1
WHITE = Image.fromarray(DEFECT * 255)


def as_rgb(normal, defect):
    pixels = np.where(DEFECT[..., None] == 1, np.uint8(defect), np.uint8(normal))
    return Image.fromarray(pixels)


def decoded(image, kind="PNG", ids=False, **options):
    return images.decode_mask(trees.encoded(image, kind, **options), ids=ids)


def with_palette(colours, indices=DEFECT):
    image = Image.fromarray(indices, "P")
    image.putpalette(sum(colours, ()))
    return image


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (WHITE, "PNG"),
        (Image.fromarray(DEFECT), "PNG"),
        (Image.fromarray(DEFECT * 7), "BMP"),
        (WHITE.convert("1"), "PNG"),
        (WHITE.convert("1"), "BMP"),
        (WHITE.convert("RGB"), "WEBP"),
        (WHITE.convert("LA"), "PNG"),
        (WHITE.convert("RGBA"), "TIFF"),
        (WHITE.convert("CMYK"), "TIFF"),
        (WHITE.convert("YCbCr"), "TIFF"),
        (WHITE, "GIF"),
        (WHITE, "JPEG2000"),
        (WHITE, "PPM"),
        (as_rgb((0, 0, 0), (128, 0, 0)), "PNG"),
        (as_rgb((0, 0, 0), (0, 0, 255)), "BMP"),
        (WHITE.quantize(2), "PNG"),  # its index 0 is white
        (WHITE.convert("RGB").quantize(2), "GIF"),
        (with_palette([(255, 255, 255), (0, 0, 0)], 1 - DEFECT), "PNG"),
        (with_palette([(0, 0, 0), (0, 60, 120)]), "BMP"),
        (Image.fromarray(DEFECT.astype(np.uint16)), "PNG"),
        (Image.fromarray(DEFECT.astype(np.uint16) * 255), "TIFF"),
        (Image.fromarray(DEFECT.astype(np.uint16) * 65535), "PNG"),
        (Image.fromarray(DEFECT.astype(np.uint16) * 300), "PPM"),
        (Image.fromarray(DEFECT.astype(np.int32) * 70000), "TIFF"),
        (Image.fromarray(DEFECT.astype(np.float32)), "TIFF"),
        (Image.fromarray(DEFECT.astype(np.float32) * 255), "TIFF"),
    ],
)
def test_the_same_mask_in_many_ways(image, kind):
    got = decoded(image, kind)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, DEFECT)


@pytest.mark.parametrize("photometric", [0, 1])
def test_one_bit_tiffs_whichever_is_white(photometric):
    stored = WHITE.convert("1")
    encoded = trees.encoded(
        stored, "TIFF", compression="group4", tiffinfo={262: photometric}
    )
    expected = np.asarray(Image.open(io.BytesIO(encoded)))
    np.testing.assert_array_equal(images.decode_mask(encoded), expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 0], [0, 0, 0]),
        ([255, 255], [1, 1]),
        ([0, 1, 0], [0, 1, 0]),
        ([0, 1, 2, 3, 127], [0, 1, 1, 1, 1]),  # class ids
        ([0, 60, 120, 180, 240], [0, 1, 1, 1, 1]),  # a grey a class
        ([0, 64, 128, 192, 255], [0, 1, 1, 1, 1]),
        ([0, 235], [0, 1]),
        ([0, 1, 2, 3, 252, 253, 254, 255], [0, 0, 0, 0, 1, 1, 1, 1]),  # JPEG
        ([2, 250], [0, 1]),
        ([0, 15, 255], [0, 0, 1]),  # closer to 0 than a sixteenth
        ([0, 16, 255], [0, 1, 1]),
        ([0, 127, 128, 255], [0, 0, 1, 1]),
        ([0, 240, 250, 255], [0, 1, 1, 1]),  # a grey a defect, as MVTec LOCO has it
    ],
)
def test_the_rule_by_hand(values, expected):
    assert images.anomalous(np.array([values], np.uint8)).tolist() == [expected]
    # The same in 16 bits, and as floats, at their ranges.
    if max(values) > 1:
        deep = np.array([values], np.uint16)
        assert images.anomalous(deep).tolist() == [expected]
    if max(values) > 127:
        assert images.anomalous(deep * 257).tolist() == [expected]
        floats = np.array([values], np.float32) / 255
        assert images.anomalous(floats).tolist() == [expected]


def test_large_labels_are_ids():
    values = np.array([[0, 70000, 70001, 2**31 - 1]], np.int32)
    assert images.anomalous(values).tolist() == [[0, 1, 1, 1]]


@pytest.mark.parametrize("quality", [60, 75, 95])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_masks_are_cut_at_half(quality, mode):
    large = WHITE.resize((240, 160), Image.Resampling.NEAREST)
    truth = np.asarray(large) > 0
    encoded = trees.encoded(large.convert(mode), "JPEG", quality=quality)
    stored = np.asarray(Image.open(io.BytesIO(encoded)).convert("L"))
    assert ((stored > 0) & ~truth).sum() > 50  # what not 0 would call anomalous
    np.testing.assert_array_equal(images.decode_mask(encoded), truth)


def test_smoothed_masks_are_cut_at_half():
    soft = WHITE.resize((240, 160), Image.Resampling.BILINEAR)
    assert decoded(soft).sum() == (np.asarray(soft) >= 128).sum() == 1160
    # Two colours of its own are left of it, neither of which is 0 or 255.
    few = decoded(soft.convert("RGB").quantize(2))
    assert 1000 < few.sum() < 2500


# What each orientation of EXIF does to what is stored.
TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].T,
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_masks_are_turned_as_images_are(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = WHITE.resize((240, 160), Image.Resampling.NEAREST)
    encoded = trees.encoded(large, kind, exif=exif)
    mask = images.decode_mask(encoded)
    np.testing.assert_array_equal(mask, TURNED[orientation](np.asarray(large) > 0))
    assert mask.shape == images.decode_image(encoded).size[::-1]


# --------------------------------------------------------------------------------------
# Alpha
# --------------------------------------------------------------------------------------


def rgba(colour, alpha):
    """Colours where normal and where not, and so the alphas."""
    pixels = np.zeros((*DEFECT.shape, 4), np.uint8)
    for value in (0, 1):
        pixels[DEFECT == value] = (*colour[value], alpha[value])
    return Image.fromarray(pixels)


BLACK, RED, SNOW = (0, 0, 0), (255, 0, 0), (255, 255, 255)


@pytest.mark.parametrize(
    ("colour", "alpha"),
    [
        ((BLACK, BLACK), (0, 255)),  # alpha alone
        ((SNOW, SNOW), (0, 255)),
        ((SNOW, BLACK), (0, 255)),  # a black pen on nothing
        ((BLACK, RED), (0, 255)),
        ((BLACK, RED), (0, 100)),
        ((SNOW, RED), (0, 255)),
        ((BLACK, SNOW), (255, 200)),  # all of it can be seen
        ((BLACK, SNOW), (0, 0)),  # nothing can
        ((BLACK, SNOW), (255, 255)),
    ],
)
def test_alpha(colour, alpha):
    np.testing.assert_array_equal(decoded(rgba(colour, alpha)), DEFECT)
    np.testing.assert_array_equal(decoded(rgba(colour, alpha), "WEBP", lossless=True,
                                          exact=True), DEFECT)  # fmt: skip


def test_what_is_transparent_is_normal_where_colours_tell():
    image = rgba((BLACK, SNOW), (255, 255))
    image.paste((255, 255, 255, 0), (12, 8, 24, 16))  # such as beside a turned picture
    np.testing.assert_array_equal(decoded(image), DEFECT)


def test_grey_with_alpha():
    grey = Image.fromarray(np.zeros_like(DEFECT))
    image = Image.merge("LA", (grey, WHITE))
    np.testing.assert_array_equal(decoded(image), DEFECT)
    np.testing.assert_array_equal(decoded(image, "TIFF"), DEFECT)


def test_grey_with_alpha_of_16_bits():
    deep = DEFECT.astype(np.uint16)
    for grey, alpha in (
        (deep, np.full_like(deep, 65535)),  # 0 and 1
        (deep * 300, np.full_like(deep, 9)),
        (np.zeros_like(deep), deep),
    ):
        encoded = trees.png16(np.stack([grey, alpha], axis=-1))
        np.testing.assert_array_equal(images.decode_mask(encoded), DEFECT)


def test_a_palette_with_transparency():
    image = with_palette([(255, 255, 255), (255, 255, 255)])
    encoded = trees.encoded(image, transparency=b"\x00\xff")
    np.testing.assert_array_equal(images.decode_mask(encoded), DEFECT)


# --------------------------------------------------------------------------------------
# Class ids
# --------------------------------------------------------------------------------------


def test_class_ids_are_kept_where_a_data_set_has_them():
    ids = np.array([[0, 1, 7], [2, 0, 255]], np.uint8)
    black = with_palette([BLACK] * 256, ids)
    for image in (Image.fromarray(ids), black):
        encoded = trees.encoded(image)
        np.testing.assert_array_equal(images.mask_values(encoded, ids=True), ids)
        np.testing.assert_array_equal(images.decode_mask(encoded, ids=True), ids != 0)
    # Others have colours.
    assert not decoded(black).any()
    assert images.decode_mask(trees.encoded(Image.fromarray(ids))).tolist() == [
        [0, 0, 0],
        [0, 0, 1],
    ]


def test_a_split_says_whether_it_has_class_ids():
    ids = np.zeros((6, 8), np.uint8)
    ids[:3] = 5
    image, mask = Image.new("L", (8, 6)), with_palette([BLACK] * 256, ids)
    for has_ids in (False, True):
        split = data.Split(
            name="test",
            filenames=["0.png"],
            labels=np.array([1], np.int32),
            defect_types=["bad"],
            has_masks=True,
            geometry=images.Geometry((6, 8)),
            version="1",
            read=lambda i: (trees.encoded(image), trees.encoded(mask)),
            mask_ids=has_ids,
        )
        assert split[0]["mask"].sum() == (24 if has_ids else 0)


# --------------------------------------------------------------------------------------
# What is none
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_values_without_a_meaning(value):
    image = Image.fromarray(np.array([[0, value]], np.float32))
    with pytest.raises(images.Unreadable, match="negative or not finite"):
        decoded(image, "TIFF")


def test_files_that_are_broken():
    encoded = trees.encoded(WHITE)
    for broken in (b"", b"mask", encoded[: len(encoded) // 2]):
        with pytest.raises(images.Unreadable):
            images.decode_mask(broken)
