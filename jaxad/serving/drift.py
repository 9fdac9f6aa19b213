"""Whether today's images are still those that the detector was made for."""

import collections
from typing import NamedTuple

import numpy as np
import scipy.stats

RECENT = 500  # images


class Measured(NamedTuple):
    """Attributes:
    statistic: the largest difference between the distribution of p-values and that of
      good images of the same source, 0 to 1.
    p_value: how likely it is at least as large where nothing has changed.
    """

    statistic: float
    p_value: float


class Drift:
    """The p-values of recent images, beside what they should be.

    The conformal p-values of images that could change places with the calibration
    images have the values 1/(n + 1), 2/(n + 1) ... 1, each as often. The distribution
    of recent ones is compared with that one, by Kolmogorov and Smirnov. n calibration
    images are a sample, too, and one that all recent images share: so the test is the
    one of two samples, and a small n gives no false alarm.

    References:
      Hodges, The significance probability of the Smirnov two-sample test, 1958.
    """

    def __init__(self, calibration: int, recent: int = RECENT):
        """Args:
        calibration: how many images the threshold comes from, n.
        recent: so many of the last images count.
        """
        self._expected = np.arange(1, calibration + 2) / (calibration + 1)
        self._recent: collections.deque[float] = collections.deque(maxlen=recent)

    def add(self, p_value: float) -> None:
        self._recent.append(p_value)

    def __len__(self) -> int:
        """Images that count."""
        return len(self._recent)

    def measured(self) -> Measured:
        """NaN before the first image."""
        if not self._recent:
            return Measured(np.nan, np.nan)
        found = scipy.stats.ks_2samp(list(self._recent), self._expected, method="asymp")
        return Measured(float(found.statistic), float(found.pvalue))
