"""Pictures of maps: colours, shapes, outlines, captions."""

import numpy as np
import pytest
from PIL import Image

from jaxad.errors import InputError
from jaxad.inference import pictures
from jaxad.inference.pictures import Scale

WHITE, MAGENTA = (255, 255, 255), (255, 0, 200)
TOP = 12 + 24 + 6 + 4  # of the panels where there are no details
LEFT = 12


def panels(picture, size, stacked=False):
    """The image and the map of `size` (height, width), out of a picture."""
    pixels, (height, width) = np.asarray(picture), size
    first = pixels[TOP : TOP + height, LEFT : LEFT + width]
    down, right = (height + 8, 0) if stacked else (0, width + 8)
    second = pixels[TOP + down :, LEFT + right :][:height, :width]
    return first, second


def is_colour(pixels, colour):
    return (pixels == np.array(colour)).all(-1)


def test_colours_by_hand():
    """Cold keeps the image; the hottest is red by six tenths."""
    heat = np.zeros((448, 448), np.float32)
    heat[:, 224:] = 2.0
    black = np.zeros((448, 448, 3), np.float32)
    picture = pictures.render(black, heat, Scale(0.0, 2.0), title="a.png")
    plain, heated = panels(picture, (448, 448))
    assert (plain == 0).all() and (heated[:, :224] == 0).all()
    np.testing.assert_allclose(heated[9, 300], (129, 15, 16.8), atol=0.51)
    # Half of it is the middle colour by three tenths.
    half = pictures.render(black, heat / 2, Scale(0.0, 2.0), title="a.png")
    _, heated = panels(half, (448, 448))
    np.testing.assert_allclose(heated[9, 300], (18, 57, 27), atol=0.51)
    # Beyond the scale nothing changes.
    hot = pictures.render(black, heat * 9, Scale(0.0, 2.0), title="a.png")
    np.testing.assert_array_equal(np.asarray(hot), np.asarray(picture))


@pytest.mark.parametrize(
    ("size", "panel", "stacked"),
    [
        ((300, 1600), (188, 1000), True),  # a strip stays a strip
        ((1600, 300), (1000, 188), False),
        ((900, 1600), (338, 600), False),
        ((3000, 4000), (450, 600), False),
        ((300, 300), (448, 448), False),
        ((32, 24), (448, 336), False),
        ((400, 1000), (400, 1000), True),
        ((1, 5000), (1, 1000), True),
    ],
)
def test_both_panels_have_the_images_shape(size, panel, stacked):
    image = Image.new("L", size[::-1], 77)
    picture = pictures.render(
        image, np.zeros(size, np.float32), Scale(0.0, 1.0), title="a.png"
    )
    for found in panels(picture, panel, stacked):
        assert found.shape == (*panel, 3) and (found == 77).all()
    right = LEFT + panel[1] + (0 if stacked else panel[1] + 8)
    pixels = np.asarray(picture)
    assert (pixels[TOP : TOP + panel[0], right : right + 8] == 255).all()
    assert max(picture.size) < 1400


def test_regions_and_masks_are_outlined():
    heat = np.zeros((448, 448), np.float32)
    heat[100:150, 200:300] = 3.0
    mask = np.zeros((448, 448), np.uint8)
    mask[300:340, 50:90] = 7
    grey = np.full((448, 448, 3), 0.5, np.float32)

    def drawn(threshold=None, mask=None):
        scale = Scale(0.0, 4.0, threshold)
        picture = pictures.render(grey, heat, scale, title="a.png", mask=mask)
        plain, heated = panels(picture, (448, 448))
        assert (plain == plain[0, 0]).all()
        return heated

    heated = drawn(threshold=2.0, mask=mask)
    white, magenta = is_colour(heated, WHITE), is_colour(heated, MAGENTA)
    for found, (top, bottom, left, right) in (
        (white, (100, 150, 200, 300)),
        (magenta, (300, 340, 50, 90)),
    ):
        expected = np.zeros((448, 448), bool)
        expected[top:bottom, left:right] = True
        expected[top + 2 : bottom - 2, left + 2 : right - 2] = False
        np.testing.assert_array_equal(found, expected)
    assert (heated[99, 200:300] < 80).all()  # the dark line around it
    assert not is_colour(drawn(threshold=3.5), WHITE).any()
    assert not is_colour(drawn(mask=np.zeros_like(mask)), MAGENTA).any()


def test_a_scratch_thinner_than_a_pixel_is_outlined():
    mask = np.zeros((4000, 4000), np.uint8)
    mask[2001] = 1
    picture = pictures.render(
        Image.new("L", (4000, 4000)), np.zeros((4000, 4000)), Scale(0, 1), title="a",
        mask=mask,
    )  # fmt: skip
    _, heated = panels(picture, (600, 600))
    assert is_colour(heated, MAGENTA)[298:303].any(0).all()


