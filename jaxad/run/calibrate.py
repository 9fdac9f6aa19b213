"""Scores of good images as if the detector had never seen them.

What a detector was fitted on lies closer to it than tomorrow's good images will, so a
threshold comes from other scores (`config.threshold.calibration`):

* `split`: a share of the training images is held out of everything, and scored.
* `folds`: fits on all but a part of the images score that part; the representation
  stays the one that was learnt from all.
* `left_out`: the detector itself scores each image without what that image has added.

A network that has been trained on an image knows it in all of its weights, so for a
scorer that fits nothing of its own there is only `split`.

`jaxad.detectors.threshold` says which of these promises what.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from jaxad import data
from jaxad.detectors import base, threshold
from jaxad.detectors.base import Detector, Normal, Scored
from jaxad.devices import processes, sharding
from jaxad.devices.rows import Stack
from jaxad.errors import InputError
from jaxad.inference.decisions import Decision, decide
from jaxad.run import passes as passes_lib
from jaxad.run.descriptors import describe, project
from jaxad.run.fit import Fitted, normal_of, timed, unfinished
from jaxad.run.passes import Passes
from jaxad.run.pipeline import Pipeline

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Scores of good images that nothing was fitted on.

    Attributes:
      kind: "split", "folds" or "left_out".
      split: the images.
      patches: their patch scores, float32 [n, h, w].
      scores: their image scores, float32 [n].
      maxima: the largest values of their anomaly maps, float32 [n].
    """

    kind: str
    split: data.Split
    patches: np.ndarray
    scores: np.ndarray
    maxima: np.ndarray


def kind_of(pipelines: Sequence[Pipeline]) -> str:
    """What `config.threshold.calibration` stands for; "none" where none is wanted.

    Raises:
      InputError: a scorer cannot leave an image out, or has nothing to fit anew.
    """
    config = pipelines[0].config
    kind = config.threshold.calibration
    if not config.threshold.false_alarms:
        return "none"
    can = all(pipeline.scorer.left_out for pipeline in pipelines)
    trained = any(pipeline.scorer.fit is None for pipeline in pipelines)
    if kind == "auto":
        return "split" if trained else "left_out" if can else "folds"
    if trained and kind in ("folds", "left_out"):
        raise InputError(
            f"config.threshold.calibration={kind} asks for what the network has been "
            "trained on without an image; choose split, which holds some out of "
            "everything, or none"
        )
    if kind == "left_out" and not can:
        raise InputError(
            f"config.detector.name={config.detector.name} cannot leave an image out of "
            "what it has fitted; choose config.threshold.calibration=folds or split"
        )
    return kind


def divide(
    pipelines: Sequence[Pipeline], split: data.Split
) -> tuple[data.Split, data.Split | None]:
    """The images to fit on, and the normal ones that are held out of it, if any.

    Raises:
      InputError: there are too few to hold any out.
    """
    config = pipelines[0].config
    if kind_of(pipelines) != "split":
        return split, None
    normal = np.flatnonzero(split.labels == 0)
    count = round(config.threshold.share * len(normal))
    if not 0 < count < len(normal):
        raise InputError(
            f"config.threshold.share={config.threshold.share} of the {len(normal)} "
            f"normal training images holds out {count}; there must be some of both, or "
            "config.threshold.calibration=none"
        )
    order = np.random.default_rng((config.seed, 2)).permutation(len(normal))
    held_out = np.sort(normal[order[:count]])
    fit_on = np.setdiff1d(np.arange(len(split)), held_out)
    return split.take(fit_on), split.take(held_out)


def decided(
    pipelines: Sequence[Pipeline],
    fitted: Iterable[Fitted],
    split: data.Split,
    work: Callable[[Pipeline], pathlib.Path],
    seconds: dict[str, float],
    *,
    label: str,
) -> tuple[tuple[Detector, ...], Decision | None, Calibration | None]:
    """The whole detector, its decision, and the scores that this rests on.

    Args:
      pipelines: one for every member.
      fitted: the members; each is asked for when the one before has been scored.
      split: the images to score: those of `divide` that are held out, or else those
        of the fit.
      work: the folder in which what is not finished is kept.
      seconds: what it takes is added to `threshold`.
      label: what the progress bars say first.
    """
    kind, config = kind_of(pipelines), pipelines[0].config
    members, found = [], []
    for pipeline, member in zip(pipelines, fitted, strict=True):
        members.append(member.detector)
        if kind != "none":
            try:
                with (
                    timed(seconds, "threshold"),
                    unfinished(pipeline, work(pipeline)) as kept,
                ):
                    found.append(_scores_of(pipeline, member, kind, split, kept, label))
            except InputError as error:
                if config.threshold.calibration != "auto":
                    raise
                _LOG.warning("%s: no threshold, since %s", label, error)
                kind = "none"
        del member  # and all descriptors with it
    if kind == "none":
        return tuple(members), None, None
    calibration = _calibration(members, found, kind, split, config.dataset.image_size)
    decision = decide(config, kind, calibration.scores, calibration.maxima)
    asked = decision.images.asked, decision.images.confidence
    if missing := threshold.shortage(len(calibration.scores), *asked):
        _LOG.warning("%s: %s", label, missing)
    return tuple(members), decision, calibration


