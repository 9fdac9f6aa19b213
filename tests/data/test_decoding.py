"""Files of every kind to arrays, and the three geometries."""

import errno
import io
import os

import numpy as np
import pytest
import trees
from PIL import Image, features

from jaxad.data import images
from jaxad.data.images import Geometry
from jaxad.errors import InputError


def decode(encoded):
    """float32 [h, w, 3] at the image's own size."""
    image = images.decode_image(encoded)
    return Geometry(image.size[::-1]).image(image)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_rgb_files_give_their_values(kind):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14
    options = {"lossless": True} if kind == "WEBP" else {}
    got = decode(trees.encoded(Image.fromarray(pixels), kind, **options))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, pixels.astype(np.float32) / 255)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 51, (51, 51, 51)),
        ("1", 255, (255, 255, 255)),
        ("LA", (51, 7), (51, 51, 51)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
    ],
)
def test_colour_modes_become_rgb(mode, value, expected):
    image = Image.new(mode, (3, 2), value)
    got = decode(trees.encoded(image, "TIFF"))
    np.testing.assert_allclose(got[1, 2] * 255, expected, atol=1e-4)


def test_palette_images_take_the_colours_of_the_palette():
    image = Image.new("P", (2, 1), 1)
    image.putpalette([9, 9, 9, 30, 60, 90])
    transparent = trees.encoded(image, "PNG", transparency=b"\x00\x80")
    for encoded in (trees.encoded(image), transparent):
        np.testing.assert_allclose(decode(encoded)[0, 0] * 255, (30, 60, 90), atol=1e-4)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_the_order_of_values(kind):
    values = np.array([[0, 1, 255, 256, 30000, 65535]], np.uint16)
    encoded = trees.encoded(Image.fromarray(values), kind)
    saturated = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))[0, :, 0]
    assert (np.diff(saturated.astype(int)) == 0).any()  # what is to be avoided
    got = decode(encoded)[0, :, 0]
    np.testing.assert_allclose(got, values[0] / 65535, rtol=1e-6)
    assert (np.diff(got) > 0).all()


def test_big_endian_16_bit_tiff():
    values = np.array([[3, 40000]], ">u2")
    image = Image.frombytes("I;16B", (2, 1), values.tobytes())
    got = decode(trees.encoded(image, "TIFF"))[0, :, 0]
    np.testing.assert_allclose(got, [3 / 65535, 40000 / 65535], rtol=1e-6)


@pytest.mark.parametrize("alpha", [False, True])
def test_16_bit_colour_is_read_with_8_bits_a_channel(alpha):
    pixels = np.array([[[0, 0x1234, 0xFFFF], [0x80FF, 0x0100, 0x00FF]]])
    expected = np.array([[[0, 0x12, 0xFF], [0x80, 0x01, 0]]], np.float32) / 255
    if alpha:
        pixels = np.insert(pixels, 3, 0x7777, axis=-1)
    encoded = trees.png16(pixels)
    assert images.kind(encoded) == ("RGBA;16" if alpha else "RGB;16")
    np.testing.assert_allclose(decode(encoded), expected, rtol=1e-6)


