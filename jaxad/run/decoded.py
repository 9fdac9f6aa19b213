"""Images decoded once, for all runs of one size: `config.dataset.cache`.

What is kept are pixels as they are before they become numbers, so that an image is the
same bits whether or not it comes from there. One of more than 8 bits is not kept, and
is decoded as ever.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxad import data
from jaxad.devices import processes
from jaxad.run import cache, results

_LOG = logging.getLogger(__name__)

_AT_A_TIME = 1024  # images that are decoded before they are written


def kept(split: data.Split, folder: str, label: str) -> data.Split:
    """A split whose images come from the cache, where they are put if need be.

    Of several processes the first one decodes, and all others wait.

    Args:
      folder: `config.dataset.cache`; "" gives the split as it is.
      label: what messages and the progress bar say first.

    Raises:
      InputError: an image that cannot be read, or a folder that cannot be written.
    """
    if not folder or not len(split):
        return split
    place = pathlib.Path(folder).expanduser()
    versions = {k: v for k, v in results.versions().items() if k != "device"}
    key = {
        "images": split.version,
        "geometry": repr(split.geometry),
        "versions": versions,
    }

    def compute(empty):
        if not processes.first():
            return None
        array = empty((len(split),), _row(split.geometry.size))
        with processes.progress(
            total=len(split), desc=f"{label}: decode", unit="img"
        ) as bar:
            for i, fitted in _fitted(split):
                if fitted is not None:
                    h, w, _ = fitted.pixels.shape
                    array["pixels"][i, :h, :w] = fitted.pixels
                    array["shape"][i], array["size"][i] = (h, w), fitted.original_size
                    array["has_mask"][i] = fitted.has_mask
                bar.update(1)
        return array

    array = cache.cached(
        place, key, compute, name="images", field="config.dataset.cache"
    )
    found = int(array["shape"].any(1).sum())
    _LOG.info("%s: %d of %d images decoded in %s", label, found, len(split), place)

    def of(i: int) -> data.Fitted | None:
        row = array[i]
        h, w = row["shape"].tolist()
        if not h:
            return None
        size = tuple(row["size"].tolist())
        return data.Fitted(row["pixels"][:h, :w], size, bool(row["has_mask"]))

    return dataclasses.replace(split, kept=of)


def _row(size: tuple[int, int]) -> np.dtype:
    """Of an image: its pixels, how many of them there are before padding, none of one
    that is not kept, and the size of the image itself."""
    return np.dtype(
        [
            ("pixels", "u1", (*size, 3)),
            ("shape", "<i4", (2,)),
            ("size", "<i4", (2,)),
            ("has_mask", "?"),
        ]
    )


def _fitted(split: data.Split) -> Iterator[tuple[int, data.Fitted | None]]:
    with ThreadPoolExecutor(data.THREADS) as threads:
        for first in range(0, len(split), _AT_A_TIME):
            rows = range(first, min(first + _AT_A_TIME, len(split)))
            yield from zip(rows, threads.map(split.fitted, rows), strict=True)
