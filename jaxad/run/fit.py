"""From a pipeline and normal images to a fitted detector."""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from jaxad import data, models, scores
from jaxad.detectors import base
from jaxad.detectors.base import Detector, Normal, Report, State
from jaxad.devices import processes, sharding
from jaxad.devices.rows import Sharded, Stack
from jaxad.errors import InputError
from jaxad.fields import require
from jaxad.methods.base import Metrics, Params, Stage
from jaxad.run import decoded, features, programs, stages
from jaxad.run.descriptors import describe, grid, key_of, project
from jaxad.run.passes import Passes
from jaxad.run.pipeline import Pipeline
from jaxad.training import feed, loop

_LOG = logging.getLogger(__name__)

_RECALL_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class Task:
    """A detector that is to be fitted: the arguments of `fit`."""

    pipeline: Pipeline
    split: object
    folder: pathlib.Path
    label: str


def train_together(tasks: Sequence[Task], size: int) -> list[dict[str, float]]:
    """Trains the first stage of several detectors, `size` of them in one program.

    It is left finished in every task's folder, where `fit` goes on from it. One that
    is left over is left to `fit`.

    Args:
      tasks: of pipelines that differ in their seed alone; the stage is on patches.
      size: detectors at once, 2 or more; their descriptors lie on the device together.

    Returns:
      For each, its share of the seconds spent in each phase.

    Raises:
      InputError, Preempted: as `fit`.
    """
    seconds: list[dict[str, float]] = [{} for _ in tasks]
    for first in range(0, len(tasks) - 1, size):
        chunk = tasks[first : first + size]
        if len(chunk) > 1:
            spent = _train_chunk(chunk)
            for share in seconds[first : first + len(chunk)]:
                share |= {phase: each / len(chunk) for phase, each in spent.items()}
    return seconds