def test_16_bit_grey_and_alpha_keeps_all_16_bits():
    values = np.random.default_rng(0).integers(0, 2**16, (5, 7))
    values[0, :4] = 0, 1, 0x1234, 0xFFFF
    encoded = trees.png16(np.stack([values, values.T.reshape(5, 7)], -1))
    assert images.kind(encoded) == "LA;16"
    got = decode(encoded)
    for channel in range(3):
        np.testing.assert_allclose(got[..., channel], values / 65535, rtol=1e-6)
    with pytest.raises(images.Unreadable):
        decode(encoded[: len(encoded) // 2])


def test_floats_must_lie_in_0_to_1():
    inside = Image.fromarray(np.array([[0.0, 0.25, 1.0]], np.float32))
    np.testing.assert_array_equal(
        decode(trees.encoded(inside, "TIFF"))[0, :, 0], [0, 0.25, 1]
    )
    for outside in ([[0.0, 1.5]], [[-0.1, 1.0]], [[np.nan, 1.0]]):
        image = Image.fromarray(np.array(outside, np.float32))
        with pytest.raises(images.Unreadable, match="32-bit values outside"):
            decode(trees.encoded(image, "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind):
    # Stored 2 high and 4 wide; orientation 6 turns it clockwise when shown.
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = trees.encoded(Image.fromarray(pixels), kind, exif=exif)
    assert images.size(encoded) == (32, 16)
    got = decode(encoded)
    assert got.shape == (32, 16, 3)
    assert got[:15].max() < 0.1
    assert got[17:].min() > 0.9


def test_size_reads_a_header_only():
    encoded = trees.encoded(Image.new("RGB", (40, 30)))
    assert images.size(encoded) == (30, 40)
    assert images.size(encoded[:60]) == (30, 40)


def test_names_leave_out_what_is_no_image(tmp_path):
    (tmp_path / "itself.png").symlink_to("itself.png")
    for name in ("b.PNG", "a.JPG", "Größe 1.tiff", ".c.png", "._a.JPG", "d.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert images.names(tmp_path) == ["Größe 1.tiff", "a.JPG", "b.PNG"]
    assert images.names(tmp_path / "missing") == []


def test_names_of_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    def denied(folder):
        raise PermissionError(errno.EACCES, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match="cannot be read \\(Permission denied\\)"):
        images.names(tmp_path)


def test_names_are_bytes(tmp_path):
    name = os.fsdecode(b"gr\xfcn.png")
    (tmp_path / name).touch()
    assert images.names(tmp_path) == [name]


def test_what_pillow_holds_is_decoded_as_its_file():
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    made = [
        Image.fromarray(grey),
        Image.fromarray((grey // 256).astype(np.uint8)),
        Image.new("RGBA", (4, 3), (10, 20, 30, 40)),
        Image.new("CMYK", (4, 3), (0, 255, 255, 0)),
        Image.new("1", (4, 3), 1),
    ]
    for image in made:
        encoded = trees.encoded(image, "TIFF", exif=exif)
        with Image.open(io.BytesIO(encoded)) as opened:
            got = images.of_pillow(opened)
        expected = images.decode_image(encoded)
        assert (got.mode, got.size) == (expected.mode, (3, 4))
        np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))


def test_what_pillow_cannot_turn_into_colour():
    for image in (Image.new("La", (2, 2)), Image.new("L", (0, 2))):
        with pytest.raises(images.Unreadable):
            images.of_pillow(image)


# --------------------------------------------------------------------------------------
# Files as others write them
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("GIF", "P"), ("JPEG2000", "RGB"), ("PPM", "RGB"), ("AVIF", "RGB")],
)
def test_other_formats(kind, mode):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    image = Image.new("RGB", (8, 6), (200, 40, 10))
    encoded = trees.encoded(image, kind)
    assert images.kind(encoded) == mode
    np.testing.assert_allclose(decode(encoded)[3, 4] * 255, (200, 40, 10), atol=3)
    assert images.size(encoded) == (6, 8)


def test_every_suffix_is_of_a_format_that_pillow_has():
    Image.init()
    known = {*Image.EXTENSION, ".avif"}  # which some are built without
    assert known.issuperset(images.SUFFIXES)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG", "MPO"])
def test_of_several_frames_the_first_counts(kind):
    first, second = (Image.new("RGB", (8, 6), (v, v, v)) for v in (10, 200))
    options = {"lossless": True} if kind == "WEBP" else {}
    encoded = trees.encoded(
        first, kind, save_all=True, append_images=[second], **options
    )
    assert images.frames(encoded) == 2
    np.testing.assert_allclose(decode(encoded) * 255, 10, atol=1)
    assert images.frames(trees.encoded(first)) == 1


def test_pgm_of_16_bits():
    values = np.array([[0, 1, 4095, 65535]], ">u2")
    whole = b"P5\n4 1\n65535\n" + values.tobytes()
    np.testing.assert_allclose(decode(whole)[0, :, 0] * 65535, values[0], rtol=1e-6)
    # A file that says 4095 is the most is scaled to it.
    of_12 = b"P5\n4 1\n4095\n" + np.array([[0, 1, 2048, 4095]], ">u2").tobytes()
    np.testing.assert_allclose(
        decode(of_12)[0, :, 0], [0, 1 / 4095, 2048 / 4095, 1], atol=1e-5
    )
    with Image.open(io.BytesIO(whole)) as opened:
        np.testing.assert_array_equal(
            np.asarray(images.of_pillow(opened)), decode(whole)[..., 0]
        )
    assert images.kind(whole) == images.kind(of_12) == "I;16"


def test_16_bit_colour_of_other_formats_is_told():
    colour = b"P6\n1 1\n65535\n" + np.array([0x1234, 0, 0xFFFF], ">u2").tobytes()
    assert images.kind(colour) == "RGB;16"
    np.testing.assert_allclose(decode(colour)[0, 0] * 255, [0x12, 0, 255], atol=1)
    assert images.kind(b"P6\n1 1\n255\n\1\2\3") == "RGB"
    assert images.kind(trees.encoded(Image.new("RGB", (4, 4)), "JPEG2000")) == "RGB"
    made = io.BytesIO(trees.encoded(Image.new("RGB", (4, 4)), "JPEG2000")).getvalue()
    depth = made.find(b"\xff\x4f\xff\x51") + 42
    assert made[depth] == 7  # 8 bits
    assert images.kind(made[:depth] + b"\x0f" + made[depth + 1 :]) == "RGB;16"


def test_tiffs_whose_0_is_white():
    values = np.array([[0, 1000, 65535]], np.uint16)
    encoded = trees.encoded(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    # Pillow turns 8 bits round, and leaves 16 as they are.
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encoded))), values)
    np.testing.assert_allclose(
        decode(encoded)[0, :, 0], [1, 64535 / 65535, 0], rtol=1e-6
    )


