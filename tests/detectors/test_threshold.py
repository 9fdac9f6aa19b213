"""Thresholds by hand, by counting with loops, and by their own promise."""

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from jaxad.detectors import threshold
from jaxad.detectors.threshold import Threshold, calibrate, p_values
from jaxad.errors import InputError


def textbook_p(scores, calibration):
    n = len(calibration)
    return [(1 + sum(c >= s for c in calibration)) / (n + 1) for s in scores]


def scores_of(kind, n, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "continuous": lambda: rng.normal(size=n),
        "float32": lambda: rng.normal(size=n).astype(np.float32),
        "ties": lambda: rng.integers(0, 5, n) / 3,
        "equal": lambda: np.full(n, 2.5),
        "signed zeros": lambda: rng.choice([0.0, -0.0, 1.0, -1.0], n),
    }[kind]()


KINDS = ("continuous", "float32", "ties", "equal", "signed zeros")


# ---- p-values


def test_p_values_by_hand():
    calibration = [1.0, 3.0, 2.0, 2.0]
    got = p_values([[0.0, 2.0, 2.5], [3.0, 3.1, 1.0]], calibration)
    assert got.dtype == np.float64
    assert got.tolist() == [[1, 4 / 5, 2 / 5], [2 / 5, 1 / 5, 1]]
    assert p_values(2.0, calibration) == 4 / 5


def test_p_values_are_those_of_nonconform():
    """By `nonconform.Empirical().compute_p_values` of nonconform 2.0.0."""
    scores = [0.0, 0.05, 0.2, 0.31, 0.4, 0.47, 0.5, 0.61999, 0.62, 0.89, 0.9, 0.91, 3.0]
    calibration = [0.62, 0.31, 0.31, 0.55, 0.9, 0.47, 0.47, 0.47, 0.12, 0.78, 0.05]
    want = [
        *(1.0, 1.0, 0.8333333333333334, 0.8333333333333334, 0.6666666666666666),
        *(0.6666666666666666, 0.4166666666666667, 0.3333333333333333),
        *(0.3333333333333333, 0.16666666666666666, 0.16666666666666666),
        *(0.08333333333333333, 0.08333333333333333),
    ]
    np.testing.assert_allclose(p_values(scores, calibration), want, rtol=0, atol=1e-12)
    # The same of default_rng(7).normal(size=100), then normal(size=8) + 1.
    rng = np.random.default_rng(7)
    calibration, scores = rng.normal(size=100), rng.normal(size=8) + 1
    want = [
        *(0.1485148514851485, 0.36633663366336633, 0.07920792079207921),
        *(0.009900990099009901, 0.3069306930693069, 0.24752475247524752),
        *(0.06930693069306931, 0.0297029702970297),
    ]
    np.testing.assert_allclose(p_values(scores, calibration), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_p_values_are_counted(kind):
    calibration, new = scores_of(kind, 37), scores_of(kind, 50, seed=1)
    got = p_values(new, calibration)
    np.testing.assert_array_equal(got, textbook_p(new, calibration))
    assert calibrate(calibration, method="split", rate=0.1).p_values(new).tolist() == (
        got.tolist()
    )


# ---- How many images a promise takes


@pytest.mark.parametrize(
    ("rate", "confidence", "images"),
    [
        *((0.05, None, 19), (0.01, None, 99), (0.001, None, 999)),
        *((0.05, 0.95, 59), (0.01, 0.95, 299), (0.001, 0.95, 2995)),
        (0.5, None, 1),
    ],
)
def test_images_needed(rate, confidence, images):
    assert threshold.images_needed(rate, confidence) == images
    assert threshold.rank(images, rate, confidence) == 1
    assert threshold.shortage(images, rate, confidence) is None
    if images > 1:
        assert threshold.rank(images - 1, rate, confidence) == 0
        assert f"needs {images} good" in threshold.shortage(
            images - 1, rate, confidence
        )


def test_rank_on_average_is_exact_where_decimals_are_not():
    # 0.29 * 100 is 28.999999999999996 in floating point.
    assert threshold.rank(99, 0.29) == 29
    assert threshold.rank(98, 0.29) == 28
    assert threshold.rank(2, 1 / 3) == 1


@pytest.mark.parametrize("n", [1, 20, 59, 93, 500])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2, 0.9])
def test_rank_with_confidence_is_by_binomial_sums(n, rate):
    """The k-th largest is too low if fewer than k of n scores fall in the rate's tail.

    Which is how Wilks (1941) counts, and needs no Beta distribution.
    """
    k = threshold.rank(n, rate, 0.95)
    too_low = scipy.stats.binom.cdf(np.arange(n), n, rate)  # for k = 1 to n
    assert k == (too_low <= 0.05).sum()
    if k:
        assert threshold.promise(k, n, 0.95) <= rate
    assert k <= threshold.rank(n, rate)


