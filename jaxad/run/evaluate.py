"""A fitted detector over a split: scores for every image, metrics, pictures."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxad import data, metrics, protocols, rng
from jaxad.augment.disturbance import disturb
from jaxad.devices import processes, sharding
from jaxad.errors import InputError
from jaxad.inference.thumbnails import Thumbnails
from jaxad.metrics import PixelMetrics
from jaxad.names import find_module
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
      banks: the same of every memory bank; all but this is of the first.
    """

    scores: np.ndarray
    ranges: np.ndarray
    metrics: dict[str, float | None]
    thumbnails: Thumbnails = dataclasses.field(default_factory=Thumbnails)
    pixel_counts: PixelCounts | None = None
    banks: Sequence[dict[str, float | None]] = ()


def evaluate(
    predict,
    split,
    batch_size: int,
    *,
    label: str,
    keep: Pass | None = None,
    further: "Sequence[Further]" = (),
    banks: int = 1,
) -> Evaluation:
    """Scores every image of a split.

    Args:
      predict: `images [b, H, W, 3] in [0, 1] -> [(scores [b], maps [b, H, W]), ...]`
        by each memory bank, the detector's first; of the images each process gives its
        share.
      split: of `data.load`.
      batch_size: images a batch; the last one is padded and masked.
      label: what the progress bar says.
      keep: where what is found is kept while the pass is not finished.
      further: what else to measure, of `further_metrics`.
      banks: how many there are.

    Raises:
      InputError: an image gets a score that is not finite.
      Preempted: SIGTERM came.
    """
    keep = keep or passes.unkept()
    n, done = len(split), 0
    scores, ranges = np.zeros((banks, n), np.float32), np.zeros((n, 2), np.float32)
    states = _States(banks)
    for first, done, found in keep.resume():
        scores[:, first:done], ranges[first:done] = found["scores"], found["ranges"]
        states.merge(found)

    def found_in(first: int, stop: int):
        found = {"scores": scores[:, first:stop], "ranges": ranges[first:stop]}
        return found | states.gathered()

    unseen, earlier = 0, done
    with processes.progress(total=n, initial=done, desc=label, unit="img") as bar:
        for batch in data.eval_batches(split, batch_size, done, **processes.share()):
            valid = batch["valid"]
            predicted = predict(batch["image"])
            stop = min(done + batch_size, n)
            for bank, (image_scores, _) in enumerate(predicted):
                image_scores = sharding.fetch(image_scores)[: n - done]
                broken = ~np.isfinite(image_scores)
                if broken.any():
                    raise InputError(
                        f"{split.filenames[done + int(broken.argmax())]} gets a score "
                        "that is not finite; check the weights, or the file itself"
                    )
                scores[bank, done:stop] = image_scores
            found = sharding.fetch(_ranges(predicted[0][1]))[: n - done]
            ranges[done:stop] = found
            maps = [sharding.fetch_share(maps)[valid] for _, maps in predicted]
            states.add(split, batch, maps)
            if split.has_masks:
                blank = ~batch["mask"][valid].any(axis=(1, 2))
                unseen += int((blank & (batch["label"][valid] == 1)).sum())
            bar.update(stop - done)
            done = stop
            keep.reached(done, found_in)
    states.gathered()
    if unseen := sum(processes.gather(unseen)):
        _LOG.warning(
            "%s: anomalous images without a mask, or with nothing left of it at the "
            "size that is scored: %s%d; pixel metrics take all of them for normal",
            label,
            "at least " if earlier else "",
            unseen,
        )
    pixels = states.pixels if split.has_masks else [None] * banks
    measured = [
        _metrics(*both, split.labels, further)
        for both in zip(scores, pixels, strict=True)
    ]
    counts = states.counts if split.has_masks else None
    return Evaluation(
        scores[0], ranges, measured[0], states.thumbnails, counts, measured
    )


class _States:
    """What is gathered image by image: of all images that are saved, and of this
    process's since then.

    Attributes:
      pixels: of every bank.
      counts, thumbnails: of the first.
    """

    def __init__(self, banks: int):
        self._pixels = ["pixels", *(f"pixels-{i}" for i in range(1, banks))]
        self._kinds = dict.fromkeys(self._pixels, PixelMetrics)
        self._kinds |= {"pixel_counts": PixelCounts, "thumbnails": Thumbnails}
        self._whole, self._recent = self._empty(), self._empty()

    def _empty(self) -> dict:
        return {name: kind() for name, kind in self._kinds.items()}

    @property
    def pixels(self) -> list[PixelMetrics]:
        return [self._whole[name] for name in self._pixels]

    @property
    def counts(self) -> PixelCounts:
        return self._whole["pixel_counts"]

    @property
    def thumbnails(self) -> Thumbnails:
        return self._whole["thumbnails"]

    def add(self, split, batch: dict, maps: list[np.ndarray]) -> None:
        """This process's images of a batch; `maps` [b, H, W] of the valid ones."""
        recent, rows = self._recent, np.flatnonzero(batch["valid"])
        for row, one in zip(rows, maps[0], strict=True):
            index, mask = batch["index"][row], batch["mask"][row]
            recent["thumbnails"].add(
                index, batch["image"][row], one, mask,
                split.geometry, tuple(batch["size"][row].tolist()),
            )  # fmt: skip
            if split.has_masks:
                recent["pixel_counts"].add(index, one, mask)
        if split.has_masks:
            for name, found in zip(self._pixels, maps, strict=True):
                recent[name].update(found, batch["mask"][rows])

    def merge(self, found: dict) -> dict:
        """Adds arrays that `gathered` gave, and gives the states that they are of."""
        new = {k: kind.of_arrays(found[k]) for k, kind in self._kinds.items()}
        for name, state in new.items():
            self._whole[name].merge(state)
        return new

    def gathered(self) -> dict:
        """What all processes have found since the last call, as arrays."""
        arrays = {name: state.arrays() for name, state in self._recent.items()}
        new = self._empty()
        for one in processes.gather(arrays):
            for name, state in self.merge(one).items():
                new[name].merge(state)
        self._recent = self._empty()
        return {name: state.arrays() for name, state in new.items()}


def _metrics(
    scores: np.ndarray, pixels: PixelMetrics | None, labels, further
) -> dict[str, float | None]:
    """All metrics of what a bank has found."""
    of_pixels = _named(pixels)
    if not len(scores):
        return dict.fromkeys((*_IMAGE_METRICS, *of_pixels, *columns_of(further)))
    named = {**_image_metrics(scores, labels), **of_pixels}
    for one in further:
        named |= one.compute(scores, labels, pixels)
    return named


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
    module = find_module("metrics", path, __name__, protocols.NAMES, needs)
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
