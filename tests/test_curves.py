"""Curves with bands: naive versions of either, and what a band promises."""

import numpy as np
import pytest
from test_statistics import sample

from jaxad import curves, statistics


def naive_roc(scores, labels, x):
    """The best hit rate of all thresholds with no more false alarms than that."""
    best = 0.0
    for threshold in [*np.unique(scores), np.inf]:
        above = scores >= threshold
        if above[labels == 0].mean() <= x + 1e-12:
            best = max(best, above[labels == 1].mean())
    return best


def naive_precision(scores, labels, x):
    """At the highest threshold that finds so many."""
    for threshold in np.unique(scores)[::-1]:
        above = scores >= threshold
        if above[labels == 1].mean() >= x - 1e-12:
            return labels[above].mean()


@pytest.mark.parametrize(
    ("curve", "naive"),
    [
        (curves.roc, naive_roc),
        (curves.precision_recall, naive_precision),
    ],
)
def test_curves_and_their_bands(curve, naive):
    (scores, _), labels = sample(13)
    found = curve(scores, labels, points=15, replicates=200, seed=4)
    expected = [naive(scores, labels, x) for x in found.x]
    np.testing.assert_allclose(found.y, expected, rtol=1e-12)
    (part,) = np.random.SeedSequence(4).spawn(1)
    drawn = [
        [naive(scores[rows], labels[rows], x) for x in found.x]
        for rows in statistics.resamples(labels, 200, part)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    np.testing.assert_allclose(found.low, low, rtol=1e-12)
    np.testing.assert_allclose(found.high, high, rtol=1e-12)


def test_a_band_holds_the_curve_of_another_test_set():
    """Of every point by itself in about 95 of 100; ask for far less."""
    held = []
    for seed in range(20):
        (scores, _), labels = sample(seed, 60, 60, ties=False)
        (others, _), others_labels = sample(100 + seed, 4000, 4000, ties=False)
        band = curves.roc(scores, labels, points=5, replicates=200)
        truth = curves.roc(others, others_labels, points=5, replicates=1)
        held += ((band.low <= truth.y) & (truth.y <= band.high))[1:-1].tolist()
    assert np.mean(held) > 0.85