def _scores_of(
    pipeline: Pipeline,
    fitted: Fitted,
    kind: str,
    split: data.Split,
    passes: Passes,
    label: str,
) -> Scored:
    """The scores of one member, arrays of the host."""
    detector, scorer = fitted.detector, fitted.detector.scorer
    normal = fitted.normal if kind != "split" else None
    if normal is None:
        described = describe(
            pipeline, detector.params, split, label, passes, "features-calibration"
        )
        rows = project(pipeline.method, detector.params, described)
        normal = normal_of(pipeline, detector.params, rows, [split], passes, label)
    if kind == "folds":
        return _folds(pipeline, normal, passes, label)

    def score(described, images):
        if kind == "split":
            return scorer.score(detector.state, described)
        return scorer.left_out(detector.state, described, images + fitted.first)

    return _scored(pipeline, normal, passes, score, label)


def _folds(pipeline: Pipeline, normal: Normal, passes: Passes, label: str) -> Scored:
    """Each image by a fit on the images of all other folds."""
    config, n = pipeline.config, normal.images
    folds = min(config.threshold.folds, n)
    if folds < 2:
        raise InputError(
            f"config.threshold.calibration=folds needs at least 2 training images, and "
            f"there is {n}; add images, or set config.threshold.calibration=none"
        )
    order = np.random.default_rng((config.seed, 3)).permutation(n)
    patches = np.empty((n, *normal.grid), np.float32)
    images = np.empty(n, np.float32)
    for fold in range(folds):
        held_out = np.sort(order[fold::folds])
        others = np.setdiff1d(np.arange(n), held_out)
        fit_on, apart = (_taken(normal, which) for which in (others, held_out))
        state, _ = pipeline.scorer.fit(fit_on)
        state = pipeline.scorer.place(state, pipeline.mesh)
        found = _scored(
            pipeline,
            apart,
            passes,
            lambda described, _, state=state: pipeline.scorer.score(state, described),
            f"{label}: fold {fold + 1} of {folds}",
        )
        patches[held_out], images[held_out] = found.patches, found.images
    return Scored(patches, images)


def _taken(normal: Normal, images: np.ndarray) -> Normal:
    """Some of the images, their rows brought to the host."""
    rows = Stack([normal.rows.take(_rows_of(normal, images))])
    return dataclasses.replace(normal, rows=rows, keep=passes_lib.unkept())


def _rows_of(normal: Normal, images: np.ndarray) -> np.ndarray:
    size = normal.grid[0] * normal.grid[1]
    return (images[:, None] * size + np.arange(size)).ravel()


def _scored(
    pipeline: Pipeline,
    normal: Normal,
    passes: Passes,
    score: Callable[..., Scored],
    label: str,
) -> Scored:
    """`score(described [b, h, w, d], images [b])` of all images, to the host.

    Every batch has the same shape; the last one is filled up.
    """
    patches, found, batch = [], [], pipeline.images_a_call
    bar = processes.progress(
        total=normal.images, unit="img", desc=f"{label}: threshold"
    )
    with bar:
        for first in range(0, normal.images, batch):
            images = np.minimum(np.arange(first, first + batch), normal.images - 1)
            rows = normal.rows.take(_rows_of(normal, images))
            described = rows.reshape(batch, *normal.grid, -1)
            one = score(pipeline.place(sharding.share_of(described)), images)
            count = min(batch, normal.images - first)
            patches.append(sharding.fetch(one.patches)[:count])
            found.append(sharding.fetch(one.images)[:count])
            bar.update(count)
            passes.point()
    return Scored(np.concatenate(patches), np.concatenate(found))


def _calibration(members, found, kind, split, size) -> Calibration:
    """The scores of the whole detector, of `found` by each member."""
    whole = base.combined(members, found)
    patches, images = np.asarray(whole.patches), np.asarray(whole.images)
    maxima = [
        np.asarray(base.anomaly_map(members[0], one[None], size)).max()
        for one in patches
    ]
    return Calibration(kind, split, patches, images, np.array(maxima))


def maps(members: Sequence[Detector], found: Calibration, images) -> np.ndarray:
    """Anomaly maps [k, H, W] of some of the images."""
    size = found.split.geometry.size
    return np.stack(
        [
            np.asarray(base.anomaly_map(members[0], found.patches[i][None], size))[0]
            for i in images
        ]
    )