def test_tiffs_that_pillow_gives_no_right_values_of():
    colour = np.random.default_rng(0).integers(0, 2**16, (4, 5, 3)).astype(np.uint16)
    planes = trees.tiff(np.moveaxis(colour, -1, 0), samples=3, planar=True)
    with pytest.raises(images.Unreadable, match="16-bit colour in planes"):
        images.decode_image(planes)
    np.testing.assert_array_equal(
        decode(trees.tiff(colour, samples=3)), (colour >> 8).astype(np.float32) / 255
    )
    with pytest.raises(images.Unreadable, match="a TIFF of a kind that Pillow does"):
        images.decode_image(trees.tiff(colour.astype(np.float32), samples=3))
    with pytest.raises(images.Unreadable, match="it is not an image file"):
        images.decode_image(b"<html>not found</html>")


def test_what_has_too_many_pixels_is_named():
    encoded = trees.encoded(Image.new("L", (30, 20)))
    assert images.decode_image(encoded, 600).size == (30, 20)
    assert images.decode_image(encoded, 0).size == (30, 20)
    with pytest.raises(images.Unreadable, match=r"20 x 30 .*max_pixels=599; raise"):
        images.decode_image(encoded, 599)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF"])
def test_pillows_own_limit_does_not_count(monkeypatch, kind):
    encoded = trees.encoded(Image.new("L", (90, 70), 9), kind)
    for limit in (1000, 4000):  # an error, and a warning
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert images.decode_image(encoded).size == (90, 70)
        assert images.size(encoded) == (70, 90)
        assert Image.MAX_IMAGE_PIXELS == limit
        with pytest.raises((Image.DecompressionBombError, Warning)):
            Image.open(io.BytesIO(encoded))


def test_another_thread_may_crop_while_an_image_is_opened():
    """Pillow looks at its limit twice in a crop; in between it must not become None."""
    encoded = trees.encoded(Image.new("L", (2, 2)), "PNG")
    with images._opened(encoded):
        assert 10**9 < Image.MAX_IMAGE_PIXELS
        assert Image.new("L", (4, 4)).crop((1, 1, 3, 3)).size == (2, 2)


