import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.augment.poisson import seamless_clone

pytestmark = pytest.mark.isa
GOLDEN = pathlib.Path(__file__).with_name("seamless_clone.npz")
clone = jax.jit(seamless_clone)


def images(seed=0, side=24):
    return np.random.default_rng(seed).random((2, side, side, 3), np.float32)


def test_equals_opencv_within_its_rounding():
    golden = np.load(GOLDEN)
    image, patch = (jnp.asarray(golden[k], jnp.float32) for k in ("image", "patch"))
    for rectangle, expected in zip(golden["rectangles"], golden["clones"], strict=True):
        ours = np.clip(clone(image, patch, *rectangle), 0, 255)
        # OpenCV cuts to whole grey levels; 0.01 is the float error on both sides.
        assert np.abs(ours - expected).max() <= 1.01


def dense(image, patch, top, left, height, width):
    """The same equation, pixel by pixel, as one dense linear system."""
    out = image.astype(np.float64).copy()
    ring = image[top + 1 : top + height - 1, left + 1 : left + width - 1]
    paste = patch[top + 1 : top + height - 1, left + 1 : left + width - 1]
    h, w = ring.shape[:2]
    eroded = np.zeros((h, w), bool)
    eroded[3 : h - 3, 3 : w - 3] = True

    def guide(y, x, dy, dx):
        taken = paste if eroded[y, x] else ring
        return taken[y + dy, x + dx].astype(np.float64) - taken[y, x]

    pixels = [(y, x) for y in range(1, h - 1) for x in range(1, w - 1)]
    number = {pixel: i for i, pixel in enumerate(pixels)}
    matrix, right = np.zeros((len(pixels),) * 2), np.zeros((len(pixels), 3))
    for (y, x), row in number.items():
        matrix[row, row] = -4
        right[row] = guide(y, x, 0, 1) - guide(y, x - 1, 0, 1)
        right[row] += guide(y, x, 1, 0) - guide(y - 1, x, 1, 0)
        for neighbour in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if neighbour in number:
                matrix[row, number[neighbour]] = 1
            else:
                right[row] -= ring[neighbour]
    solution = np.linalg.solve(matrix, right)
    for (y, x), row in number.items():
        out[top + 1 + y, left + 1 + x] = solution[row]
    return out


@pytest.mark.parametrize("rectangle", [(2, 3, 18, 15), (0, 0, 24, 24), (5, 1, 9, 20)])
def test_solves_the_poisson_equation(rectangle):
    image, patch = images()
    expected = dense(image, patch, *rectangle)
    np.testing.assert_allclose(clone(image, patch, *rectangle), expected, atol=2e-5)


def test_bounds_on_the_size_change_nothing():
    image, patch = images()
    bounded = jax.jit(seamless_clone, static_argnames="max_size")(
        image, patch, 4, 5, 12, 14, max_size=(12, 14)
    )
    np.testing.assert_allclose(bounded, clone(image, patch, 4, 5, 12, 14), atol=2e-6)


def test_nothing_outside_changes_and_a_constant_leaves_no_trace():
    image, patch = images(1)
    changed = np.abs(clone(image, patch, 4, 6, 12, 14) - image).max(-1) > 0
    rows, columns = np.nonzero(changed)
    # The border pixel of the rectangle is left out and the next ring is boundary.
    assert (rows.min(), rows.max()) == (6, 13)
    assert (columns.min(), columns.max()) == (8, 17)
    np.testing.assert_allclose(
        clone(image, image + 0.3, 4, 6, 12, 14), image, atol=2e-6
    )


def test_too_small_a_rectangle_leaves_the_image():
    image, patch = images(2)
    for size in (1, 4, 8):
        np.testing.assert_array_equal(clone(image, patch, 3, 3, size, 15), image)
