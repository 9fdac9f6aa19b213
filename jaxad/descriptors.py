"""Patch descriptors of a split through a pipeline: computed, cached, projected."""

import pathlib

import jax
import numpy as np

from jaxad import features, models, results
from jaxad.detectors import knn
from jaxad.methods.base import Method, Params, identity
from jaxad.passes import Passes
from jaxad.pipeline import Pipeline


def describe(
    pipeline: Pipeline,
    params: Params,
    split,
    label: str,
    passes: Passes,
    name: str = "features",
) -> np.ndarray:
    """Descriptors of all images of a split, from the cache where they may be.

    Args:
      params: as the stages so far have left them.
      label: what the progress bar says first.
      passes: what is not finished is kept there, under `name`.

    Returns:
      [n, h, w, c], before the method's learnt map.
    """
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
    cached = features.cached(
        folder, key, lambda empty: compute(empty=empty), passes.point
    )
    keep.drop()
    return cached


def patches(
    pipeline: Pipeline, params: Params, splits, passes: Passes, *, label: str
) -> np.ndarray:
    """Projected patches [n·h·w, d] of all images of the splits, in their order."""
    parts = [
        project(
            pipeline.method,
            params,
            describe(pipeline, params, split, label, passes, f"features-{i}"),
            pipeline.config.batch_size,
        )
        for i, split in enumerate(splits)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


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
