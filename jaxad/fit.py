"""From a config and normal images to a fitted detector; to disk and back."""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Sequence

import jax
import numpy as np

from jaxad import (
    checkpoint,
    data,
    features,
    memory_bank,
    methods,
    models,
    processes,
    results,
    rng,
    scores,
    sharding,
    train,
)
from jaxad import config as config_lib
from jaxad.detectors import knn
from jaxad.errors import InputError
from jaxad.methods.base import Backbone, Method, Params, identity
from jaxad.passes import Pass, Passes

_LOG = logging.getLogger(__name__)

_RECALL_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """What all categories of a run share.

    Attributes:
      config: completed; nothing is left to a default of the backbone.
      backbone, variables: the pretrained network, folded unless a stage trains it.
      fingerprint: sha256 of the variables as loaded.
      method: how the representation is learnt.
      mesh: the devices that share the images; None where there is but one.
    """

    config: object
    backbone: Backbone
    variables: dict
    fingerprint: str
    method: Method
    mesh: sharding.Mesh | None

    @property
    def images_a_call(self) -> int:
        """`config.batch_size` images for every device."""
        return self.config.batch_size * (self.mesh.size if self.mesh else 1)

    def place(self, images: np.ndarray):
        """Spreads over the devices a batch, of which each process gives its share."""
        return sharding.spread(images, self.mesh) if self.mesh else images


def members(config) -> list:
    """A completed config for every backbone of the run: one, or an ensemble's.

    What is left to the backbone (taps, image size) and to the data (a texture source)
    is filled in. The given config is left as it is. Needs no weights.

    Raises:
      InputError: an unknown backbone, one that is named twice, or a field that cannot
        work with it.
    """
    names = tuple(config.ensemble.members)
    if len(set(names)) < len(names):
        raise InputError(
            f"config.ensemble.members={names} names a backbone twice; each member must "
            "be another one"
        )
    completed = []
    for name in names or (config.backbone.name,):
        member = config.copy_and_resolve_references()
        spec = models.spec(name)
        with member.unlocked():
            member.backbone.name = name
            taps = () if names else tuple(member.backbone.taps)
            member.backbone.taps = taps or tuple(spec.taps)
            # All members see images of one size, the first one's.
            if completed:
                member.dataset.image_size = completed[0].dataset.image_size
            elif not any(member.dataset.image_size):
                member.dataset.image_size = tuple(spec.image_size)
            textures = functools.partial(data.load_textures, member.dataset)
            methods.complete(member, textures=textures)
        config_lib.validate(member)
        completed.append(member)
    return completed


def load_pipeline(config) -> Pipeline:
    """Loads the backbone and builds the method.

    Args:
      config: one of `members`.

    Raises:
      InputError: an unknown tap or method, or weights that cannot be had.
    """
    name, taps = config.backbone.name, tuple(config.backbone.taps)
    spec = models.spec(name)
    with processes.one_after_first():  # which downloads them
        module, variables = models.load(
            name,
            config.backbone.weights,
            seed=config.seed,
            dtype=jax.numpy.dtype(config.backbone.dtype),
        )
    extract, folded = models.frozen(module, variables, taps)
    image = jax.ShapeDtypeStruct((1, *config.dataset.image_size, 3), np.float32)
    jax.eval_shape(extract, folded, image)  # names a tap that does not exist

    def levels(variables, images):
        return list(extract(variables, images).values())

    backbone = Backbone(name, module, taps, tuple(spec.mean), tuple(spec.std), levels)
    fingerprint = models.fingerprint(variables)
    processes.require_same({f"the weights of {name}": fingerprint})
    method = methods.build(config, backbone)
    if not any(stage.inputs == "images" for stage in method.stages):
        variables = folded
    mesh = sharding.make_mesh() if jax.device_count() > 1 else None
    if mesh:
        variables = jax.tree.map(lambda x: sharding.replicate(x, mesh), variables)
    return Pipeline(config, backbone, variables, fingerprint, method, mesh)


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
    for task in tasks:
        pipeline, split = task.pipeline, task.split
        params: Params = {"backbone": pipeline.variables}
        _check_neighbours(pipeline, params, len(split))
        images = pipeline.fingerprint, split.version
        if images not in described:
            with (
                timed(seconds, "features"),
                unfinished(pipeline, task.folder) as passes,
            ):
                described[images] = _descriptors(
                    pipeline, params, split, task.label, passes
                )
        folder = _stage_folder(pipeline, stage, split, task.folder)
        seed = pipeline.config.seed
        runs.append(train.Run(params, described[images], seed, folder))
    _LOG.info("%s: %d heads together", stage.name, len(runs))
    with timed(seconds, stage.name):
        pipeline = tasks[0].pipeline
        train.train_together(
            stage, runs, options=_options(pipeline), mesh=pipeline.mesh
        )
    return seconds


