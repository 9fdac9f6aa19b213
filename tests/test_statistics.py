"""Intervals and tests: naive versions, literal numbers, properties."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from jaxad import metrics, statistics
from jaxad.errors import InputError


def sample(seed, normal=14, anomalous=11, ties=True):
    """Scores of two detectors that agree in part, and labels."""
    random = np.random.default_rng(seed)
    labels = np.array([0] * normal + [1] * anomalous)
    first = labels + random.normal(size=labels.size)
    second = 0.7 * first + 0.3 * labels + 0.5 * random.normal(size=labels.size)
    both = np.stack([first, second])
    order = random.permutation(labels.size)
    return (np.round(both, 1) if ties else both)[:, order], labels[order]


def naive_delong(scores, labels):
    """The definition: a kernel over all pairs, and covariances of its means."""

    def kernel(x, y):
        return 1.0 if x > y else 0.5 if x == y else 0.0

    anomalous, normal = (np.flatnonzero(labels == x) for x in (1, 0))
    over, under = [], []
    for row in scores:
        pairs = [[kernel(row[i], row[j]) for j in normal] for i in anomalous]
        over.append([np.mean(pair) for pair in pairs])
        under.append([np.mean(pair) for pair in zip(*pairs, strict=True)])
    k = len(scores)
    covariance = np.zeros((k, k))
    for a, b in itertools.product(range(k), range(k)):
        for values in (over, under):
            x, y = values[a], values[b]
            mx, my = np.mean(x), np.mean(y)
            total = sum((p - mx) * (q - my) for p, q in zip(x, y, strict=True))
            covariance[a, b] += total / (len(x) - 1) / len(x)
    return [np.mean(x) for x in over], covariance


@pytest.mark.parametrize("ties", [True, False])
def test_delong_is_its_definition(ties):
    scores, labels = sample(3, ties=ties)
    areas, covariance = statistics.delong(scores, labels)
    expected, naive = naive_delong(scores, labels)
    np.testing.assert_allclose(areas, expected, rtol=1e-12)
    np.testing.assert_allclose(covariance, naive, rtol=1e-12)
    assert areas[0] == pytest.approx(metrics.auroc(scores[0], labels), rel=1e-12)


def test_delong_by_hand():
    # Anomalous 3, 1; normal 2, 0: of four pairs three are right.
    areas, covariance = statistics.delong([[3.0, 1.0, 2.0, 0.0]], [1, 1, 0, 0])
    # Shares of the anomalous (1, 1/2) and of the normal (1/2, 1): variance 1/8 each.
    assert areas.tolist() == [0.75]
    assert covariance.tolist() == [[1 / 8 / 2 + 1 / 8 / 2]]
    low, high = statistics.auroc_interval([3.0, 1.0, 2.0, 0.0], [1, 1, 0, 0])
    half = 1.959963984540054 * math.sqrt(1 / 8) / (0.75 * 0.25)
    for bound, sign in ((low, -1), (high, 1)):
        assert math.log(bound / (1 - bound)) == pytest.approx(math.log(3) + sign * half)


def test_an_interval_lies_around_its_auroc():
    scores, labels = sample(5)
    low, high = statistics.auroc_interval(scores[0], labels)
    assert 0 < low < metrics.auroc(scores[0], labels) < high < 1
    narrow = statistics.auroc_interval(scores[0], labels, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert statistics.auroc_interval([0.0, 0.1, 0.2, 0.3], [0, 0, 1, 1]) is None


def test_the_difference_of_two_aurocs():
    scores, labels = sample(7)
    (one, other), covariance = naive_delong(scores, labels)
    found = statistics.auroc_difference(*scores, labels)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found.value == pytest.approx(other - one)
    assert found.high - found.low == pytest.approx(2 * 1.959963984540054 * error)
    z = abs(found.value) / error
    assert found.p_value == pytest.approx(math.erfc(z / math.sqrt(2)))
    back = statistics.auroc_difference(*scores[::-1], labels)
    assert back.value == pytest.approx(-found.value)
    assert back.p_value == pytest.approx(found.p_value)
    same = statistics.auroc_difference(scores[0], scores[0], labels)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_resamples_keep_the_classes():
    labels = np.array([1, 0, 0, 1, 0])
    drawn = statistics.resamples(labels, 500, seed=1)
    assert drawn.shape == (500, 5)
    assert (labels[drawn].sum(axis=1) == 2).all()
    counts = np.bincount(drawn.ravel(), minlength=5) / 500
    np.testing.assert_allclose(counts, 1, atol=0.15)
    np.testing.assert_array_equal(drawn, statistics.resamples(labels, 500, seed=1))


def test_the_paired_bootstrap():
    scores, labels = sample(11)
    found = statistics.paired_bootstrap(
        metrics.auroc, *scores, labels, replicates=400, seed=2
    )
    differences = sorted(
        metrics.auroc(scores[1][rows], labels[rows])
        - metrics.auroc(scores[0][rows], labels[rows])
        for rows in statistics.resamples(labels, 400, seed=2)
    )
    # Between order statistics, as numpy interpolates: places 9.975 and 389.025.
    at = [differences[9] + 0.975 * (differences[10] - differences[9])]
    at.append(differences[389] + 0.025 * (differences[390] - differences[389]))
    assert [found.low, found.high] == pytest.approx(at)
    rarer = min(sum(x <= 0 for x in differences), sum(x >= 0 for x in differences))
    assert found.p_value == pytest.approx(min(1, 2 * (rarer + 1) / 401))
    # It agrees with DeLong on what both can do.
    exact = statistics.auroc_difference(*scores, labels)
    assert found.value == pytest.approx(exact.value)
    assert found.high - found.low == pytest.approx(exact.high - exact.low, rel=0.2)


def test_verdicts_that_differ():
    right = np.array([1, 1, 1, 1, 1, 1, 0, 0], bool)
    worse = np.array([1, 0, 0, 0, 0, 0, 1, 0], bool)
    # Five to one: 2 (1 + 6) / 2^6.
    assert statistics.verdicts_p_value(right, worse) == pytest.approx(14 / 64)
    assert statistics.verdicts_p_value(right, right) == 1.0


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
        (statistics.roc, naive_roc),
        (statistics.precision_recall, naive_precision),
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
        band = statistics.roc(scores, labels, points=5, replicates=200)
        truth = statistics.roc(others, others_labels, points=5, replicates=1)
        held += ((band.low <= truth.y) & (truth.y <= band.high))[1:-1].tolist()
    assert np.mean(held) > 0.85


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0, 3.0], [0, 0, 1], "1 anomalous images are too few"),
        ([1.0, 2.0], [0, 0, 1], "must be of the same images"),
        ([1.0, math.nan, 2.0, 3.0], [0, 0, 1, 1], "not finite"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], [0, 0, 1, 1, 2], "labels must be 0"),
    ],
)
def test_what_nothing_can_be_said_of(scores, labels, message):
    with pytest.raises(InputError, match=message):
        statistics.delong(scores, labels)
    with pytest.raises(InputError, match=message):
        statistics.roc(scores, labels)


def test_delong_agrees_with_the_mann_whitney_test():
    scores, labels = sample(17)
    areas, _ = statistics.delong(scores, labels)
    for row, area in zip(scores, areas, strict=True):
        u = scipy.stats.mannwhitneyu(row[labels == 1], row[labels == 0]).statistic
        assert area == pytest.approx(u / (14 * 11))
