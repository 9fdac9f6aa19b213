"""The programs of a run from its config, a number of images and devices alone.

Nothing is loaded and nothing computed: weights, images and what is learnt are shapes.
So a run can be compiled for devices that are not there, and what it takes be told
before it begins.
"""

import dataclasses

import jax
import numpy as np

from jaxad import models
from jaxad.detectors import base
from jaxad.devices import rows, sharding
from jaxad.devices.programs import Program
from jaxad.inference import folder
from jaxad.methods.base import Params, Stage, identity
from jaxad.run import descriptors
from jaxad.run.pipeline import Pipeline
from jaxad.training import feed, steps


def abstract(config, mesh: sharding.Mesh | None) -> Pipeline:
    """A pipeline whose variables are shapes.

    Args:
      config: one of `pipeline.members`.
      mesh: the devices that share the images; None for one.
    """
    backbone, method, scorer = folder.networks(config)
    variables = models.shapes(backbone.name)
    if method.product is None and not any(stage.tunes for stage in method.stages):
        variables = _folded(backbone, variables)
    variables = sharding.shapes_on(variables, mesh)
    return Pipeline(config, backbone, variables, "", method, scorer, mesh)


def of(pipeline: Pipeline, images: int, heads: int = 1) -> list[Program]:
    """All that a run compiles for a category, in the order in which it is called.

    Args:
      pipeline: of `abstract`.
      images: that it learns from.
      heads: of categories and seeds, where a stage trains several in one program.

    Raises:
      InputError: a stage that the backbone cannot have.
    """
    method, mesh, params = pipeline.method, pipeline.mesh, _start(pipeline)
    image, (h, w, c) = _image(pipeline), descriptors.grid(pipeline)
    found, described = [], False
    for stage in method.stages:
        if stage.inputs == "patches":
            items = jax.ShapeDtypeStruct((images * h * w, c), np.float32)
            found += [] if described else _describe(pipeline, params)[:1]
            described = True
        else:
            items = feed.Images(images, lambda step: iter(()), image)
            described = False
        runs = min(stage.together or heads, heads)
        found += steps.programs(stage, params, items, runs=runs, mesh=mesh)
        params = _learnt(pipeline, stage, params, c)
    if method.product is not None:
        return found + _probes(pipeline, params)
    if params["backbone"] is not pipeline.variables:
        folded = _folded(pipeline.backbone, params["backbone"])
        params = {**params, "backbone": sharding.shapes_on(folded, mesh)}
    found += _describe(pipeline, params)[1 if described else 0 :]
    if method.project is not identity:
        project = "features: map", method.project, params, (images * h * w, c)
        found.append(rows.map_program(*project, mesh))
    passes = {"calls": -(-images // pipeline.images_a_call)}
    # What fits nothing describes no image but those that it scores.
    passes["scores"] = pipeline.scorer.fit is None and not described
    found = [
        dataclasses.replace(one, **passes) if one.name == base.FEATURES[0] else one
        for one in found
    ]
    batch, width = pipeline.images_a_call, _width(pipeline, params, c)
    shapes = base.Shapes(images, batch, (h, w), width, mesh)
    banks = pipeline.config.bank_starts
    found += [
        dataclasses.replace(one, calls=one.calls * banks)
        for one in pipeline.scorer.programs(shapes)
    ]
    options = pipeline.config.detector.to_dict()
    return [*found, base.map_program(options, shapes, image[:2])]


def width(pipeline: Pipeline) -> int:
    """Of a patch's descriptor after the learnt map, before that is learnt."""
    params, c = _start(pipeline), descriptors.grid(pipeline)[2]
    if pipeline.method.project is not identity:
        for stage in pipeline.stages:
            params = _learnt(pipeline, stage, params, c)
    return _width(pipeline, params, c)


def _start(pipeline: Pipeline) -> Params:
    return {"backbone": pipeline.variables}


def _image(pipeline: Pipeline) -> tuple[int, int, int]:
    return (*pipeline.config.dataset.image_size, 3)


def _learnt(pipeline: Pipeline, stage: Stage, params: Params, c: int) -> Params:
    """What a stage hands on, as shapes."""
    item = (c,) if stage.inputs == "patches" else _image(pipeline)

    def run(params):
        state = stage.init(jax.random.key(0), params, item)
        return stage.finish(state, params)

    handed = jax.eval_shape(run, params)
    handed = sharding.shapes_on(handed, pipeline.mesh)
    return handed if stage.tunes else {**handed, "backbone": params["backbone"]}


def _width(pipeline: Pipeline, params: Params, c: int) -> int:
    row = jax.ShapeDtypeStruct((1, c), np.float32)
    return jax.eval_shape(pipeline.method.project, params, row).shape[-1]


def _describe(pipeline: Pipeline, params: Params) -> list[Program]:
    """Descriptors as the backbone gives them; and where a map is learnt behind it."""
    return base.programs(
        pipeline.method,
        pipeline.backbone,
        params,
        _image(pipeline),
        pipeline.images_a_call,
        pipeline.mesh,
    )


def _folded(backbone, variables):
    return jax.eval_shape(lambda x: models.fold(backbone.module, x), variables)


def _probes(pipeline: Pipeline, params: Params) -> list[Program]:
    product, batch = pipeline.method.product, pipeline.images_a_call
    number = jax.ShapeDtypeStruct((batch,), np.int32)
    image = jax.ShapeDtypeStruct((batch, *_image(pipeline)), np.float32)
    shown = {"image": image, "index": number, "label": number}
    shown = sharding.spread_shapes(shown, pipeline.mesh)
    key, variables = jax.eval_shape(lambda: jax.random.key(0)), params["backbone"]
    found = [
        Program("probes: embed", jax.jit(product.embed), (variables, shown["image"])),
        Program("probes: compare", jax.jit(product.compare), (variables, shown, key)),
    ]
    if product.test:
        found.append(Program("linear: test", jax.jit(product.test), (params, shown)))
    return found