def test_the_sentence_of_too_few_images():
    assert threshold.shortage(47, 0.05, 0.95) == (
        "5 % with 95 % confidence needs 59 good images; you have 47, so the best "
        "promise is 6.2 %"
    )
    assert threshold.shortage(58, 0.05, 0.95) == (
        "5 % with 95 % confidence needs 59 good images; you have 58, so the best "
        "promise is 5.1 %"
    )
    assert threshold.shortage(12, 0.05) == (
        "5 % on average needs 19 good images; you have 12, so the best promise is 7.7 %"
    )
    # Rounded up: 1/982 is 0.1018 %.
    assert threshold.shortage(981, 0.001).endswith("the best promise is 0.11 %")


def test_best_promise_by_hand():
    assert threshold.best_promise(1) == 0.5
    assert threshold.best_promise(1, 0.95) == pytest.approx(0.95)
    assert threshold.best_promise(47, 0.95) == pytest.approx(1 - 0.05 ** (1 / 47))


# ---- The threshold


def test_threshold_by_hand():
    got = calibrate(np.arange(39.0)[::-1], method="split", rate=0.05)
    assert (got.rank, got.value, got.promised) == (2, 37.0, 0.05)
    assert got.verdicts([[36.9, 37.0], [37.1, 99.0]]).tolist() == [
        [False, False],
        [True, True],
    ]
    assert got.scores.tolist() == list(range(39))
    with pytest.raises(ValueError, match="read-only"):
        got.scores[0] = 7
    got = calibrate(np.arange(93.0), method="split", rate=0.05, confidence=0.95)
    assert (got.rank, got.value) == (2, 91.0)
    assert got.promised == pytest.approx(0.04999, abs=1e-5)