def fit(
    pipeline: Pipeline, split, folder: pathlib.Path, *, label: str
) -> tuple[knn.KNN, dict[str, float]]:
    """Trains the method's stages on a split and fits the memory bank.

    Args:
      pipeline: of `load_pipeline`.
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
    _check_neighbours(pipeline, params, len(split))
    textures = _textures(pipeline)
    seconds = {"features": 0.0}
    descriptors = None  # of the backbone as it is now; computed when first needed

    def describe():
        with timed(seconds, "features"):
            return _descriptors(pipeline, params, split, label, passes)

    for stage in method.stages:
        if stage.inputs == "patches" and descriptors is None:
            descriptors = describe()
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
            items = train.Images(len(split), batches)
        with timed(seconds, stage.name):
            params = train.train(
                stage,
                params,
                items,
                seed=config.seed,
                workdir=_stage_folder(pipeline, stage, split, folder, textures),
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
        descriptors = describe()
    rows = project(method, params, descriptors, config.batch_size)
    size = knn.coreset_size(config.coreset.ratio, len(rows))
    detector = build(
        pipeline, params, rows, size, [split], seconds, passes, label=label
    )
    return detector, seconds


def build(
    pipeline: Pipeline,
    params: Params,
    rows: np.ndarray,
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
        start = models.fingerprint({"kept": rows[:kept]}) if kept else ""
        keep = passes.start("coreset", key_of(pipeline, params, *splits) + start)
        chosen, radius = _coreset(pipeline, rows, size, label, kept, keep)
        bank = _bank(pipeline, rows[chosen])
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


def _options(pipeline: Pipeline) -> train.Options:
    fields = pipeline.config.train
    return train.Options(fields.log_every, fields.save_every, fields.keep)


def patches(
    pipeline: Pipeline, params: Params, splits, passes: Passes, *, label: str
) -> np.ndarray:
    """Projected patches [n·h·w, d] of all images of the splits, in their order."""
    parts = [
        project(
            pipeline.method,
            params,
            _descriptors(pipeline, params, split, label, passes, f"features-{i}"),
            pipeline.config.batch_size,
        )
        for i, split in enumerate(splits)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


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


def _check_neighbours(pipeline: Pipeline, params: Params, images: int) -> None:
    """Looks before training whether the bank will have enough entries."""
    config = pipeline.config
    image = jax.ShapeDtypeStruct((1, *config.dataset.image_size, 3), np.float32)
    grid = jax.eval_shape(pipeline.method.features, params, image).shape[1:3]
    size = knn.coreset_size(config.coreset.ratio, images * grid[0] * grid[1])
    knn.check_neighbours(config.detector, size)


def _textures(pipeline: Pipeline) -> data.Split | None:
    """The texture source, where a stage takes from it."""
    if not any(stage.textures for stage in pipeline.method.stages):
        return None
    textures = data.load_textures(pipeline.config.dataset)
    if textures is None:
        raise InputError(
            "there is no texture source: name a folder of pictures with "
            "config.dataset.textures, or have tensorflow-datasets prepare DTD "
            "(docs/tocoad.md says how)"
        )
    return textures


def _stage_folder(
    pipeline: Pipeline, stage, split, folder: pathlib.Path, textures=None
):
    """In the run, or among the stages that runs have in common."""
    config = pipeline.config
    first = stage is pipeline.method.stages[0]
    if not (config.train.stage_cache and first and stage.fields):
        return folder / stage.name
    key = {
        "stage": stage.name,
        "method": config.method.name,
        "fields": {name: _plain(config.method[name]) for name in stage.fields},
        "seed": config.seed,
        "backbone": pipeline.fingerprint,
        "dtype": config.backbone.dtype,
        "images": split.version,
        "textures": textures.version if textures and stage.textures else None,
        "batch_size": stage.batch_size,
        "versions": results.versions(),
    }
    cache = pathlib.Path(config.train.stage_cache).expanduser()
    return cache / f"{stage.name}-{features.digest(key)}"


def _plain(field):
    return field.to_dict() if hasattr(field, "to_dict") else field


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
    pipeline: Pipeline, rows: np.ndarray, size: int, label: str, kept: int, keep: Pass
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


def key_of(pipeline: Pipeline, params: Params, *splits) -> str:
    """Names all that a pass depends on and the config of the run does not say."""
    learnt = dict(params)
    if learnt["backbone"] is pipeline.variables:
        del learnt["backbone"]
    return features.digest(
        {
            "weights": pipeline.fingerprint,
            "learnt": models.fingerprint(learnt),
            "images": [split.version for split in splits],
            "versions": _versions(),
        }
    )


def _versions() -> dict[str, str]:
    """Without the number of devices, on which no bit of a descriptor depends."""
    return results.versions() | {"device": jax.devices()[0].device_kind}


def _descriptors(
    pipeline: Pipeline,
    params: Params,
    split,
    label: str,
    passes: Passes,
    name: str = "features",
) -> np.ndarray:
    """Descriptors of all images [n, h, w, c], from the cache where they may be."""
    keep = passes.start(name, key_of(pipeline, params, split))

    def compute(**options):
        return features.extract(
            lambda images: knn.features(
                pipeline.method, pipeline.backbone, params, pipeline.place(images)
            ),
            split,
            pipeline.images_a_call,
            label=f"{label}: features",
            keep=keep,
            **options,
        )

    if not _may_be_cached(pipeline, params):
        return compute()
    key, folder = _cache_key(pipeline, split), _cache_folder(pipeline)
    cached = features.cached(folder, key, lambda empty: compute(empty=empty))
    keep.drop()
    return cached


def is_cached(pipeline: Pipeline, params: Params, split) -> bool:
    """Whether the cache has the descriptors of all images."""
    name = features.digest(_cache_key(pipeline, split))
    return (
        _may_be_cached(pipeline, params) and (_cache_folder(pipeline) / name).exists()
    )


def _may_be_cached(pipeline: Pipeline, params: Params) -> bool:
    frozen = params["backbone"] is pipeline.variables
    return bool(pipeline.config.feature_cache) and frozen


def _cache_folder(pipeline: Pipeline) -> pathlib.Path:
    return pathlib.Path(pipeline.config.feature_cache).expanduser()


def _cache_key(pipeline: Pipeline, split) -> dict:
    config, backbone = pipeline.config, pipeline.backbone
    return {
        "backbone": backbone.name,
        "weights": pipeline.fingerprint,
        "taps": list(backbone.taps),
        "dtype": config.backbone.dtype,
        "patches": config.patches.to_dict(),
        "images": split.version,
        # The size of a batch can change the last bit of a product.
        "batch_size": config.batch_size,
        "versions": _versions(),
    }


def project(method: Method, params: Params, descriptors, batch_size) -> np.ndarray:
    """Descriptors through the learnt map, as rows [n·h·w, d]."""
    if method.project is not identity:
        project = jax.jit(method.project)
        descriptors = np.concatenate(
            [
                np.asarray(project(params, descriptors[start : start + batch_size]))
                for start in range(0, len(descriptors), batch_size)
            ]
        )
    return descriptors.reshape(-1, descriptors.shape[-1])


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
    checkpoint.save_tree(folder, tree)


def restore(pipeline: Pipeline, folder: pathlib.Path) -> knn.KNN:
    """The detector that `save` wrote.

    Raises:
      InputError: it is missing or damaged, or belongs to other backbone weights.
    """
    tree = checkpoint.restore_tree(folder)
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
