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

    What is left to the backbone (taps, image size) is filled in. The given config is
    left as it is. Needs no weights.

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


def train_together(tasks: Sequence[Task]) -> list[dict[str, float]]:
    """Trains the first stage of several detectors in one program, where it may be.

    It is left finished in every folder, where `fit` goes on from it. So many detectors
    as `Stage.together` says are trained at once; one that would be alone is left to
    `fit`.

    Args:
      tasks: of pipelines that differ in their seed alone.

    Returns:
      For each, its share of the seconds spent in each phase.

    Raises:
      InputError: as `fit`.
    """
    seconds = [{} for _ in tasks]
    stage = next(iter(tasks[0].pipeline.method.stages), None) if tasks else None
    if stage is None or stage.inputs != "patches" or stage.together == 1:
        return seconds
    size = stage.together or len(tasks)
    for first in range(0, len(tasks), size):
        chunk, spent = tasks[first : first + size], {}
        if len(chunk) == 1:
            continue
        described, runs = {}, []
        for task in chunk:
            pipeline, split = task.pipeline, task.split
            params: Params = {"backbone": pipeline.variables}
            _check_neighbours(pipeline, params, len(split))
            images = pipeline.fingerprint, split.version
            if images not in described:
                with timed(spent, "features"), _passes(pipeline, task.folder) as passes:
                    keep = passes.start("features", key_of(pipeline, params, split))
                    described[images] = _descriptors(
                        pipeline, params, split, task.label, keep
                    )
            folder = _stage_folder(pipeline, stage, split, task.folder)
            seed = pipeline.config.seed
            runs.append(train.Run(params, described[images], seed, folder))
        _LOG.info("%s: %d heads together", stage.name, len(chunk))
        with timed(spent, stage.name):
            train.train_together(
                stage,
                runs,
                options=_options(chunk[0].pipeline),
                mesh=chunk[0].pipeline.mesh,
            )
        for i in range(first, first + len(chunk)):
            seconds[i] = {phase: each / len(chunk) for phase, each in spent.items()}
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
    with _passes(pipeline, folder) as passes:
        return _fit(pipeline, split, folder, passes, label)


def _fit(pipeline: Pipeline, split, folder: pathlib.Path, passes: Passes, label: str):
    config, method, backbone = pipeline.config, pipeline.method, pipeline.backbone
    params: Params = {"backbone": pipeline.variables}
    _check_neighbours(pipeline, params, len(split))
    seconds = {"features": 0.0}
    descriptors = None  # of the backbone as it is now; computed when first needed

    def describe():
        with timed(seconds, "features"):
            keep = passes.start("features", key_of(pipeline, params, split))
            return _descriptors(pipeline, params, split, label, keep)

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
                **(processes.share() if shared else {}),
            )
            items = train.Images(len(split), batches)
        with timed(seconds, stage.name):
            params = train.train(
                stage,
                params,
                items,
                seed=config.seed,
                workdir=_stage_folder(pipeline, stage, split, folder),
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
    patches = _project(method, params, descriptors, config.batch_size)
    key = key_of(pipeline, params, split)
    with timed(seconds, "coreset"):
        keep = passes.start("coreset", key)
        bank = patches[_coreset(pipeline, patches, label, keep)]
    bank = _bank(pipeline, bank)
    detector = knn.fit(config, method, backbone, params, bank)
    if config.ensemble.members:
        with timed(seconds, "spread"):
            detector = detector.replace(
                spread=_spread(
                    pipeline, detector, split, label, passes.start("spread", key)
                )
            )
    return detector, seconds


def _passes(pipeline: Pipeline, folder: pathlib.Path) -> Passes:
    return Passes(folder / "unfinished", every=pipeline.config.save_seconds)


def _options(pipeline: Pipeline) -> train.Options:
    fields = pipeline.config.train
    return train.Options(fields.log_every, fields.save_every, fields.keep)


def _spread(
    pipeline: Pipeline, detector: knn.KNN, split, label: str, keep: Pass
) -> scores.Spread:
    """Of the scores that the training images' own patches get."""
    normal = features.extract(
        lambda images: knn.patch_distances(detector, pipeline.place(images))[..., None],
        split,
        pipeline.images_a_call,
        label=f"{label}: spread",
        keep=keep,
    )
    mean_deviation = pipeline.config.ensemble.mean_deviation
    return scores.spread(normal, mean_deviation=mean_deviation)


def _check_neighbours(pipeline: Pipeline, params: Params, images: int) -> None:
    """Looks before training whether the bank will have enough entries."""
    config = pipeline.config
    image = jax.ShapeDtypeStruct((1, *config.dataset.image_size, 3), np.float32)
    grid = jax.eval_shape(pipeline.method.features, params, image).shape[1:3]
    size = knn.coreset_size(config.coreset.ratio, images * grid[0] * grid[1])
    knn.check_neighbours(config.detector, size)


def _stage_folder(pipeline: Pipeline, stage, split, folder: pathlib.Path):
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
    pipeline: Pipeline, patches: np.ndarray, label: str, keep: Pass
) -> np.ndarray:
    config = pipeline.config
    size = knn.coreset_size(config.coreset.ratio, len(patches))
    before = [found["chosen"] for _, _, found in keep.resume()]

    def save(chosen):
        keep.reached(
            len(chosen), lambda first, stop: {"chosen": chosen[first:stop].copy()}
        )

    with processes.progress(total=size, desc=f"{label}: coreset", unit="pick") as bar:
        chosen = memory_bank.greedy_coreset(
            patches,
            size,
            start=np.concatenate(before) if before else 0,
            projection_dim=config.coreset.projection_dim or None,
            key=rng.stream(config.seed, "coreset"),
            progress=lambda done, total: bar.update(done - bar.n),
            each_round=save,
            mesh=pipeline.mesh,
            max_device_bytes=config.detector.max_device_bytes or None,
        )
        return np.asarray(chosen)


def key_of(pipeline: Pipeline, params: Params, split) -> str:
    """Names all that a pass depends on and the config of the run does not say."""
    learnt = dict(params)
    if learnt["backbone"] is pipeline.variables:
        del learnt["backbone"]
    return features.digest(
        {
            "weights": pipeline.fingerprint,
            "learnt": models.fingerprint(learnt),
            "images": split.version,
            "versions": _versions(),
        }
    )


def _versions() -> dict[str, str]:
    """Without the number of devices, on which no bit of a descriptor depends."""
    return results.versions() | {"device": jax.devices()[0].device_kind}


def _descriptors(
    pipeline: Pipeline, params: Params, split, label: str, keep: Pass
) -> np.ndarray:
    """Descriptors of all images [n, h, w, c], from the cache where they may be."""
    config, backbone = pipeline.config, pipeline.backbone

    def compute(**options):
        return features.extract(
            lambda images: knn.features(
                pipeline.method, backbone, params, pipeline.place(images)
            ),
            split,
            pipeline.images_a_call,
            label=f"{label}: features",
            keep=keep,
            **options,
        )

    if not config.feature_cache or params["backbone"] is not pipeline.variables:
        return compute()
    key = {
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
    folder = pathlib.Path(config.feature_cache).expanduser()
    cached = features.cached(folder, key, lambda empty: compute(empty=empty))
    keep.drop()
    return cached


def _project(method: Method, params: Params, descriptors, batch_size) -> np.ndarray:
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
    return detector