def test_where_nobody_has_looked_is_grey():
    heat = np.zeros((448, 448), np.float32)
    heat[:, :100] = np.nan
    picture = pictures.render(
        np.ones((448, 448, 3)), heat, Scale(0.0, 1.0), title="a.png"
    )
    _, heated = panels(picture, (448, 448))
    np.testing.assert_allclose(heated[:, :100], 0.4 * 255 + 0.6 * 128, atol=0.51)
    assert (heated[:, 100:] == 255).all()


def test_the_bar_says_which_score_a_colour_is():
    heat = np.linspace(0, 1, 448, dtype=np.float32)[::-1, None].repeat(448, 1)
    picture = np.asarray(
        pictures.render(Image.new("L", (448, 448)), heat, Scale(0, 1, 0.5), title="a")
    )
    bar = picture[TOP : TOP + 448, LEFT + 2 * 448 + 16 :][:, 8:15].astype(float)
    np.testing.assert_allclose(bar[0, 0], (215, 25, 28), atol=0.51)
    np.testing.assert_allclose(bar[-1, 0], (40, 50, 160), atol=0.51)
    assert (bar[222:226, 0] < 40).all(-1).any()  # the threshold's line
    assert not (bar[230:, 0] < 35).all(-1).any()


@pytest.mark.parametrize(
    ("low", "high", "height", "expected"),
    [
        (0.0, 1.0, 448, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (17.0, 51.0, 448, ["20", "30", "40", "50"]),
        (0.0012, 0.0471, 448, ["0.01", "0.02", "0.03", "0.04"]),
        (-2.0, 7.0, 120, ["0", "5"]),
        (950.0, 12000.0, 448, ["2000", "4000", "6000", "8000", "10000", "12000"]),
        (3.0, 3.0, 448, ["3"]),
    ],
)
def test_ticks_are_round(low, high, height, expected):
    ticks = pictures.ticks(low, high, height)
    assert [text for _, text in ticks] == expected
    np.testing.assert_allclose([at for at, _ in ticks], np.array(expected, float))


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(4.0, (2.0, 6.0, 4.0)), (None, (1.0, 9.0, None)), (-1.0, (1.0, 9.0, -1.0))],
)
def test_a_scale_for_all_pictures(threshold, expected):
    maps = np.array([0.0, 1.0, np.nan, 9.0])
    assert Scale.of(maps, threshold) == expected


def test_long_names_lose_their_middle():
    font = pictures._font(14)
    name = "line_3/2024-11-27/camera_left/part_000123_shift_B.png"
    assert pictures._shortened(name, font, 1000) == name
    short = pictures._shortened(name, font, 160)
    start, end = short.split("...")
    assert name.startswith(start) and name.endswith(end)
    assert abs(len(start) - len(end)) <= 1
    assert 140 < font.getlength(short) <= 160
    assert pictures._shortened("Größe/é 漢\udcff.png", font, 1000) == "Grosse/e ??.png"


def test_details_take_as_many_lines_as_they_need():
    details = ["bent", *pictures.score_details(1.23456, 1.0, 0.0123)]
    assert details == ["bent", "score 1.235 (threshold 1)", "p = 0.012"]
    dot = "  \N{MIDDLE DOT}  "
    assert pictures._lines(details, 900) == [dot.join(details)]
    assert pictures._lines(details, 170) == ["bent", details[1], details[2]]
    assert pictures._lines([], 900) == []


def test_verdicts_are_stamped_as_they_are_rendered(tmp_path):
    def made(verdict):
        return pictures.render(
            Image.new("L", (40, 30)), np.zeros((30, 40)), Scale(0, 1), title="a",
            verdict=verdict,
        )  # fmt: skip

    path = tmp_path / "deep/a.png"
    for verdict in ("anomalous", "normal"):
        pictures.save(made(""), path)
        pictures.stamp(path, verdict)
        with Image.open(path) as stamped:
            np.testing.assert_array_equal(
                np.asarray(stamped), np.asarray(made(verdict))
            )
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_a_picture_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a.png cannot be written"):
        pictures.save(Image.new("RGB", (2, 2)), tmp_path / "file" / "a.png")


def test_what_is_kept_of_an_image_is_small():
    assert pictures.small(Image.new("L", (4000, 1000), 9)).size == (1000, 250)
    kept = pictures.small(np.full((4, 6, 3), 0.5, np.float32))
    assert kept.mode == "RGB" and kept.getpixel((3, 3)) == (128,) * 3
    # A camera's 12 of 16 bits.
    deep = np.linspace(0, 4095 / 65535, 1000, dtype=np.float32)[None].repeat(9, 0)
    shown = np.asarray(pictures.small(Image.fromarray(deep)))
    assert shown[..., 0].min() == 0 and shown[..., 0].max() == 255
    flat = pictures.small(Image.fromarray(np.full((3, 3), 0.25, np.float32)))
    assert np.asarray(flat).max() == 0