@pytest.mark.parametrize("confidence", [None, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_verdict_is_a_small_p_value(kind, confidence):
    for n in (1, 2, 9, 19, 20, 63, 99, 400):
        calibration = scores_of(kind, n, seed=n)
        new = np.concatenate([scores_of(kind, 200, seed=1), calibration, [9.0, -9.0]])
        new = np.concatenate([new, np.nextafter(calibration, np.inf, dtype="float64")])
        for rate in (0.01, 0.05, 0.07, 0.1, 0.29, 0.5, 0.95):
            got = calibrate(
                calibration, method="split", rate=rate, confidence=confidence
            )
            verdicts, values = got.verdicts(new), got.p_values(new)
            np.testing.assert_array_equal(verdicts, values <= got.level)
            if confidence is None and threshold.shortage(n, rate) is None:
                np.testing.assert_array_equal(verdicts, values <= rate)
            # Single precision decides alike on scores of single precision.
            if kind == "float32":
                single = new[: 200 + n].astype(np.float32) > np.float32(got.value)
                np.testing.assert_array_equal(single, verdicts[: 200 + n])


def test_verdicts_do_not_change_with_an_increasing_transform():
    calibration, new = scores_of("continuous", 80), scores_of("continuous", 99, seed=1)
    got = calibrate(calibration, method="split", rate=0.1).verdicts(new)
    again = calibrate(np.exp(calibration), method="split", rate=0.1)
    np.testing.assert_array_equal(again.verdicts(np.exp(new)), got)


def test_one_image_and_equal_scores():
    alone = calibrate([3.0], method="split", rate=0.05)
    assert (alone.promised, alone.value, alone.rank) == (0.5, 3.0, 1)
    assert alone.verdicts([3.0, 3.5]).tolist() == [False, True]
    equal = calibrate(np.full(30, 3.0), method="split", rate=0.1)
    assert equal.verdicts([3.0, np.nextafter(3.0, 4), 2.0]).tolist() == [
        False,
        True,
        False,
    ]


def test_too_few_images_get_the_best_promise():
    got = calibrate(np.arange(47.0), method="split", rate=0.05, confidence=0.95)
    assert (got.rank, got.value, got.asked) == (1, 46.0, 0.05)
    assert got.promised == pytest.approx(0.06175, abs=1e-5)
    assert got.guarantee().endswith(
        ". 5 % with 95 % confidence needs 59 good images; you have 47, so the best "
        "promise is 6.2 %."
    )


def test_what_is_guaranteed_in_words():
    scores = np.arange(352.0)
    split = calibrate(scores, method="split", rate=0.05).guarantee()
    assert split.startswith(
        "On average at most 4.9 % of new normal images are called anomalous: those "
        "that score above 335, number 17 from the top of 352 normal images that the "
        "detector was not fitted on. This is exact"
    )
    assert "split conformal" in split and "approximation" not in split
    for method, source in (("left_out", "jackknife+"), ("folds", "CV+")):
        words = calibrate(scores, method=method, rate=0.05, confidence=0.95).guarantee()
        assert words.startswith("With 95 % confidence about 4.8 % of new normal images")
        assert "an approximation without a guarantee" in words
        assert f"{source} of Barber et al. (2021)" in words


def test_to_json_and_back():
    scores = scores_of("float32", 83)
    got = calibrate(scores, method="folds", rate=0.05, confidence=0.95)
    again = Threshold.from_dict(json.loads(json.dumps(got.to_dict())))
    np.testing.assert_array_equal(again.scores, got.scores)
    assert again.to_dict() == got.to_dict()
    assert again.guarantee() == got.guarantee()
    assert again.scores.dtype == np.float64 and not again.scores.flags.writeable
    content = got.to_dict()
    del content["rank"], content["value"]
    with pytest.raises(InputError, match="lacks rank, value; calibrate it again"):
        Threshold.from_dict(content)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_cannot_be_compared(bad):
    scores = np.arange(30.0)
    ready = calibrate(scores, method="split", rate=0.05)
    scores[7] = scores[9] = bad
    message = f"scores: number 7 of 30 is {bad}, which cannot be compared"
    for call in (
        lambda: calibrate(scores, method="split", rate=0.05),
        lambda: p_values(scores, np.arange(3.0)),
        lambda: p_values(np.arange(3.0), scores),
        lambda: ready.p_values(scores),
        lambda: ready.verdicts(scores),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(
    ("scores", "changed", "message"),
    [
        ([], {}, r"calibration scores of shape \(0,\) must be one number"),
        ([[1.0, 2.0]], {}, r"of shape \(1, 2\)"),
        ([1.0], {"method": "boot"}, "method='boot' .* split, left_out, folds"),
        ([1.0], {"rate": 0}, "rate=0 must lie above 0 and below 1; 0.05 is 5 %"),
        ([1.0], {"rate": 5}, "rate=5 must"),
        ([1.0], {"rate": float("nan")}, "rate=nan must"),
        ([1.0], {"confidence": 1.0}, "confidence=1.0 must"),
    ],
)
def test_arguments_out_of_range(scores, changed, message):
    arguments = {"method": "split", "rate": 0.05, "confidence": None} | changed
    with pytest.raises(InputError, match=message):
        calibrate(scores, **arguments)


# ---- The promises, kept


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.1])
def test_the_average_rate_of_false_alarms(rate):
    """Over 2,000 draws the counts are those of a beta-binomial distribution."""
    n, m, draws = 150, 60, 2000
    rng = np.random.default_rng(0)
    counts = np.zeros(draws, int)
    for i in range(draws):
        # Exchangeable and dependent: what all scores of a draw have in common.
        scores = rng.gamma(2.0, size=n + m) * rng.uniform(1, 2) + rng.normal()
        got = calibrate(scores[:n], method="split", rate=rate)
        counts[i] = got.verdicts(scores[n:]).sum()
    law = scipy.stats.betabinom(m, got.rank, n + 1 - got.rank)
    assert law.mean() / m == pytest.approx(got.promised)
    assert got.promised <= rate
    assert abs(counts.mean() - law.mean()) < 4 * law.std() / np.sqrt(draws)
    assert kolmogorov_p(counts, law, m) > 0.01


def kolmogorov_p(counts, law, m):
    """Of the Kolmogorov-Smirnov distance, which is conservative for whole numbers."""
    found = np.searchsorted(np.sort(counts), np.arange(m + 1), "right") / len(counts)
    distance = np.abs(found - law.cdf(np.arange(m + 1))).max()
    return scipy.stats.kstwo.sf(distance, len(counts))


@pytest.mark.parametrize("n", [59, 93, 150])
def test_the_rate_that_is_promised_with_confidence(n):
    """Uniform scores: the rate of a threshold is what lies above it."""
    rng = np.random.default_rng(0)
    scores = np.sort(rng.uniform(size=(10_000, n)), axis=1)
    k = threshold.rank(n, 0.05, 0.95)
    too_often = (1 - scores[:, n - k] > 0.05).mean()
    error = 3 * np.sqrt(0.05 * 0.95 / 10_000)
    assert too_often <= 0.05 + error
    assert abs(too_often - scipy.stats.beta.sf(0.05, k, n + 1 - k)) < error
    assert np.mean(1 - scores[:, n - k - 1] > 0.05) > 0.05  # the next would not do
    value = calibrate(scores[0], method="split", rate=0.05, confidence=0.95).value
    assert value == scores[0, n - k]


def test_58_images_are_told_that_59_are_needed():
    assert threshold.rank(58, 0.05, 0.95) == 0
    assert "needs 59 good images; you have 58" in threshold.shortage(58, 0.05, 0.95)


# ---- A batch


def textbook_step_up(values, rate):
    m, order = len(values), np.argsort(values)
    last = [j for j in range(1, m + 1) if values[order[j - 1]] <= rate * j / m]
    found = np.zeros(m, bool)
    found[order[: max(last, default=0)]] = True
    return found


def test_discoveries_are_the_step_up_procedure():
    # Benjamini and Hochberg (1995), section 3.2: four of fifteen at 5 %.
    values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    values += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    got = threshold.discoveries(values[::-1], 0.05)
    assert got.tolist() == [False] * 11 + [True] * 4
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.uniform(size=40) ** 3
        np.testing.assert_array_equal(
            threshold.discoveries(values, 0.1), textbook_step_up(values, 0.1)
        )
    assert threshold.discoveries([], 0.1).tolist() == []


def test_discoveries_exactly_at_the_limit():
    """c / (n + 1) = rate j / m in fractions, which floating point can miss."""
    cases = missed = 0
    for n, c, m, j in itertools.product(
        range(9, 100, 10), (1, 2), range(2, 40), (1, 2)
    ):
        rate = Fraction(c * m, (n + 1) * j)
        if rate >= 1 or 100 % rate.denominator:
            continue
        values, rate = np.ones(m), float(rate)
        values[:j] = c / (n + 1)
        assert threshold.discoveries(values, rate).sum() == j
        missed += not textbook_step_up(values, rate).any()
        values[:j] = (c + 1) / (n + 1)
        assert not threshold.discoveries(values, rate).any()
        cases += 1
    assert cases > 100 and missed > 10


def test_the_false_discovery_rate():
    rng = np.random.default_rng(0)
    share, found = [], []
    for _ in range(1000):
        calibration, new = rng.normal(size=400), rng.normal(size=100)
        new[:20] += 3
        got = threshold.discoveries(p_values(new, calibration), 0.1)
        share.append(got[20:].sum() / max(got.sum(), 1))
        found.append(got[:20].mean())
    # 80 of the 100 are normal, so what is controlled is 0.8 of the rate.
    assert 0.06 < np.mean(share) < 0.08 + 4 * np.std(share) / np.sqrt(1000)
    assert np.mean(found) > 0.6


@pytest.mark.parametrize(
    ("images", "batch", "anomalous", "rate", "sentence"),
    [
        (399, 200, 5, 0.1, None),
        (
            398,
            200,
            5,
            0.1,
            "5 anomalous among 200 images at a false discovery rate of 10 % need 399 "
            "good images; you have 398, so nothing can be reported unless 6 or more "
            "are reported together",
        ),
        (
            9,
            200,
            5,
            0.05,
            "5 anomalous among 200 images at a false discovery rate of 5 % need 799 "
            "good images; you have 9, so nothing can be reported",
        ),
    ],
)
def test_calibration_images_that_a_batch_needs(
    images, batch, anomalous, rate, sentence
):
    assert threshold.batch_shortage(images, batch, anomalous, rate) == sentence
    # As many anomalous images, all above the calibration scores, and no other.
    new = np.r_[np.full(anomalous, 2.0), np.full(batch - anomalous, -1.0)]
    values = p_values(new, np.linspace(0, 1, images))
    found = threshold.discoveries(values, rate)
    assert found.sum() == (anomalous if sentence is None else 0)


def test_a_batch_out_of_range():
    with pytest.raises(InputError, match="anomalous=0 must be .* at most batch=9"):
        threshold.batch_shortage(99, 9, 0, 0.1)
    with pytest.raises(InputError, match="numbers from 0 to 1"):
        threshold.discoveries([0.5, np.nan], 0.1)
    with pytest.raises(InputError, match="rate=1 must"):
        threshold.discoveries([0.5], 1)


def test_exact_interval_of_a_proportion():
    # Clopper and Pearson (1934) by their definition: each tail holds 2.5 %.
    low, high = threshold.proportion_interval(3, 10)
    assert scipy.stats.binom.sf(2, 10, low) == pytest.approx(0.025)
    assert scipy.stats.binom.cdf(3, 10, high) == pytest.approx(0.025)
    assert (low, high) == pytest.approx((0.0667395, 0.6524529), abs=1e-7)
    assert threshold.proportion_interval(0, 59)[1] == pytest.approx(0.0606, abs=1e-4)
    interval = threshold.proportion_interval(12, 236)
    assert interval == pytest.approx((0.0265, 0.0871), abs=1e-4)
    assert threshold.proportion_interval(0, 0) == (0.0, 1.0)
    assert threshold.proportion_interval(10, 10)[1] == 1.0