def _train_chunk(tasks: Sequence[Task]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    stage, described, runs = tasks[0].pipeline.stages[0], {}, []
    with contextlib.ExitStack() as kept:
        for task in tasks:
            pipeline, split = task.pipeline, task.split
            params: Params = {"backbone": pipeline.variables}
            images = pipeline.fingerprint, split.version
            if images not in described:
                with (
                    timed(seconds, "features"),
                    unfinished(pipeline, task.folder) as passes,
                ):
                    described[images] = describe(
                        pipeline, params, split, task.label, passes
                    )
            folder = kept.enter_context(
                stages.kept(pipeline, stage, split, task.folder)
            )
            seed = pipeline.config.seed
            runs.append(loop.Run(params, described[images], seed, folder))
        _LOG.info("%s: %d heads together", stage.name, len(runs))
        with timed(seconds, stage.name):
            pipeline = tasks[0].pipeline
            loop.train_together(
                stage, runs, options=_options(pipeline), mesh=pipeline.mesh
            )
    return seconds


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted detector, and what it was fitted on.

    Attributes:
      detector: fitted.
      normal: the descriptors of the images `first`, `first + 1`, ... of all that it has
        learnt from; None where they are not at hand.
      seconds: spent in each phase.
      banks: the same with memory banks that begin elsewhere, of `config.bank_starts`.
    """

    detector: Detector
    normal: Normal | None
    seconds: dict[str, float]
    first: int = 0
    banks: Sequence[Detector] = ()


def fit(
    pipeline: Pipeline, split: data.Split, folder: pathlib.Path, *, label: str
) -> Fitted:
    """Trains the method's stages on a split and fits the scorer.

    Args:
      pipeline: of `jaxad.run.pipeline.load`.
      split: the normal images, of `data.load`.
      folder: where the stages keep their checkpoints, and `unfinished` what can be
        removed once the detector is saved.
      label: what the progress bars say first.

    Raises:
      InputError: too few images or patches, or features that are not finite.
      Preempted: SIGTERM came.
    """
    with unfinished(pipeline, folder) as passes:
        return _fit(pipeline, split, folder, passes, label)


def _fit(pipeline: Pipeline, split, folder: pathlib.Path, passes: Passes, label: str):
    seconds = {"features": 0.0}
    params, descriptors = learn(pipeline, split, folder, passes, seconds, label=label)
    if params["backbone"] is not pipeline.variables:
        folded = models.fold(pipeline.backbone.module, params["backbone"])
        params = {**params, "backbone": folded}
    if pipeline.scorer.fit is None:
        detector = assemble(
            pipeline, params, {}, {}, [split], seconds, passes, label=label
        )
        return Fitted(detector, None, seconds)
    if descriptors is None:
        with timed(seconds, "features"):
            descriptors = describe(pipeline, params, split, label, passes)
    rows = project(pipeline.method, params, descriptors)
    fitted = []
    for start in range(pipeline.config.bank_starts):
        normal = normal_of(pipeline, params, rows, [split], passes, label, start=start)
        with timed(seconds, "fit"):
            state, report = pipeline.scorer.fit(normal)
        detector = assemble(
            pipeline, params, state, report, [split], seconds, passes, label=label
        )
        fitted.append((detector, normal))
    (detector, normal), *others = fitted
    return Fitted(detector, normal, seconds, banks=[bank for bank, _ in others])


def learn(
    pipeline: Pipeline,
    split: data.Split,
    folder: pathlib.Path,
    passes: Passes,
    seconds: dict[str, float],
    *,
    label: str,
    probe: Callable[[Params], Metrics] | None = None,
    done: Callable[[Stage, Params], None] = lambda stage, params: None,
) -> tuple[Params, np.ndarray | Sharded | None]:
    """Trains the method's stages.

    Args:
      pipeline: of `jaxad.run.pipeline.load`.
      split: what they train on.
      folder: where they keep their checkpoints.
      passes: what is not finished is kept there.
      seconds: what the phases take is added here.
      label: what the progress bars say first.
      probe: what looks at the outcome of stages that train the backbone as they go, as
        `loop.train` takes it.
      done: called with each stage that has ended, and what it hands on.

    Returns:
      (what the last stage hands on, descriptors of all images by the backbone as it is
      then, where a stage needed them).
    """
    config = pipeline.config
    params: Params = {"backbone": pipeline.variables}
    textures, descriptors = textures_of(pipeline), None
    if textures is not None:
        textures = decoded.kept(textures, config.dataset.cache, "textures")
    for stage in pipeline.stages:
        if stage.inputs == "patches" and descriptors is None:
            with timed(seconds, "features"):
                descriptors = describe(pipeline, params, split, label, passes)
        items = descriptors
        if stage.inputs == "images":
            shared = sharding.divides(pipeline.mesh, stage.batch_size)
            batches = functools.partial(
                data.train_batches,
                split,
                stage.batch_size,
                config.seed,
                textures=textures if stage.textures else None,
                **(processes.share() if shared else {}),
            )
            shape = (*config.dataset.image_size, 3)
            items = feed.Images(len(split), batches, shape)
        kept = stages.kept(
            pipeline, stage, split, folder, textures=textures, waiting=passes.point
        )
        with timed(seconds, stage.name), kept as workdir:
            params = loop.train(
                stage,
                params,
                items,
                seed=config.seed,
                workdir=workdir,
                options=_options(pipeline),
                mesh=pipeline.mesh,
                probe=probe if stage.tunes else None,
            )
        done(stage, params)
        if stage.inputs == "images":
            descriptors = None
    return params, descriptors


def normal_of(
    pipeline: Pipeline,
    params: Params,
    rows: Stack,
    splits: Sequence[data.Split],
    passes: Passes,
    label: str,
    kept: str = "",
    start: int = 0,
) -> Normal:
    """What a scorer is fitted on.

    Args:
      params: as the stages left them.
      rows: projected patches [n, d].
      splits: the images that they, and what the scorer knows already, are from.
      passes: what is not finished is kept there.
      label: what the progress bar says first.
      kept: names what the scorer knows already.
      start: which of several starts the fit has.
    """
    name = f"fit-{start}" if start else "fit"
    return Normal(
        rows=rows,
        grid=grid(pipeline)[:2],
        mesh=pipeline.mesh,
        keep=passes.start(name, key_of(pipeline, params, *splits) + kept),
        progress=functools.partial(processes.progress, desc=f"{label}: {name}"),
        start=start,
    )


def assemble(
    pipeline: Pipeline,
    params: Params,
    state: State,
    report: Report,
    splits: Sequence[data.Split],
    seconds: dict[str, float],
    passes: Passes,
    *,
    label: str,
) -> Detector:
    """The detector with what a scorer has fitted.

    Args:
      params: as the stages left them.
      state, report: of the scorer.
      splits: all that the detector learns from, for an ensemble's spread.
      seconds: what the phases take is added here.
      passes: what is not finished is kept there.
      label: what the progress bars say first.
    """
    config = pipeline.config
    detector = Detector(
        params=params,
        state=pipeline.scorer.place(state, pipeline.mesh),
        method=pipeline.method,
        backbone=pipeline.backbone,
        scorer=pipeline.scorer,
        options=tuple(config.detector.to_dict().items()),
        report=report,
    )
    if config.ensemble.members:
        with timed(seconds, "spread"):
            spread = _spread(pipeline, detector, splits, label, passes)
            detector = detector.replace(spread=spread)
    return detector


def unfinished(pipeline: Pipeline, folder: pathlib.Path) -> Passes:
    """Where the passes that make a detector are kept until it is saved."""
    return Passes(folder / "unfinished", every=pipeline.config.save_seconds)


def _options(pipeline: Pipeline) -> loop.Options:
    fields = pipeline.config.train
    return loop.Options(fields.log_every, fields.save_every, fields.keep)


def _spread(
    pipeline: Pipeline, detector: Detector, splits, label: str, passes: Passes
) -> scores.Spread:
    """Of the scores that the training images' own patches get."""
    fitted = models.fingerprint({"state": base.on_host(detector.state)})

    def patch_scores(images):
        described = base.describe_with(detector, pipeline.place(images))
        return detector.scorer.score(detector.state, described).patches[..., None]

    normal = [
        features.extract(
            patch_scores,
            split,
            pipeline.images_a_call,
            label=f"{label}: spread",
            keep=passes.start(
                f"spread-{i}-{fitted[:8]}",
                key_of(pipeline, detector.params, split) + fitted,
            ),
        )
        for i, split in enumerate(splits)
    ]
    mean_deviation = pipeline.config.ensemble.mean_deviation
    return scores.spread(np.concatenate(normal), mean_deviation=mean_deviation)


def recall(
    pipeline: Pipeline, detector: Detector, split, *, label: str
) -> dict[str, float | int]:
    """How often an approximate search finds what an exact one does.

    Returns:
      `recall`, the share of the `patches` of `images` images, which are at most 32 and
      spread evenly over the split.
    """
    rows = np.linspace(0, len(split) - 1, min(_RECALL_IMAGES, len(split)))

    def finds(images):
        described = base.describe_with(detector, pipeline.place(images))
        return detector.scorer.recall(detector.state, described)[..., None]

    found = features.extract(
        finds,
        split.take(rows.astype(int)),
        pipeline.images_a_call,
        label=f"{label}: recall",
    )
    share = float(found.mean(dtype=np.float64))
    return {"recall": share, "patches": found.size, "images": len(found)}


def check(pipeline: Pipeline, split, *, label: str) -> None:
    """Looks before anything is trained whether a split has enough images.

    Raises:
      InputError: for a stage's batch, or for the scorer.
    """
    height, width, channels = grid(pipeline)
    pipeline.method.check((height, width, channels))
    for stage in pipeline.stages:
        count = len(split)
        if stage.inputs == "patches":
            count *= height * width
        feed.require_enough(stage, count, f"the {split.name} split of {label}")
    starts, name = pipeline.config.bank_starts, pipeline.config.detector.name
    require(
        starts == 1 or pipeline.scorer.starts,
        "bank_starts",
        starts,
        f"1 with config.detector.name={name}, whose fit begins nowhere",
    )
    pipeline.scorer.check(len(split), (height, width), programs.width(pipeline))


def textures_of(pipeline: Pipeline) -> data.Split | None:
    """The texture source, where a stage takes from it.

    Raises:
      InputError: there is none, or it has fewer pictures than a batch.
    """
    if not any(stage.textures for stage in pipeline.stages):
        return None
    textures = data.load_textures(pipeline.config.dataset)
    if textures is None:
        raise InputError(
            "there is no texture source: name a folder of pictures with "
            "config.dataset.textures, or have tensorflow-datasets prepare DTD "
            "(docs/tocoad.md says how)"
        )
    for stage in pipeline.stages:
        if stage.textures:
            data.require_enough_textures(textures, stage.batch_size)
    return textures


@contextlib.contextmanager
def timed(seconds: dict[str, float], phase: str):
    """Adds the block's wall-clock seconds to `seconds[phase]`."""
    start = time.perf_counter()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start