@pytest.mark.parametrize("size", [(16384, 12288), (4096, 45000)])
def test_pictures_of_line_cameras_are_read(size):
    # Black, so that a file of some hundred kilobytes is one.
    encoded = trees.encoded(Image.new("1", size), "TIFF", compression="group4")
    assert images.decode_image(encoded).size == size


# --------------------------------------------------------------------------------------
# Masks
# --------------------------------------------------------------------------------------


def test_a_mask_pixel_is_anomalous_above_one_half_of_its_weight():
    # One pixel from two: each has half the weight, and half is not above one half.
    assert Geometry((1, 1)).mask(np.array([[9, 0]])).tolist() == [[0]]
    # Triangle of support 3 over three pixels: weights 2/9, 3/9, 2/9, normalised.
    assert Geometry((1, 1)).mask(np.array([[0, 1, 0]])).tolist() == [[0]]
    assert Geometry((1, 1)).mask(np.array([[1, 1, 0]])).tolist() == [[1]]
    # Enlarged by two: the edge falls between 1/4 and 3/4.
    assert Geometry((1, 4)).mask(np.array([[1, 0]])).tolist() == [[1, 1, 0, 0]]


# --------------------------------------------------------------------------------------
# Geometries
# --------------------------------------------------------------------------------------


def triangle(pixels, size, axis):
    """Antialiased bilinear resizing of one axis, from its definition."""
    pixels = np.moveaxis(pixels, axis, 0)
    n = len(pixels)
    scale = n / size
    out = []
    for i in range(size):
        centre = (i + 0.5) * scale
        distance = abs(np.arange(n) + 0.5 - centre) / max(scale, 1)
        weights = np.clip(1 - distance, 0, None)
        out.append(np.tensordot(weights / weights.sum(), pixels, 1))
    return np.moveaxis(np.array(out), 0, axis)


@pytest.mark.parametrize("size", [(3, 4), (9, 20), (7, 11), (1, 1)])
def test_resize_is_the_antialiased_bilinear_filter(size):
    pixels = np.random.default_rng(0).random((7, 11)).astype(np.float32)
    got = Geometry(size).image(Image.fromarray(pixels))
    expected = triangle(triangle(pixels, size[0], 0), size[1], 1)
    assert got.shape == (*size, 3)
    for channel in range(3):
        np.testing.assert_allclose(got[..., channel], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "resized", "top", "left"),
    [
        ((10, 20), (6, 12), 1, 4),
        ((20, 10), (12, 6), 4, 1),
        # The longer side, 13.2, is rounded down; the offset, 4.5, half to even.
        ((10, 22), (6, 13), 1, 4),
        ((10, 25), (6, 15), 1, 6),  # 5.5
    ],
)
def test_resize_crop_takes_the_centre(shape, resized, top, left):
    pixels = np.random.default_rng(0).random(shape).astype(np.float32)
    got = Geometry((4, 4), "resize_crop", 6).image(Image.fromarray(pixels))
    whole = triangle(triangle(pixels, resized[0], 0), resized[1], 1)
    expected = whole[top : top + 4, left : left + 4]
    np.testing.assert_allclose(got[..., 0], expected, atol=1e-6)


def test_pad_keeps_the_aspect_ratio():
    image = Image.fromarray(np.full((2, 4), 255, np.uint8))
    geometry = Geometry((6, 6), "pad")
    got = geometry.image(image)
    ones = (got == 1).all((1, 2))
    assert ones.tolist() == [False, True, True, True, False, False]
    np.testing.assert_allclose(got[0], np.tile([0.485, 0.456, 0.406], (6, 1)))
    mask = geometry.mask(np.full((2, 4), 3))
    assert mask[:, 0].tolist() == [0, 1, 1, 1, 0, 0]
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("policy", ["resize", "resize_crop", "pad"])
def test_mask_and_image_go_through_the_same_geometry(policy):
    # An image that is its own mask.
    mask = np.zeros((24, 36), np.uint8)
    mask[6:18, 12:24] = 255
    geometry = Geometry((16, 20), policy, 20)
    image = geometry.image(Image.fromarray(mask))
    np.testing.assert_array_equal(geometry.mask(mask), image[..., 0] > 0.5)


