"""Patch descriptors of a split through a pipeline: computed, cached, projected."""

import pathlib

import jax
import numpy as np

from jaxad import models
from jaxad.detectors import base
from jaxad.devices.rows import Sharded, Stack
from jaxad.methods.base import Method, Params, identity
from jaxad.run import cache, features, keys
from jaxad.run.passes import Passes
from jaxad.run.pipeline import Pipeline


def describe(
    pipeline: Pipeline,
    params: Params,
    split,
    label: str,
    passes: Passes,
    name: str = "features",
) -> np.ndarray | Sharded:
    """Descriptors of all images of a split.

    They come from the cache where they may be, and are mapped from its file. Elsewhere
    they stay on the devices that compute them, or are brought to the host under a
    memory budget.

    Args:
      params: as the stages so far have left them.
      label: what the progress bar says first.
      passes: what is not finished is kept there, under `name`.

    Returns:
      Patches [n·h·w, c].
    """
    keep = passes.start(name, key_of(pipeline, params, split))

    def features_of(images):
        images = pipeline.place(images)
        return base.features(pipeline.method, pipeline.backbone, params, images)

    arguments = features_of, split, pipeline.images_a_call
    options = {"label": f"{label}: features", "keep": keep}
    if _may_be_cached(pipeline, params):
        found = cache.cached(
            _cache_folder(pipeline),
            _cache_key(pipeline, split),
            lambda empty: features.extract(*arguments, empty=empty, **options),
            passes.point,
        )
        keep.drop()
    elif pipeline.config.detector.max_device_bytes:
        found = features.extract(*arguments, **options)
    else:
        return features.extract_in_place(*arguments, mesh=pipeline.mesh, **options)
    return found.reshape(-1, found.shape[-1])


def patches(
    pipeline: Pipeline, params: Params, splits, passes: Passes, *, label: str
) -> list[Stack]:
    """Projected patches [n·h·w, d] of all images, for each of the splits."""
    return [
        project(
            pipeline.method,
            params,
            describe(pipeline, params, split, label, passes, f"features-{i}"),
        )
        for i, split in enumerate(splits)
    ]


def project(method: Method, params: Params, patches: np.ndarray | Sharded) -> Stack:
    """Patches [n, c] through the learnt map, where they are: [n, d]."""
    stack = Stack([patches])
    return stack if method.project is identity else stack.map(method.project, params)


def grid(pipeline: Pipeline) -> tuple[int, int, int]:
    """(h, w, c) of an image's descriptors, before a map is learnt."""
    if pipeline.method.grid is not None:
        return pipeline.method.grid()
    config = pipeline.config
    image = jax.ShapeDtypeStruct((1, *config.dataset.image_size, 3), np.float32)
    params = {"backbone": pipeline.variables}
    return jax.eval_shape(pipeline.method.features, params, image).shape[1:]


def key_of(pipeline: Pipeline, params: Params, *splits) -> str:
    """Names all that a pass depends on and the config of the run does not say."""
    learnt = dict(params)
    if learnt["backbone"] is pipeline.variables:
        del learnt["backbone"]
    return keys.digest(
        {
            "weights": pipeline.fingerprint,
            "learnt": models.fingerprint(learnt),
            "images": [split.version for split in splits],
            "versions": keys.versions(with_device=True),
        }
    )


def is_cached(pipeline: Pipeline, params: Params, split) -> bool:
    """Whether the cache has the descriptors of all images."""
    name = keys.digest(_cache_key(pipeline, split))
    return (
        _may_be_cached(pipeline, params) and (_cache_folder(pipeline) / name).exists()
    )


def _may_be_cached(pipeline: Pipeline, params: Params) -> bool:
    # A method that has a grid of its own reads more than the backbone.
    backbone_alone = pipeline.method.grid is None
    frozen = params["backbone"] is pipeline.variables and backbone_alone
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
        "precision": config.precision,
        "patches": config.patches.to_dict(),
        "images": split.version,
        # The size of a batch can change the last bit of a product.
        "batch_size": config.batch_size,
        "versions": keys.versions(with_device=True),
    }
