"""The feature pass: patch descriptors of every image of a split, in host memory."""

from collections.abc import Callable

import jax
import numpy as np
from tqdm import tqdm

from jaxad import data
from jaxad.errors import InputError


def extract(
    describe: Callable[[np.ndarray], jax.Array], split, batch_size: int, *, label: str
) -> np.ndarray:
    """Describes the patches of all images.

    Every batch has the same shape (the last one is padded), so an image's descriptors
    are the same bits wherever it lies in the split.

    Args:
      describe: `images [b, H, W, 3] in [0, 1] -> [b, h, w, c]`.
      split: of `data.load`.
      batch_size: images a batch.
      label: what the progress bar says.

    Returns:
      float32 [n, h, w, c] in the split's order.

    Raises:
      InputError: names the first image with descriptors that are not finite.
    """
    out = None
    with tqdm(total=len(split), desc=label, unit="img", disable=None) as progress:
        for batch in data.eval_batches(split, batch_size):
            described = np.asarray(describe(batch["image"]))
            if out is None:
                out = np.empty((len(split), *described.shape[1:]), np.float32)
            index = batch["index"][batch["valid"]]
            described = described[batch["valid"]]
            # A sum is finite only if every term is, and it costs one pass.
            broken = ~np.isfinite(described.sum((1, 2, 3)))
            if broken.any():
                raise InputError(
                    f"{split.filenames[index[broken][0]]} has features that are not "
                    "finite; check config.backbone.weights, or the file itself"
                )
            out[index] = described
            progress.update(len(index))
    return out
