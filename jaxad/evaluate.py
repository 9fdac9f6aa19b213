"""A fitted detector over a split: scores for every image, metrics, pictures."""

import dataclasses
import functools

import jax
import numpy as np
from tqdm import tqdm

from jaxad import data, metrics, rng
from jaxad.augment.disturbance import disturb
from jaxad.errors import InputError


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What scoring a split gives.

    Attributes:
      scores: image scores, float32 [n], in the split's order.
      metrics: name -> value; None where the split has no masks, NaN where undefined.
    """

    scores: np.ndarray
    metrics: dict[str, float | None]


def evaluate(predict, split, batch_size: int, *, label: str) -> Evaluation:
    """Scores every image of a split.

    Args:
      predict: `images [b, H, W, 3] in [0, 1] -> (scores [b], maps [b, H, W])`.
      split: of `data.load`.
      batch_size: images a batch; the last one is padded and masked.
      label: what the progress bar says.

    Raises:
      InputError: an image gets a score that is not finite.
    """
    scores = np.zeros(len(split), np.float32)
    pixels = metrics.PixelMetrics() if split.has_masks else None
    with tqdm(total=len(split), desc=label, unit="img", disable=None) as progress:
        for batch in data.eval_batches(split, batch_size):
            valid = batch["valid"]
            image_scores, maps = jax.device_get(predict(batch["image"]))
            index = batch["index"][valid]
            scores[index] = image_scores[valid]
            if not np.isfinite(image_scores[valid]).all():
                worst = index[~np.isfinite(image_scores[valid])][0]
                raise InputError(
                    f"{split.filenames[worst]} gets a score that is not finite; check "
                    "the weights, or the file itself"
                )
            if pixels is not None:
                pixels.update(maps[valid], batch["mask"][valid])
            progress.update(int(valid.sum()))
    return Evaluation(
        scores, {**_image_metrics(scores, split.labels), **_named(pixels)}
    )


class Disturbed:
    """A split whose images, and the masks with them, are not where they were.

    What happens to an image is a function of the seed and of its index alone.

    Args:
      split: of `data.load`.
      seed: of the run.
      magnitudes: of `augment.disturbance.disturb`.
    """

    def __init__(self, split, seed: int, **magnitudes: float):
        self._split, self._key = split, rng.stream(seed, "disturbance")
        self._disturb = jax.jit(functools.partial(disturb, **magnitudes))

    def __len__(self) -> int:
        return len(self._split)

    def __getattr__(self, name: str):
        return getattr(self._split, name)

    def __getitem__(self, index: int) -> dict:
        item = self._split[index]
        key = rng.at(self._key, item["index"])
        moved = self._disturb(key, item["image"], item["mask"])
        image, mask = (np.asarray(x) for x in moved)
        return {**item, "image": image, "mask": mask}


def _image_metrics(scores, labels):
    return {
        "image_auroc": metrics.auroc(scores, labels),
        "image_ap": metrics.average_precision(scores, labels),
        "image_f1_max": metrics.f1_max(scores, labels)[0],
    }


PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_0.3")


def _named(pixels):
    if pixels is None:
        return dict.fromkeys(PIXEL_METRICS)
    values = pixels.compute()
    return {name: values[name] for name in PIXEL_METRICS}
