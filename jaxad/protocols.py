"""Metrics as a paper's own code has them, where that is not `jaxad.metrics`.

For numbers that are to lie beside published ones. What is exact stays in
`jaxad.metrics`, and results show both.
"""

import math

import numpy as np

from jaxad.metrics import PixelMetrics, aupr_trapezoid

NAMES = ("visa",)
COLUMNS = {
    "visa": ("image_aupr", "pixel_aupr", "visa_pixel_auroc", "visa_pixel_aupr"),
}


def visa(scores, labels, pixels: PixelMetrics | None) -> dict[str, float | None]:
    """What the VisA benchmark goes by: AU-PR, exact and by its sweep of thresholds.

    Args:
      scores: of images [n].
      labels: 1 = anomalous, 0 = normal, [n].
      pixels: of all pixels of all images; None without masks.

    Returns:
      By the names of `COLUMNS`: `image_aupr`, the trapezoidal area that the benchmark's
      code takes as well; `pixel_aupr`, the same of pixels; `visa_pixel_auroc` and
      `visa_pixel_aupr`, of `visa_pixels`. None without masks, NaN where undefined.
    """
    found = {"image_aupr": aupr_trapezoid(scores, labels)}
    if pixels is None:
        return found | dict.fromkeys(COLUMNS["visa"][1:])
    auroc, aupr = visa_pixels(pixels)
    exact = pixels.compute(limits=())["pixel_aupr"]
    return found | {
        "pixel_aupr": exact,
        "visa_pixel_auroc": auroc,
        "visa_pixel_aupr": aupr,
    }


def visa_pixels(pixels: PixelMetrics) -> tuple[float, float]:
    """(AU-ROC, AU-PR) of pixels by 202 thresholds, as VisA's metrics.py has them.

    The thresholds are 100 percentiles of the anomalous pixels' scores, 100 numbers at
    equal distances from their highest to their lowest, and 1e-8 beyond the highest and
    the lowest score of all. What scores above a threshold is predicted; precision is 1
    where nothing is. Both areas are trapezoids, rounded to four decimals. Normal images
    count. The benchmark's code works in the maps' precision, this in float64, in which
    1e-8 is not lost.

    Source: utils/metrics.py of github.com/amazon-science/spot-diff, for Zou et al.,
    SPot-the-Difference, ECCV 2022 (arXiv:2207.14315).
    """
    anomalous = pixels.anomalous_scores()
    normal = pixels.count - anomalous.size
    if not anomalous.size or not normal:
        return math.nan, math.nan
    lowest, highest = pixels.extremes()
    thresholds = np.concatenate(
        [
            np.percentile(anomalous, np.linspace(100, 0, 100)),
            np.linspace(anomalous[-1], anomalous[0], 100),
            [lowest - 1e-8, highest + 1e-8],
        ]
    )
    thresholds = np.sort(thresholds)[::-1]
    hits, alarms = pixels.above(thresholds)
    called = hits + alarms
    precision = np.divide(hits, called, out=np.ones(called.size), where=called > 0)
    recall, fpr = hits / anomalous.size, alarms / normal
    areas = np.trapezoid(recall, fpr), np.trapezoid(precision, recall)
    auroc, aupr = (round(float(area), 4) for area in areas)
    return auroc, aupr
