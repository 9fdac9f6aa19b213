"""VisA's own metrics, by hand and beside a version that counts pixel by pixel."""

import math

import numpy as np
import pytest
import sklearn.metrics

from jaxad import metrics, protocols


def state_of(maps, masks):
    state = metrics.PixelMetrics()
    for one, mask in zip(maps, masks, strict=True):
        state.update(np.float32([one]), [mask])
    return state


def naive(maps, masks):
    """The sweep as its description has it, a threshold after the other."""
    maps = np.float64(np.float32(maps))
    anomalous = maps[masks == 1]
    thresholds = [np.percentile(anomalous, 100 - 100 * i / 99) for i in range(100)]
    step = (anomalous.max() - anomalous.min()) / 99
    thresholds += [anomalous.max() - step * i for i in range(99)] + [anomalous.min()]
    thresholds += [maps.min() - 1e-8, maps.max() + 1e-8]
    points = []
    for threshold in sorted(thresholds, reverse=True):
        called = maps > threshold
        hits, alarms = (called & (masks == 1)).sum(), (called & (masks == 0)).sum()
        precision = hits / (hits + alarms) if hits + alarms else 1.0
        points.append((alarms / (masks == 0).sum(), hits / len(anomalous), precision))
    fpr, recall, precision = np.array(points).T
    return (
        round(sklearn.metrics.auc(fpr, recall), 4),
        round(sklearn.metrics.auc(recall, precision), 4),
    )


def test_by_hand():
    # Above 4: nothing. From 4 to 3: one hit. From 3 to 2: an alarm, too; at 2 the other
    # anomalous pixel is not above it. Only the last threshold, below 1, has them all.
    # (FPR, R, P): (0, 0, 1), (0, 1/2, 1), (1/2, 1/2, 1/2), (1, 1, 1/2).
    state = state_of([[[4, 3, 2, 1]]], [[[1, 0, 1, 0]]])
    assert protocols.visa_pixels(state) == (0.625, 0.75)
    # Exactly the 2 is found before the 1: (1/2, 1/2), (1/2, 1); then (1, 2/3).
    exact = state.compute()
    assert exact["pixel_auroc"] == 0.75
    assert exact["pixel_aupr"] == pytest.approx(0.5 + 0.25 * (1 / 2 + 2 / 3))


def test_normal_images_count_and_areas_have_four_decimals():
    found = protocols.visa_pixels(state_of([[[4, 3, 1]], [[2]]], [[[1, 0, 1]], [[0]]]))
    # (0, 0, 1), (0, 1/2, 1), (1/2, 1/2, 1/2), (1, 1/2, 1/3), (1, 1, 1/2).
    assert found == (0.5, round(0.5 + 0.25 * (1 / 3 + 1 / 2), 4))
    assert found[1] == 0.7083


@pytest.mark.parametrize("digits", [1, 8])
def test_beside_the_naive_version(digits):
    rng = np.random.default_rng(digits)
    masks = (rng.random((4, 12, 12)) < 0.1).astype(np.uint8)
    masks[0] = 0
    maps = np.round(rng.normal(size=masks.shape) + 2 * masks, digits)
    state = state_of(maps, masks)
    # Counters in place of lists, half of the pixels merged.
    state.merge(metrics.PixelMetrics.of_arrays(state.arrays()))
    twice = np.concatenate([maps, maps]), np.concatenate([masks, masks])
    assert protocols.visa_pixels(state) == naive(*twice)
    assert state.count == 2 * maps.size
    assert state.extremes() == (np.float32(maps.min()), np.float32(maps.max()))


def test_above_takes_thresholds_between_float32_numbers():
    one = np.float32(1)
    after = np.nextafter(one, np.float32(2))
    state = state_of([[[one, after, -one, 0]]], [[[1, 0, 1, 0]]])
    thresholds = [after, (np.float64(one) + after) / 2, 1, 1 - 1e-12, -0.0, -1, -1.1]
    hits, alarms = state.above(thresholds)
    assert hits.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert alarms.tolist() == [0, 1, 1, 1, 1, 2, 2]


def test_all_columns_and_none():
    scores, labels = np.float32([1, 2, 3, 3, 4]), np.array([1, 0, 0, 1, 1])
    state = state_of([[[4, 3, 2, 1]]], [[[1, 0, 1, 0]]])
    assert protocols.visa(scores, labels, state) == {
        "image_aupr": pytest.approx((1 + 5 / 6 + 11 / 20) / 3),
        "pixel_aupr": pytest.approx(0.5 + 0.25 * (1 / 2 + 2 / 3)),
        "visa_pixel_auroc": 0.625,
        "visa_pixel_aupr": 0.75,
    }
    none = protocols.visa(scores, labels, None)
    assert set(none) == set(protocols.COLUMNS["visa"])
    assert [none[name] for name in protocols.COLUMNS["visa"][1:]] == [None] * 3
    for mask in (0, 1):
        empty = state_of([[[1.0]]], [[[mask]]])
        assert all(map(math.isnan, protocols.visa_pixels(empty)))
