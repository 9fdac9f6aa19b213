"""A detector without a run: from good images to something that judges others."""

import os
import pathlib
import tempfile
from typing import Any

import ml_collections

from jaxad import config as config_lib
from jaxad import data, methods
from jaxad.devices import compilation
from jaxad.inference.folder import Loaded
from jaxad.inference.predictor import Predictor
from jaxad.run import calibrate
from jaxad.run import detector as detector_lib
from jaxad.run import fit as fit_lib
from jaxad.run import pipeline as pipeline_lib


def fit(images: Any, config: ml_collections.ConfigDict | None = None) -> Predictor:
    """Fits a detector on good images.

    Example:
      config = jaxad.config.base()
      config.coreset.ratio = 0.1
      detector = jaxad.fit("good parts", config)
      detector.save("detector")

    Args:
      images: a folder or a CSV as `config.dataset.path` takes it, of which the normal
        training images count; or whatever `jaxad.data.given` takes, all of it normal.
      config: the fields of a run, of which those that say where data come from have no
        effect; by default PatchCore on an EfficientNet-Lite0.

    Returns:
      The detector, in memory.

    Raises:
      InputError: an image or a field that cannot work.
    """
    config = config_lib.base() if config is None else config
    config_lib.require(
        methods.leaves(config) == "detector",
        "method.name",
        config.method.name,
        "one that leaves a detector; python -m jaxad.main runs this one",
    )
    config_lib.require(
        methods.learns_from(config) == "normal",
        "method.name",
        config.method.name,
        "one that learns from good images alone; python -m jaxad.main runs this one",
    )
    config_lib.require(
        config.bank_starts == 1,
        "bank_starts",
        config.bank_starts,
        "1 for a detector without a run, which has no test images to average over",
    )
    pipeline_lib.tell_idle(config)
    compilation.use_cache(config.compilation_cache)
    members = pipeline_lib.members(config)
    split = data.good(members[0].dataset, images)
    pipelines = [pipeline_lib.load(member) for member in members]
    train, held_out = calibrate.divide(pipelines, split)
    label = _label(images)
    for pipeline in pipelines:
        fit_lib.check(pipeline, train, label=label)
    with tempfile.TemporaryDirectory() as folder:

        def work(pipeline):
            return pathlib.Path(folder) / pipeline.backbone.name

        detectors, decision, _ = calibrate.decided(
            pipelines,
            (fit_lib.fit(p, train, work(p), label=label) for p in pipelines),
            train if held_out is None else held_out,
            work,
            {},
            label=label,
        )
    card = detector_lib.card(pipelines, detectors, label, train, decision)
    return Predictor(Loaded(detectors, tuple(members), card))


def _label(images: Any) -> str:
    """What progress bars and the detector's folder call the images."""
    if isinstance(images, str | os.PathLike):
        return pathlib.Path(images).stem
    return "images"
