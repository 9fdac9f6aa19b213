"""From a pipeline and normal images to a fitted detector; to disk and back."""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Sequence

import jax
import numpy as np

from jaxad import arrays, data, models, rng, scores
from jaxad.bank import memory_bank
from jaxad.detectors import knn
from jaxad.devices import processes, sharding
from jaxad.devices.rows import Stack
from jaxad.errors import InputError
from jaxad.methods.base import Params
from jaxad.run import features, stages
from jaxad.run.descriptors import describe, key_of, project
from jaxad.run.passes import Pass, Passes
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
    stage, described, runs = tasks[0].pipeline.method.stages[0], {}, []
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


def fit(
    pipeline: Pipeline, split, folder: pathlib.Path, *, label: str
) -> tuple[knn.KNN, dict[str, float]]:
    """Trains the method's stages on a split and fits the memory bank.

    Args:
      pipeline: of `jaxad.run.pipeline.load`.
      split: the normal images, of `data.load`.
      folder: where the stages keep their checkpoints, and `unfinished` what can be
        removed once the detector is saved.
      label: what the progress bars say first.

    Returns:
      (the fitted detector, seconds spent in each phase).

    Raises:
      InputError: too few images or patches, or features that are not finite.
      Preempted: SIGTERM came.
    """
    with unfinished(pipeline, folder) as passes:
        return _fit(pipeline, split, folder, passes, label)


def _fit(pipeline: Pipeline, split, folder: pathlib.Path, passes: Passes, label: str):
    config, method, backbone = pipeline.config, pipeline.method, pipeline.backbone
    params: Params = {"backbone": pipeline.variables}
    textures = textures_of(pipeline)
    seconds = {"features": 0.0}
    descriptors = None  # of the backbone as it is now; computed when first needed

    def describe_now():
        with timed(seconds, "features"):
            return describe(pipeline, params, split, label, passes)

    for stage in method.stages:
        if stage.inputs == "patches" and descriptors is None:
            descriptors = describe_now()
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
            items = feed.Images(len(split), batches)
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
            )
        if stage.inputs == "images":
            descriptors = None
    if params["backbone"] is not pipeline.variables:
        params = {
            **params,
            "backbone": models.fold(backbone.module, params["backbone"]),
        }
    if descriptors is None:
        descriptors = describe_now()
    rows = project(method, params, descriptors)
    size = knn.coreset_size(config.coreset.ratio, len(rows))
    detector = build(
        pipeline, params, rows, size, [split], seconds, passes, label=label
    )
    return detector, seconds


def build(
    pipeline: Pipeline,
    params: Params,
    rows: Stack,
    size: int,
    splits,
    seconds: dict[str, float],
    passes: Passes,
    *,
    label: str,
    kept: int = 0,
) -> knn.KNN:
    """The detector on a coreset of patches.

    Args:
      params: as the stages left them.
      rows: projected patches [n, d] to choose from.
      size: patches that the bank keeps.
      splits: all that the detector learns from, for an ensemble's spread.
      seconds: what the phases take is added here.
      passes: what is not finished is kept there.
      label: what the progress bars say first.
      kept: so many of the first rows are in the bank from the start.
    """
    config = pipeline.config
    with timed(seconds, "coreset"):
        start = models.fingerprint({"kept": rows.take(range(kept))}) if kept else ""
        keep = passes.start("coreset", key_of(pipeline, params, *splits) + start)
        chosen, radius = _coreset(pipeline, rows, size, label, kept, keep)
        bank = _bank(pipeline, rows.take(chosen))
    detector = knn.fit(config, pipeline.method, pipeline.backbone, params, bank)
    detector = detector.replace(coverage={"radius": radius})
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
    pipeline: Pipeline, detector: knn.KNN, splits, label: str, passes: Passes
) -> scores.Spread:
    """Of the scores that the training images' own patches get."""
    bank = models.fingerprint({"bank": detector.bank})
    normal = [
        features.extract(
            lambda x: knn.patch_distances(detector, pipeline.place(x))[..., None],
            split,
            pipeline.images_a_call,
            label=f"{label}: spread",
            keep=passes.start(
                f"spread-{i}", key_of(pipeline, detector.params, split) + bank
            ),
        )
        for i, split in enumerate(splits)
    ]
    mean_deviation = pipeline.config.ensemble.mean_deviation
    return scores.spread(np.concatenate(normal), mean_deviation=mean_deviation)


def recall(
    pipeline: Pipeline, detector: knn.KNN, split, *, label: str
) -> dict[str, float | int]:
    """How often an approximate search finds a patch's nearest entry.

    Returns:
      `recall`, the share of the `patches` of `images` images, which are at most 32 and
      spread evenly over the split.
    """
    rows = np.linspace(0, len(split) - 1, min(_RECALL_IMAGES, len(split)))
    found = features.extract(
        lambda x: knn.finds_nearest(detector, pipeline.place(x))[..., None],
        split.take(rows.astype(int)),
        pipeline.images_a_call,
        label=f"{label}: recall",
    )
    share = float(found.mean(dtype=np.float64))
    return {"recall": share, "patches": found.size, "images": len(found)}


