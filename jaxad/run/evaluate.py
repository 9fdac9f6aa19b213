"""A fitted detector over a split: scores for every image, metrics, pictures."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxad import config as config_lib
from jaxad import data, metrics, protocols, rng
from jaxad.augment.disturbance import disturb
from jaxad.devices import processes, sharding
from jaxad.errors import InputError
from jaxad.inference.thumbnails import Thumbnails
from jaxad.metrics import PixelMetrics
from jaxad.resampled import PixelCounts
from jaxad.run import passes
from jaxad.run.passes import Pass
from jaxad.run.results import COLUMNS

_LOG = logging.getLogger(__name__)

# What is kept of a pass that is not finished.
KEPT = ("scores", "ranges", "pixels", "pixel_counts", "thumbnails")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What scoring a split gives.

    Attributes:
      scores: image scores, float32 [n], in the split's order.
      ranges: the lowest and the highest value of each anomaly map, float32 [n, 2].
      thumbnails: small pictures of the images and their maps, for a report.
      pixel_counts: of every image, for the bootstrap; None where there are no masks.
      metrics: name -> value; None where the split has no masks, or no image at all,
        NaN where undefined.
    """

    scores: np.ndarray
    ranges: np.ndarray
    metrics: dict[str, float | None]
    thumbnails: Thumbnails = dataclasses.field(default_factory=Thumbnails)
    pixel_counts: PixelCounts | None = None


def evaluate(
    predict,
    split,
    batch_size: int,
    *,
    label: str,
    keep: Pass | None = None,
    further: "Sequence[Further]" = (),
) -> Evaluation:
    """Scores every image of a split.

    Args:
      predict: `images [b, H, W, 3] in [0, 1] -> (scores [b], maps [b, H, W])`; of the
        images each process gives its share.
      split: of `data.load`.
      batch_size: images a batch; the last one is padded and masked.
      label: what the progress bar says.
      keep: where what is found is kept while the pass is not finished.
      further: what else to measure, of `further_metrics`.

    Raises:
      InputError: an image gets a score that is not finite.
      Preempted: SIGTERM came.
    """
    keep = keep or passes.unkept()
    n, done = len(split), 0
    scores, ranges = np.zeros(n, np.float32), np.zeros((n, 2), np.float32)
    # Of all images that are saved, and of this process's images since then.
    pixels, recent = PixelMetrics(), PixelMetrics()
    small, recent_small = Thumbnails(), Thumbnails()
    for first, done, found in keep.resume():
        scores[first:done], ranges[first:done] = found["scores"], found["ranges"]
        pixels.merge(PixelMetrics.of_arrays(found["pixels"]))
        small.merge(Thumbnails.of_arrays(found["thumbnails"]))

    def merged() -> tuple[PixelMetrics, Thumbnails]:
        nonlocal recent, recent_small
        new, new_small = PixelMetrics(), Thumbnails()
        for one, other in processes.gather((recent.arrays(), recent_small.arrays())):
            new.merge(PixelMetrics.of_arrays(one))
            new_small.merge(Thumbnails.of_arrays(other))
        pixels.merge(new)
        small.merge(new_small)
        recent, recent_small = PixelMetrics(), Thumbnails()
        return new, new_small

    def found_in(first: int, stop: int):
        new, new_small = merged()
        return {
            "scores": scores[first:stop],
            "ranges": ranges[first:stop],
            "pixels": new.arrays(),
            "thumbnails": new_small.arrays(),
        }

    unseen, earlier = 0, done
    with processes.progress(total=n, initial=done, desc=label, unit="img") as bar:
        for batch in data.eval_batches(split, batch_size, done, **processes.share()):
            valid = batch["valid"]
            image_scores, maps = predict(batch["image"])
            image_scores = sharding.fetch(image_scores)[: n - done]
            broken = ~np.isfinite(image_scores)
            if broken.any():
                raise InputError(
                    f"{split.filenames[done + int(broken.argmax())]} gets a score that "
                    "is not finite; check the weights, or the file itself"
                )
            scores[done : done + len(image_scores)] = image_scores
            found = sharding.fetch(_ranges(maps))[: n - done]
            ranges[done : done + len(found)] = found
            mine = sharding.fetch_share(maps)[valid]
            for row, one in zip(np.flatnonzero(valid), mine, strict=True):
                recent_small.add(
                    batch["index"][row], batch["image"][row], one, batch["mask"][row],
                    split.geometry, tuple(batch["size"][row].tolist()),
                )  # fmt: skip
            if split.has_masks:
                masks = batch["mask"][valid]
                recent.update(mine, masks)
                blank = ~masks.any(axis=(1, 2))
                unseen += int((blank & (batch["label"][valid] == 1)).sum())
            done += len(image_scores)
            keep.reached(done, found_in)
            bar.update(len(image_scores))
    merged()
    if unseen := sum(processes.gather(unseen)):
        _LOG.warning(
            "%s: anomalous images without a mask, or with nothing left of it at the "
            "size that is scored: %s%d; pixel metrics take all of them for normal",
            label,
            "at least " if earlier else "",
            unseen,
        )
    of_pixels = _named(pixels if split.has_masks else None)
    if not n:
        names = *_IMAGE_METRICS, *of_pixels, *columns_of(further)
        return Evaluation(scores, ranges, dict.fromkeys(names))
    named = {**_image_metrics(scores, split.labels), **of_pixels}
    for one in further:
        known = pixels if split.has_masks else None
        named |= one.compute(scores, split.labels, known)
    return Evaluation(scores, ranges, named, small)


