"""Intervals and tests: naive versions, literal numbers, properties."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from jaxad import curves, metrics, statistics
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
        curves.roc(scores, labels)


def test_delong_agrees_with_the_mann_whitney_test():
    scores, labels = sample(17)
    areas, _ = statistics.delong(scores, labels)
    for row, area in zip(scores, areas, strict=True):
        u = scipy.stats.mannwhitneyu(row[labels == 1], row[labels == 0]).statistic
        assert area == pytest.approx(u / (14 * 11))


# ---- Runs


def test_the_mean_of_runs():
    # imgad 0.6.0, summarize_seeds.
    found = statistics.mean([0.91, 0.94, 0.92, 0.97])
    assert (found.value, found.count) == (pytest.approx(0.935, abs=1e-12), 4)
    assert found.deviation == pytest.approx(0.026457513110645873, abs=1e-12)
    assert found.low == pytest.approx(0.8929001925770149, abs=1e-12)
    assert found.high == pytest.approx(0.9770998074229852, abs=1e-12)
    alone = statistics.mean([0.5])
    assert (alone.value, alone.deviation, alone.low, alone.high) == (0.5,) + (None,) * 3


def test_runs_in_pairs():
    # SciPy 1.17.1, ttest_rel.
    found = statistics.paired_difference(
        [0.91, 0.92, 0.9, 0.93], [0.95, 0.9, 0.93, 0.97]
    )
    assert found.value == pytest.approx(0.0225, abs=1e-12)
    assert found.low == pytest.approx(-0.02320440542486437, abs=1e-12)
    assert found.high == pytest.approx(0.0682044054248643, abs=1e-12)
    assert found.p_value == pytest.approx(0.21516994256955038, abs=1e-12)
    same = statistics.paired_difference([1.0, 2.0], [1.0, 2.0])
    assert (same.low, same.high, same.p_value) == (0, 0, 1)
    # Four equal differences: of sixteen ways to turn signs two are as far from 0.
    apart = statistics.paired_difference([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0])
    assert (apart.low, apart.high, apart.p_value) == (1, 1, 0.125)
    with pytest.raises(InputError, match="1 pair is too few.*more seeds"):
        statistics.paired_difference([0.5], [0.6])
    with pytest.raises(InputError, match="are no pairs"):
        statistics.paired_difference([0.5, 0.6], [0.6])


# Of four detectors on six data sets.
VALUES = [
    [0.90, 0.93, 0.95, 0.91],
    [0.80, 0.85, 0.84, 0.82],
    [0.70, 0.78, 0.77, 0.75],
    [0.95, 0.96, 0.97, 0.95],
    [0.60, 0.66, 0.70, 0.61],
    [0.88, 0.87, 0.90, 0.86],
]


def test_signed_ranks():
    # imgad 0.6.0, compare_configs.
    a, b, c, d = np.transpose(VALUES)
    assert statistics.signed_rank(d, c).p_value == pytest.approx(0.03125, abs=1e-12)
    assert statistics.signed_rank(a, b).p_value == pytest.approx(0.09375, abs=1e-12)
    # SciPy 1.17.1, wilcoxon; of 2^7 signs six are as far out, and one pair is equal.
    second = [0.05, 0.03, -0.02, 0.04, 0.01, 0.06, 0.07, 0.0]
    found = statistics.signed_rank([0.0] * 8, second)
    assert found.p_value == pytest.approx(0.046875, abs=1e-12)
    assert (found.count, found.least) == (7, 2 / 2**7) and not found.too_few()
    five = statistics.signed_rank([0.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert five.p_value == five.least == 0.0625 and five.too_few()
    none = statistics.signed_rank([1.0, 2.0], [1.0, 2.0])
    assert (none.p_value, none.count) == (1.0, 0) and none.too_few()


def test_holm():
    # imgad 0.6.0: 4 x 0.005, 3 x 0.01, 2 x 0.03, and not less than that.
    found = statistics.holm([0.01, 0.04, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-12)
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0] and statistics.holm([]) == []


def test_ranks_over_data_sets():
    # imgad 0.6.0, compare_configs.
    found = statistics.rank(VALUES)
    ranks = [3.5833333333333335, 1.8333333333333333, 1.3333333333333333, 3.25]
    np.testing.assert_allclose(found.ranks, ranks, rtol=0, atol=1e-12)
    assert found.chi_square == pytest.approx(12.966101694915254, abs=1e-12)
    assert found.chi_square_p_value == pytest.approx(0.004710488880935469, abs=1e-12)
    assert found.f == pytest.approx(12.87878787878788, abs=1e-12)
    assert found.f_p_value == pytest.approx(0.00019902517784745142, abs=1e-12)
    assert found.critical_difference == pytest.approx(1.9148432265902373, abs=1e-12)
    assert found.p_values[2, 0] == pytest.approx(0.013538661292491705, abs=1e-12)
    assert found.p_values[1, 3] == pytest.approx(0.2276967625814521, abs=1e-12)
    # 1.33 and 3.25 lie 1.917 apart, a hair too far; 1.83 and 3.58 do not.
    assert found.alike() == [(2, 1), (1, 3, 0)]
    # Demsar's table 5: q of 5 is 2.728.
    assert statistics.nemenyi(5) == pytest.approx(2.7277743708703763, abs=1e-12)
    with pytest.raises(InputError, match="2 rows on 3 data sets are too few"):
        statistics.rank([[1.0, 2.0]] * 3)


def test_ranks_that_all_agree():
    found = statistics.rank([[1.0, 2.0, 3.0]] * 4)
    assert found.ranks.tolist() == [3, 2, 1]
    # 6 orders, the same on three further data sets.
    assert found.f_p_value == pytest.approx(1 / 6**3) and math.isinf(found.f)
    level = statistics.rank([[1.0, 1.0, 1.0]] * 4)
    assert level.chi_square_p_value == level.f_p_value == 1
    assert level.alike() == [(0, 1, 2)]


def test_no_p_value_is_0():
    labels = np.repeat([0, 1], 1000)
    apart = labels + np.linspace(0, 0.1, 2000)
    noise = np.resize([0.0, 1.0, 0.5], 2000)
    assert 0 < statistics.auroc_difference(noise, apart, labels).p_value < 1e-100
    # Of the six ways to label four images one has AUROC 1, one 0.
    found = statistics.auroc_difference([0.0] * 4, [0.0, 0.1, 0.2, 0.3], [0, 0, 1, 1])
    assert (found.value, found.p_value) == (0.5, pytest.approx(1 / 3))
    wrong = np.zeros(2000, bool)
    assert statistics.verdicts_p_value(~wrong, wrong) > 0
    far = statistics.paired_difference([0.0] * 400, 1 + 1e-9 * np.arange(400))
    assert 0 < far.p_value < 1e-300


def test_delong_is_imgads():
    labels = [0] * 5 + [1] * 4
    a = [0.1, 0.4, 0.35, 0.8, 0.2, 0.9, 0.7, 0.3, 0.6]
    b = [0.2, 0.3, 0.1, 0.6, 0.25, 0.9, 0.8, 0.55, 0.7]
    # imgad 0.6.0, delong_test, which takes the first less the second.
    found = statistics.auroc_difference(b, a, labels)
    assert found.value == pytest.approx(-0.2, abs=1e-12)
    assert found.low == pytest.approx(-0.4433567138017107, abs=1e-12)
    assert found.high == pytest.approx(0.04335671380171077, abs=1e-12)
    assert found.p_value == pytest.approx(0.10722887386494384, abs=1e-12)


def test_intervals_hold_what_they_promise():
    """Of 2,000 draws of four runs; benchmarks/intervals.py has the other intervals."""
    drawn = np.random.default_rng(0).normal(0.9, 0.01, (2000, 4))
    found = [statistics.mean(values) for values in drawn]
    held = np.mean([one.low <= 0.9 <= one.high for one in found])
    assert held == pytest.approx(0.95, abs=0.02)