def check(pipeline: Pipeline, split, *, label: str) -> None:
    """Looks before anything is trained whether a split has enough images.

    Raises:
      InputError: for a stage's batch, or for the neighbours in the memory bank.
    """
    config = pipeline.config
    image = jax.ShapeDtypeStruct((1, *config.dataset.image_size, 3), np.float32)
    params = {"backbone": pipeline.variables}
    grid = jax.eval_shape(pipeline.method.features, params, image).shape[1:3]
    rows = len(split) * grid[0] * grid[1]
    for stage in pipeline.method.stages:
        count = len(split) if stage.inputs == "images" else rows
        feed.require_enough(stage, count, f"the {split.name} split of {label}")
    size = knn.coreset_size(config.coreset.ratio, rows)
    knn.check_neighbours(config.detector, size)


def textures_of(pipeline: Pipeline) -> data.Split | None:
    """The texture source, where a stage takes from it.

    Raises:
      InputError: there is none, or it has fewer pictures than a batch.
    """
    if not any(stage.textures for stage in pipeline.method.stages):
        return None
    textures = data.load_textures(pipeline.config.dataset)
    if textures is None:
        raise InputError(
            "there is no texture source: name a folder of pictures with "
            "config.dataset.textures, or have tensorflow-datasets prepare DTD "
            "(docs/tocoad.md says how)"
        )
    for stage in pipeline.method.stages:
        if stage.textures:
            data.require_enough_textures(textures, stage.batch_size)
    return textures


@contextlib.contextmanager
def timed(seconds: dict[str, float], phase: str):
    """Adds the block's wall-clock seconds to `seconds[phase]`."""
    start = time.perf_counter()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start


def _bank(pipeline: Pipeline, rows: np.ndarray):
    """The memory bank where it is searched: on every device, unless it is too large."""
    if pipeline.config.detector.max_device_bytes:
        return np.asarray(rows)
    if pipeline.mesh:
        return sharding.replicate(rows, pipeline.mesh)
    return jax.numpy.asarray(rows)


def _coreset(
    pipeline: Pipeline, rows: Stack, size: int, label: str, kept: int, keep: Pass
) -> tuple[np.ndarray, float]:
    """The chosen rows, and the covering radius."""
    config = pipeline.config
    before = [found["chosen"] for _, _, found in keep.resume()]
    start = range(kept) if kept else 0

    def save(chosen):
        keep.reached(
            len(chosen), lambda first, stop: {"chosen": chosen[first:stop].copy()}
        )

    with processes.progress(total=size, desc=f"{label}: coreset", unit="pick") as bar:
        chosen, radius = memory_bank.covered_coreset(
            rows,
            size,
            start=np.concatenate(before) if before else start,
            projection_dim=config.coreset.projection_dim or None,
            key=rng.stream(config.seed, "coreset"),
            progress=lambda done, _: bar.update(min(done, size) - bar.n),
            each_round=save,
            mesh=pipeline.mesh,
            max_device_bytes=config.detector.max_device_bytes or None,
        )
        # Once every row is covered there is nothing left to choose but the first one.
        repeated = (chosen == 0) & (np.arange(size) >= max(kept, 1))
        return chosen[~repeated], radius


# ---- On disk


def save(pipeline: Pipeline, detector: knn.KNN, folder: pathlib.Path) -> None:
    """Writes the detector's arrays.

    A backbone that no stage has changed is kept by its fingerprint alone, not copied
    into every category.
    """
    if not processes.first():
        return
    learnt = dict(detector.params)
    frozen = learnt["backbone"] is pipeline.variables
    if frozen:
        del learnt["backbone"]
    tree = {
        "memory_bank": detector.bank,
        "params": learnt,
        "backbone_sha256": np.frombuffer(bytes.fromhex(pipeline.fingerprint), np.uint8),
    }
    if detector.spread is not None:
        tree["spread"] = dataclasses.asdict(detector.spread)
    if detector.coverage:
        tree["coverage"] = dict(detector.coverage)
    arrays.save(folder, tree)


def restore(pipeline: Pipeline, folder: pathlib.Path) -> knn.KNN:
    """The detector that `save` wrote.

    Raises:
      InputError: it is missing or damaged, or belongs to other backbone weights.
    """
    tree = arrays.restore(folder)
    if bytes(tree["backbone_sha256"]).hex() != pipeline.fingerprint:
        raise InputError(
            f"{folder} was fitted with other weights of {pipeline.backbone.name} than "
            "config.backbone.weights gives now; restore those weights, or fit again in "
            "another --workdir"
        )
    learnt = tree.get("params", {})
    if pipeline.mesh:
        learnt = jax.tree.map(lambda x: sharding.replicate(x, pipeline.mesh), learnt)
    params = {"backbone": pipeline.variables, **learnt}
    bank = _bank(pipeline, tree["memory_bank"])
    detector = knn.fit(
        pipeline.config, pipeline.method, pipeline.backbone, params, bank
    )
    if "spread" in tree:
        detector = detector.replace(spread=scores.Spread(**tree["spread"]))
    coverage = {name: float(r) for name, r in tree.get("coverage", {}).items()}
    return detector.replace(coverage=coverage)
