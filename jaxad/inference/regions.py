"""Where an image is anomalous: the regions of its map above a threshold."""

import numpy as np
from scipy import ndimage

_TOUCHING = np.ones((3, 3), bool)  # corners too


def regions(anomaly_map: np.ndarray, threshold: float) -> list[list[int]]:
    """Bounding boxes of what is above the threshold, in one piece, corners included.

    Args:
      anomaly_map: [h, w]; NaN is not above.
      threshold: a pixel is anomalous above it.

    Returns:
      [x, y, width, height, area] in pixels of the map, the largest area first; (x, y)
      is the upper left corner, counted from 0.
    """
    above = anomaly_map > threshold
    if not above.any():
        return []
    labels, count = ndimage.label(above, _TOUCHING)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:].tolist()
    found = [
        [x.start, y.start, x.stop - x.start, y.stop - y.start, area]
        for (y, x), area in zip(ndimage.find_objects(labels), areas, strict=True)
    ]
    return sorted(found, key=lambda region: (-region[4], region[1], region[0]))
