import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxad.augment import geometry, views

crop_resize = jax.jit(geometry.crop_resize, static_argnames="size")


def test_sample_by_hand():
    image = jnp.asarray([[0.0, 1.0], [2.0, 3.0]])[..., None]
    y = jnp.asarray([0.5, 0.0, 1.0, -0.5, 5.0])
    x = jnp.asarray([0.5, 0.25, 1.0, 1.0, 0.0])
    # The middle, along an edge, a pixel, half outside, outside.
    expected = [1.5, 0.25, 3.0, 0.5, 0.0]
    np.testing.assert_allclose(jax.jit(geometry.sample)(image, y, x)[:, 0], expected)


def test_sample_grid_by_hand():
    image = jnp.asarray([[0.0, 1.0], [2.0, 3.0]])[..., None]
    grid = jax.jit(geometry.sample_grid)(
        image, jnp.asarray([-1.0, 0.5]), jnp.asarray([0.0, 0.25, 9.0])
    )
    np.testing.assert_allclose(grid[..., 0], [[0, 0.25, 1], [1, 1.25, 2]])


def test_quarter_turn_is_exact():
    image = jnp.asarray(np.random.default_rng(0).random((7, 7, 3), np.float32))
    rotate = jax.jit(geometry.rotate)
    turned = rotate(image, jnp.pi / 2)
    either = [np.rot90(image), np.rot90(image, -1)]
    assert min(np.abs(turned - one).max() for one in either) < 1e-5
    np.testing.assert_array_equal(rotate(image, 0.0), image)


def test_crop_resize_of_everything_is_the_identity():
    image = jnp.asarray(np.random.default_rng(0).random((6, 5, 3), np.float32))
    np.testing.assert_allclose(crop_resize(image, 0.0, 0.0, 6.0, 5.0), image, atol=1e-6)


def test_crop_resize_equals_a_resize_of_the_cut():
    image = jnp.asarray(np.random.default_rng(0).random((8, 12, 3), np.float32))
    ours = crop_resize(image, 2.0, 3.0, 4.0, 6.0)
    # Inside, where no border shows: the cut magnified twice.
    expected = jax.image.resize(image[2:6, 3:9], (8, 12, 3), "linear")
    np.testing.assert_allclose(ours[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-5)


def test_crops_lie_inside_and_in_the_bounds():
    # A ramp tells where a crop came from and how large it was.
    ramp = jnp.stack(jnp.meshgrid(jnp.arange(40.0), jnp.arange(30.0)) * 2, -1)[..., :3]
    keys = jax.random.split(jax.random.key(0), 64)
    crop = jax.jit(jax.vmap(lambda key: views.random_resized_crop(key, ramp)))
    x, y, _ = np.moveaxis(np.asarray(crop(keys)), -1, 0)
    width = (x[:, 0, 30] - x[:, 0, 10]) / 20
    height = (y[:, 20, 0] - y[:, 10, 0]) / 10
    assert (width <= 1.0001).all() and (height <= 1.0001).all()
    area = width * height
    assert area.max() > 0.93 and area.min() < 0.87
    whole = (width < 0.999) & (height < 0.999)
    assert (area[whole] > 0.799).all()
    assert x.min() >= 0 and x.max() <= 39 and y.min() >= 0 and y.max() <= 29


def test_weak_view_stays_in_range_and_flips_half():
    image = jnp.tile(jnp.linspace(0, 1, 16)[None, :, None], (16, 1, 3))
    keys = jax.random.split(jax.random.key(1), 64)

    def rises(flip):
        draw = jax.vmap(lambda key: views.weak_view(key, image, flip=flip))
        view = jax.jit(draw)(keys)
        assert view.shape == (64, 16, 16, 3)
        assert view.min() >= 0 and view.max() <= 1
        return np.asarray(view[:, 8, 12, 0] > view[:, 8, 3, 0])

    assert rises(False).all()
    assert 20 < rises(True).sum() < 44


def test_crop_resize_to_another_size():
    image = jnp.arange(16.0).reshape(4, 4, 1)
    half = crop_resize(image, 0.0, 0.0, 4.0, 4.0, size=(2, 2))
    # The middle between four pixels.
    np.testing.assert_allclose(half[..., 0], [[2.5, 4.5], [10.5, 12.5]])


STILL = dict(
    scale=(1.0, 1.0), ratio=(1.0, 1.0), jittered=0.0, grey=0.0, blurred=0.0, flipped=0.0
)


def halved(x):
    rows = (x[::2] + x[1::2]) / 2
    return (rows[:, ::2] + rows[:, 1::2]) / 2


def blurred(x):
    """28 pixels of 224 are 2 of 16, cut off at 6."""
    return scipy.ndimage.gaussian_filter(x, (2, 2, 0), mode="nearest", radius=(6, 6, 0))


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, lambda x: x),
        ({"flipped": 1.0}, lambda x: x[:, ::-1]),
        ({"grey": 1.0}, lambda x: np.repeat(x @ [[0.299], [0.587], [0.114]], 3, -1)),
        ({"size": (8, 8)}, halved),
        ({"blurred": 1.0, "blur": (28.0, 28.0)}, blurred),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_each_change_of_a_global_view(changes, want):
    image = np.random.default_rng(0).random((16, 16, 3), np.float32)
    options = STILL | changes
    view = jax.jit(lambda key: views.global_view(key, image, **options))(
        jax.random.key(0)
    )
    np.testing.assert_allclose(view, want(image), atol=1e-5)


def test_global_views_are_as_probable_as_they_say():
    image = np.random.default_rng(0).random((8, 8, 3), np.float32)
    keys = jax.random.split(jax.random.key(0), 256)
    options = STILL | dict(grey=0.2, flipped=0.5, jittered=0.8)
    drawn = jax.jit(jax.vmap(lambda key: views.global_view(key, image, **options)))
    found = np.asarray(drawn(keys))
    assert found.min() >= 0 and found.max() <= 1
    grey = np.ptp(found, axis=-1).max((1, 2)) < 1e-6
    either = np.stack([image, image[:, ::-1]])[:, None]
    same = np.abs(found - either).max((2, 3, 4)).min(0) < 1e-6
    # Shares of 256 draws, within four deviations.
    assert 0.1 < grey.mean() < 0.3
    assert 0.06 < same.mean() < 0.26  # neither grey nor jittered: 0.8 x 0.2
    straight, turned = np.abs(found - either).mean((2, 3, 4))
    mirrored = turned < straight
    assert 0.37 < mirrored.mean() < 0.63