@pytest.mark.parametrize("policy", ["resize", "resize_crop", "pad"])
def test_colour_floats_go_the_way_of_their_channels(policy):
    pixels = np.random.default_rng(0).random((9, 14, 3)).astype(np.float32)
    geometry = Geometry((6, 8), policy, 8)
    got = geometry.image(pixels)
    for c in range(3):
        one = geometry.image(Image.fromarray(pixels[..., c]))
        np.testing.assert_array_equal(got[..., c], one[..., c])
    np.testing.assert_array_equal(Geometry((9, 14)).image(pixels), pixels)


# --------------------------------------------------------------------------------------
# And back
# --------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("geometry", "values", "size", "expected"),
    [
        (Geometry((1, 2)), [[0, 1]], (2, 4), [[0, 0.25, 0.75, 1]] * 2),
        (Geometry((2, 4)), [[0, 4, 0, 8]] * 2, (1, 2), [[12 / 7, 4]]),
        # 2 x 4 is 4 x 8 when resized; the map shows columns 2 to 5 of that.
        (
            Geometry((4, 4), "resize_crop", 4),
            [[1, 3, 5, 7]] * 4,
            (2, 4),
            [[NAN, 2.25, 5.75, NAN]] * 2,
        ),
        # Shorter side 4 to 2: the middle two of four columns, each two pixels wide.
        (
            Geometry((2, 2), "resize_crop", 2),
            [[0, 4]] * 2,
            (4, 8),
            [[NAN, NAN, 0, 1, 3, 4, NAN, NAN]] * 4,
        ),
        # 1 x 2 in 4 x 4 lies in rows 1 and 2; what the padding scored does not count.
        (
            Geometry((4, 4), "pad"),
            [[99] * 4, [2, 2, 6, 6], [2, 2, 6, 6], [99] * 4],
            (1, 2),
            [[18 / 7, 38 / 7]],
        ),
    ],
)
def test_a_map_in_the_pixels_of_its_image(geometry, values, size, expected):
    got = geometry.undo(np.array(values, np.float32), size)
    assert got.dtype == np.float32 and got.shape == size
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("policy", ["resize", "resize_crop", "pad"])
@pytest.mark.parametrize("size", [(300, 1600), (1600, 300), (31, 17)])
def test_a_smooth_picture_comes_back(policy, size):
    y, x = (np.linspace(0, 3, side, dtype=np.float32) for side in size)
    smooth = 0.5 + 0.25 * np.sin(x) + 0.25 * np.cos(y)[:, None]
    geometry = Geometry((96, 128), policy, 128)
    got = geometry.undo(geometry.image(Image.fromarray(smooth))[..., 0], size)
    seen = np.isfinite(got)
    np.testing.assert_allclose(got[seen], smooth[seen], atol=0.03)
    if policy != "resize_crop":
        assert seen.all()
        return
    # As much as the crop is of the picture resized, in one piece in the middle.
    shorter = min(size)
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert seen.sum() == len(rows) * len(columns)
    for found, side, shown in ((rows, size[0], 96), (columns, size[1], 128)):
        assert len(found) == pytest.approx(min(side, shown * shorter / 128), abs=1)
        assert found.mean() == pytest.approx((side - 1) / 2, abs=2)


@pytest.mark.parametrize("policy", ["resize", "resize_crop", "pad"])
def test_any_map_comes_back_whole(policy):
    """Of whatever sizes: no NaN inside, and nothing but the values of the map."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        size = tuple(generator.integers(1, 40, 2).tolist())
        to = tuple(generator.integers(1, 20, 2).tolist())
        geometry = Geometry(to, policy, max(to) + int(generator.integers(8)))
        picture = geometry.image(Image.fromarray(np.full(size, 0.5, np.float32)))
        got = geometry.undo(picture[..., 0], size)
        assert got.shape == size
        np.testing.assert_allclose(got[np.isfinite(got)], 0.5, rtol=1e-6)
        assert policy == "resize_crop" or np.isfinite(got).all()
