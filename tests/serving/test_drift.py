"""Recent p-values beside those of good images."""

import math

import numpy as np
import pytest

from jaxad.serving.drift import Drift


def test_every_p_value_once_is_no_drift():
    drift = Drift(4)
    for p in (0.4, 1.0, 0.2, 0.8, 0.6):
        drift.add(p)
    assert drift.measured() == (0.0, 1.0) and len(drift) == 5


def test_the_distance_by_hand():
    """0.2 twice where 0.2 has a fifth: 1 - 1/5."""
    drift = Drift(4)
    assert math.isnan(drift.measured().statistic)
    drift.add(0.2), drift.add(0.2)
    assert drift.measured().statistic == pytest.approx(0.8)


def test_only_the_last_ones_count():
    drift = Drift(9, recent=10)
    for p in [0.1] * 50 + [i / 10 for i in range(1, 11)]:
        drift.add(p)
    assert drift.measured() == (0.0, 1.0)


@pytest.mark.parametrize("calibration", [20, 300])
def test_good_images_give_no_more_false_alarms_than_asked(calibration):
    """Though the calibration images are a sample, and a small one."""
    random, alarms = np.random.default_rng(0), 0
    for _ in range(100):
        rising, drift = np.sort(random.normal(size=calibration)), Drift(calibration)
        for score in random.normal(size=200):
            above = calibration - np.searchsorted(rising, score)
            drift.add((1 + above) / (calibration + 1))
        alarms += drift.measured().p_value < 0.05
    assert alarms <= 12  # of Binomial(100, 0.05) more than that are one in 700
    drift = Drift(calibration)
    for _ in range(200):
        drift.add(3 / (calibration + 1))
    assert drift.measured().p_value < 1e-4
