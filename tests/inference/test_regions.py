import numpy as np

from jaxad.inference.regions import regions


def test_by_hand():
    picture = [
        "..11..2",
        "..1...2",
        ".1.....",
        "......3",
    ]
    heat = np.array([[float(c != ".") for c in row] for row in picture])
    # The first is one by its corner, and the largest.
    assert regions(heat, 0.5) == [[1, 0, 3, 3, 4], [6, 0, 1, 2, 2], [6, 3, 1, 1, 1]]


def test_above_is_not_at():
    heat = np.array([[1.0, np.nan, np.nextafter(1.0, 2)]])
    assert regions(heat, 1.0) == [[2, 0, 1, 1, 1]]
    assert regions(heat, 2.0) == []


def test_of_equal_ones_the_upper_left_comes_first():
    heat = np.zeros((5, 5))
    for y, x in ((0, 4), (4, 0), (2, 2), (0, 0)):
        heat[y, x] = 1
    assert [r[:2] for r in regions(heat, 0)] == [[0, 0], [4, 0], [2, 2], [0, 4]]


def test_whole_and_inside():
    assert regions(np.ones((3, 7), np.float32), 0.5) == [[0, 0, 7, 3, 21]]
    ring = np.ones((5, 5))
    ring[1:4, 1:4] = 0
    ring[2, 2] = 1
    assert regions(ring, 0.5) == [[0, 0, 5, 5, 16], [2, 2, 1, 1, 1]]
