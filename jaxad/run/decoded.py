"""Images decoded once, for all runs of one size: `config.dataset.cache`.

What is kept are pixels as they are before they become numbers, so that an image is the
same bits whether or not it comes from there. One of more than 8 bits is not kept, and
is decoded as ever.
"""

import dataclasses
import functools
import logging
import math
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxad import data
from jaxad.devices import processes
from jaxad.errors import Preempted
from jaxad.run import cache, keys

_LOG = logging.getLogger(__name__)

_PART = 256  # images of an entry, at least: what is lost where a run is stopped
_OPEN = 256  # entries of a split, at most: each is a file that stays open


def kept(split: data.Split, folder: str, label: str) -> data.Split:
    """A split whose images come from the cache, where they are put if need be.

    It has an entry for every so many of them, so that a run that was stopped goes on
    from there. Of several processes the first one decodes, and all others wait.

    Args:
      folder: `config.dataset.cache`; "" gives the split as it is.
      label: what messages and the progress bar say first.

    Raises:
      InputError: an image that cannot be read, or a folder that cannot be written.
      Preempted: SIGTERM came.
    """
    if not folder or not len(split):
        return split
    place, parts, found = pathlib.Path(folder).expanduser(), [], 0
    size = max(_PART, math.ceil(len(split) / _OPEN))
    key = {
        "images": split.version,
        "geometry": repr(split.geometry),
        "versions": keys.versions(),
    }
    options = {"name": "images", "field": "config.dataset.cache"}
    bar = processes.progress(total=len(split), desc=f"{label}: decoded", unit="img")
    with processes.stoppable() as told_to_stop, bar:

        def point():
            if told_to_stop():
                raise Preempted(f"what is decoded is kept in {place}")

        for first in range(0, len(split), size):
            rows = range(first, min(first + size, len(split)))
            of_rows = key | {"rows": [rows.start, rows.stop]}
            compute = functools.partial(_decode, split, rows)
            parts.append(cache.cached(place, of_rows, compute, point, **options))
            found += int(parts[-1]["shape"].any(1).sum())
            bar.update(len(rows))
            point()
    _LOG.info(
        "%s: %d of %d images come decoded from %s", label, found, len(split), place
    )

    def of(i: int) -> data.Decoded | None:
        row = parts[i // size][i % size]
        h, w = row["shape"].tolist()
        if not h:
            return None
        original = tuple(row["size"].tolist())
        return data.Decoded(row["pixels"][:h, :w], original, bool(row["has_mask"]))

    return dataclasses.replace(split, kept=of)


def of_category(split: data.Split, config, category: str) -> data.Split:
    """`kept`, of a category's split whose images are read from now on."""
    return kept(split, config.dataset.cache, f"{category}: {split.name}")


def _decode(split: data.Split, images: range, empty) -> np.ndarray | None:
    """`compute` of `cache.cached`."""
    if not processes.first():
        return None
    array = empty((len(images),), _row(split.geometry.size))
    with ThreadPoolExecutor(data.THREADS) as threads:
        for row, image in enumerate(threads.map(split.decoded, images)):
            if image is not None:
                h, w, _ = image.pixels.shape
                array["pixels"][row, :h, :w] = image.pixels
                array["shape"][row], array["size"][row] = (h, w), image.original_size
                array["has_mask"][row] = image.has_mask
    return array


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
