"""Anomaly maps as numbers, in the images' own shape, for other programs.

* npz: `map`, float32 [height, width]; NaN where nobody has looked.
* png: 16-bit grey as `pictures.levels` has it, one scale for all images of a category:
  `low` and `high` lie beside the images in `scale.json`.
"""

import contextlib
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from jaxad.errors import writing
from jaxad.inference import pictures
from jaxad.run import results


def writer(
    folder: pathlib.Path, kind: str, ranges: np.ndarray
) -> Callable[[str, np.ndarray], None]:
    """What writes a map, float32 [height, width], given the name of its image.

    Args:
      folder: of the category's raw maps.
      kind: "npz" or "png".
      ranges: the lowest and the highest value of each map there is, [n, 2].

    Raises:
      InputError: `scale.json` cannot be written; later on, a map cannot.
    """
    low, high = float(ranges.min()), float(ranges.max())
    if kind == "png":
        results.write_json(folder / "scale.json", {"low": low, "high": high})

    def write(file: str, anomaly_map: np.ndarray) -> None:
        path = pictures.place(folder, file, f".{kind}")
        if kind == "png":
            levels = pictures.levels(anomaly_map, low, high)
            pictures.save(Image.fromarray(levels), path)
            return
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(temporary, "wb") as opened:
                    np.savez_compressed(opened, map=anomaly_map)
                temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    return write
