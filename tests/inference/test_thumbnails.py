"""Thumbnails: shapes, maps, masks, and the way to a file and back."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxad.data.images import Geometry
from jaxad.errors import InputError
from jaxad.inference.thumbnails import Thumbnails

SQUARE = Geometry((32, 32))


def added(image=None, anomaly_map=None, mask=None, geometry=SQUARE, size=(300, 1600)):
    found = Thumbnails()
    image = np.full((32, 32, 3), 0.5, np.float32) if image is None else image
    anomaly_map = np.zeros((32, 32)) if anomaly_map is None else anomaly_map
    mask = np.zeros((32, 32), np.uint8) if mask is None else mask
    found.add(7, image, anomaly_map, mask, geometry, size)
    return found.get(7)


def opened(encoded):
    with Image.open(io.BytesIO(encoded)) as picture:
        picture.load()
    return picture


@pytest.mark.parametrize(
    ("size", "image", "small"),
    [
        ((300, 1600), (36, 192), (12, 64)),  # a strip stays a strip
        ((1600, 300), (192, 36), (64, 12)),
        ((20, 30), (20, 30), (20, 30)),
        ((3000, 1), (192, 1), (64, 1)),
    ],
)
def test_they_have_the_images_own_shape(size, image, small):
    mask = np.ones((32, 32), np.uint8)
    found = added(mask=mask, size=size)
    assert opened(found.image).size == image[::-1]
    assert opened(found.mask).size == image[::-1]
    assert found.map.shape == small


def test_a_map_comes_back_but_for_rounding():
    rising = np.linspace(3, 8, 32)[None].repeat(32, 0)
    found = added(anomaly_map=rising, size=(64, 64))
    assert (found.low, found.high) == (3, 8)
    expected = SQUARE.undo(rising, (64, 64))
    np.testing.assert_allclose(found.scores(), expected, atol=5 / 255 / 2 + 1e-6)
    flat = added(anomaly_map=np.full((32, 32), 4.0))
    np.testing.assert_array_equal(flat.scores(), 4)


def test_masks_are_there_where_something_is_marked():
    assert added().mask is None
    mask = np.zeros((32, 32), np.uint8)
    mask[8:16] = 1
    marked = np.asarray(opened(added(mask=mask, size=(32, 32)).mask))
    np.testing.assert_array_equal(marked, mask != 0)


def test_grey_stays_grey_and_the_dark_is_stretched():
    found = opened(added().image)
    np.testing.assert_allclose(np.asarray(found), 128, atol=2)
    ramp = np.linspace(0, 1 / 16, 32)[None, :, None].repeat(32, 0).repeat(3, 2)
    stretched = np.asarray(opened(added(image=ramp, size=(32, 32)).image))
    assert stretched.max() > 245 and stretched.min() < 10
    colour = np.zeros((32, 32, 3))
    colour[..., 0] = 1
    red = np.asarray(opened(added(image=colour).image).convert("RGB"), int)
    assert (red[..., 0] > 240).all() and (red[..., 1:] < 20).all()


def test_what_a_crop_leaves_out_is_grey():
    geometry = Geometry((32, 32), "resize_crop", 64)
    white = np.ones((32, 32, 3))
    found = np.asarray(opened(added(white, geometry=geometry, size=(128, 128)).image))
    assert abs(int(found[5, 5, 0]) - 128) < 8 and found[64, 64, 0] > 245


def test_shares_are_merged_and_kept(tmp_path):
    random = np.random.default_rng(0)
    whole, parts = Thumbnails(), (Thumbnails(), Thumbnails())
    for i in range(5):
        mask = np.zeros((32, 32), np.uint8)
        mask[3:9, 4:20] = i % 2
        one = random.random((32, 32, 3)), random.random((32, 32)), mask, SQUARE
        whole.add(i, *one, (40, 50 + i))
        parts[i % 2].add(i, *one, (40, 50 + i))
    parts[0].merge(Thumbnails.of_arrays(parts[1].arrays()))
    whole.save(tmp_path / "a.npz")
    parts[0].save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    back = Thumbnails.load(tmp_path / "a.npz")
    assert list(back) == [0, 1, 2, 3, 4] and back.get(9) is None
    for i in range(5):
        assert back.get(i).image == whole.get(i).image
        assert back.get(i).mask == whole.get(i).mask
        assert (back.get(i).mask is None) == (i % 2 == 0)
        np.testing.assert_array_equal(back.get(i).map, whole.get(i).map)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.npz", "b.npz"]


def test_none_at_all(tmp_path):
    assert len(Thumbnails.load(tmp_path / "none.npz")) == 0
    Thumbnails().save(tmp_path / "empty.npz")
    assert len(Thumbnails.load(tmp_path / "empty.npz")) == 0
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="bad.npz is damaged"):
        Thumbnails.load(tmp_path / "bad.npz")