@jax.jit
def _ranges(maps: jax.Array) -> jax.Array:
    return jnp.stack([maps.min((1, 2)), maps.max((1, 2))], axis=1)


class Further(NamedTuple):
    """Metrics beside those of every run.

    Attributes:
      columns: their names.
      compute: `(scores float32 [n], labels int32 [n], PixelMetrics, or None without
        masks) -> values by these names`.
    """

    columns: tuple[str, ...]
    compute: Callable[..., dict[str, float | None]]


def columns_of(further: Sequence[Further]) -> tuple[str, ...]:
    return tuple(name for one in further for name in one.columns)


def further_metrics(config) -> tuple[Further, ...]:
    """What `config.metrics` names.

    One of `protocols.NAMES`, or the path of a module with `compute(scores float32 [n],
    labels int32 [n]) -> float`, NaN where it is undefined: the last part of its path is
    the column's name.

    Raises:
      InputError: there is no such module, or it has another's name.
    """
    found: list[Further] = []
    for path in config.metrics:
        if path in protocols.NAMES:
            compute = getattr(protocols, path)
            one = Further(protocols.COLUMNS[path], compute)
        else:
            one = _of_module(path)
        taken = {*columns_of(found), *COLUMNS}
        for name in one.columns:
            if name in taken:
                raise InputError(
                    f"config.metrics: {path} has the name of another metric, {name}; "
                    "rename the module"
                )
        found.append(one)
    return tuple(found)


def _of_module(path: str) -> Further:
    needs = ("compute(scores, labels)",)
    module = config_lib.find_module("metrics", path, __name__, protocols.NAMES, needs)
    name = path.rpartition(".")[2]

    def compute(scores, labels, pixels):
        del pixels
        return {name: float(module.compute(scores, labels))}

    return Further((name,), compute)


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
        # They are shown as they are scored.
        self.geometry = data.Geometry(split.geometry.size)
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
        return {**item, "image": image, "mask": mask, "size": mask.shape}


_IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max", "image_f1_threshold")


def _image_metrics(scores, labels):
    values = (
        metrics.auroc(scores, labels),
        metrics.average_precision(scores, labels),
        *metrics.f1_max(scores, labels),
    )
    return dict(zip(_IMAGE_METRICS, values, strict=True))


PIXEL_METRICS = (
    "pixel_auroc",
    "pixel_ap",
    "pixel_f1_max",
    "pixel_f1_threshold",
    "aupro_0.3",
)


def _named(pixels):
    if pixels is None:
        return dict.fromkeys(PIXEL_METRICS)
    values = pixels.compute()
    return {name: values[name] for name in PIXEL_METRICS}
