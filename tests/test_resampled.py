"""Metrics of resampled test sets: what the exact ones say of the same sets."""

import numpy as np
import pytest

from jaxad import metrics, resampled, statistics
from jaxad.errors import InputError

WEIGHTS = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 1, 1, 1], [0, 2, 1, 0, 3, 0]])
LABELS = np.array([1, 1, 1, 0, 0, 0])


def drawn(weights):
    return np.repeat(np.arange(6), weights)


def test_image_metrics_of_many_sets():
    scores = np.array([0.9, 0.2, 0.5, 0.5, 0.1, 0.3])
    found = resampled.of_images(scores, LABELS)(WEIGHTS.astype(float))
    for i, weights in enumerate(WEIGHTS):
        rows = drawn(weights)
        one, labels = scores[rows], LABELS[rows]
        assert found["image_auroc"][i] == pytest.approx(metrics.auroc(one, labels))
        wanted = metrics.average_precision(one, labels)
        assert found["image_ap"][i] == pytest.approx(wanted)
        wanted = metrics.aupr_trapezoid(one, labels)
        assert found["image_aupr"][i] == pytest.approx(wanted)
        wanted = metrics.f1_max(one, labels)[0]
        assert found["image_f1_max"][i] == pytest.approx(wanted)


@pytest.fixture(scope="module")
def maps():
    """Six maps whose scores are steps themselves, and regions in three of them."""
    random = np.random.default_rng(0)
    masks = np.zeros((6, 12, 12), bool)
    masks[0, 2:5, 2:5] = masks[1, 7:9, 1:9] = masks[1, :2, :2] = masks[2, 3:6, 7:9] = 1
    scores = 0.5 + 0.5 * random.random(masks.shape) + 0.3 * masks
    return ((512 * scores).round() / 512).astype(np.float32), masks


def counts(maps, masks):
    found = resampled.PixelCounts()
    for i in (3, 4, 5):
        found.add(i, maps[i], masks[i])
    other = resampled.PixelCounts()
    for i in (0, 1, 2):
        other.add(i, maps[i], masks[i])
    found.merge(resampled.PixelCounts.of_arrays(other.arrays()))
    return found


def test_pixel_metrics_of_many_sets(maps):
    maps, masks = maps
    found = counts(maps, masks).metrics()(WEIGHTS.astype(float))
    for i, weights in enumerate(WEIGHTS):
        rows, exact = drawn(weights), metrics.PixelMetrics()
        exact.update(maps[rows], masks[rows])
        wanted = exact.compute()
        for name, values in found.items():
            assert values[i] == pytest.approx(wanted[name], abs=1e-12), name


def test_pixel_metrics_between_steps(maps):
    maps, masks = maps
    maps = maps * np.linspace(0.9999, 1.0001, 144, dtype=np.float32).reshape(12, 12)
    found = counts(maps, masks).metrics()(np.ones((1, 6)))
    exact = metrics.PixelMetrics()
    exact.update(maps, masks)
    for name, value in exact.compute().items():
        if name in found:
            assert found[name][0] == pytest.approx(value, abs=2e-3), name


def test_no_images_and_no_regions(maps):
    nothing = resampled.PixelCounts()
    assert len(resampled.PixelCounts.of_arrays(nothing.arrays())) == 0
    maps, masks = maps
    found = counts(maps, masks).metrics()(np.array([[0.0, 0, 0, 1, 1, 1]]))
    assert all(np.isnan(values).all() for values in found.values())


def test_the_bootstrap_of_images_and_of_pixels(maps):
    one = np.array([0.9, 0.2, 0.5, 0.5, 0.1, 0.3])
    other = np.array([0.9, 0.6, 0.4, 0.3, 0.1, 0.3])
    both = [resampled.of_images(scores, LABELS) for scores in (one, other)]
    found = statistics.bootstrap_differences(*both, LABELS, replicates=100, seed=3)
    wanted = statistics.paired_bootstrap(
        metrics.average_precision, one, other, LABELS, replicates=100, seed=3
    )
    for name in ("value", "low", "high", "p_value"):
        assert getattr(found["image_ap"], name) == pytest.approx(getattr(wanted, name))
    pixels = counts(*maps).metrics()
    same = statistics.bootstrap_differences(pixels, pixels, LABELS, replicates=50)
    same = same["aupro_0.3"]
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_the_bootstrap_of_what_is_undefined(maps):
    maps, masks = maps
    none = counts(maps, 0 * masks).metrics()
    found = statistics.bootstrap_differences(none, none, LABELS, replicates=5)
    assert set(found.values()) == {None} and "pixel_ap" in found
    with pytest.raises(InputError, match="1 anomalous images are too few"):
        statistics.bootstrap_differences(none, none, [1, 0, 0, 0, 0, 0])
