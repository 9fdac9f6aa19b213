"""Adds normal images to the detector of a run, and leaves that run as it is.

`jaxad.extend`, the command, says what its modes are.
"""

import dataclasses
import functools
import hashlib
import logging
import pathlib
import time

import ml_collections

from jaxad import data, detectors, models
from jaxad.detectors import base
from jaxad.detectors.base import Detector, Extension
from jaxad.devices.rows import Stack
from jaxad.errors import InputError, did_you_mean
from jaxad.inference import folder as detector_folder
from jaxad.run import descriptors, doctor, experiment, fit, identity, results
from jaxad.run import detector as detector_lib
from jaxad.run.passes import Passes
from jaxad.run.pipeline import Pipeline

_LOG = logging.getLogger(__name__)

MODES = ("exact", "fast")
_RADII = {"radius", "radius_bound"}  # a bank has one of them


def run(
    base: str,
    images: str,
    workdir: str,
    *,
    mode: str = "exact",
    category: str | None = None,
) -> dict:
    """Extends a category's detector, and evaluates it as `experiment.run` does.

    The new run is one like any other, which can be restored and extended in turn.

    Args:
      base: folder of a run in which the category is finished.
      images: normal images, whatever `config.dataset.path` takes: a folder, or a CSV of
        which the training rows count. Their size is free, as in training.
      workdir: folder of the new run; made if need be.
      mode: one of `MODES`.
      category: may be left out where the run has but one.

    Returns:
      What `results.json` of the new run holds. `extensions` says, oldest first, what
      was added in which mode: `images` and their `count`, the `sha256` of their files'
      bytes in order, and the `duplicates` of training images among them (None where
      `config.dataset.check` is off). `coverage` of the category has the radii.

    Raises:
      InputError: the base is missing, unfinished or damaged; there are no images, one
        is unreadable, or is among the test images; the old images are needed and have
        changed; `workdir` holds another run.
    """
    if mode not in MODES:
        raise InputError(
            f"mode={mode!r} is not known{did_you_mean(mode, MODES)}; choose one of "
            f"{', '.join(MODES)}"
        )
    base_folder = pathlib.Path(base)
    config = identity.stored(base_folder)
    if detectors.build(config).fit is None:
        raise InputError(
            f"config.method.name={config.method.name} cannot be extended: its network "
            "would have to be trained again; add the images to those that train, and "
            "run it anew"
        )
    if mode == "fast" and detectors.build(config).extend is None:
        raise InputError(
            f"config.detector.name={config.detector.name} cannot keep what it has "
            "learnt and add to it; use --mode exact"
        )
    category = _category(config.dataset, category)
    before = results.read_json(base_folder / category / "result.json")
    if before is None:
        raise InputError(
            f"{base_folder} has no finished category {category}; run the command that "
            "made it again, to its end"
        )
    detector_folder.load(base_folder / category)  # damage is told before all else
    added = _load(config.dataset, images, category)
    duplicates = None
    if config.dataset.check:
        duplicates = doctor.require_sound_addition(config.dataset, category, added)
    earlier = list(config.get("extensions", ()))
    config.dataset.category = category
    if config.bank_starts > 1:
        _LOG.info("of %d memory banks the first is extended", config.bank_starts)
        config.bank_starts = 1
    config.extensions = [
        *earlier,
        {
            "base": str(base_folder.resolve()),
            "mode": mode,
            "images": str(pathlib.Path(images).expanduser().resolve()),
            "count": len(added),
            "sha256": _sha256(added),
            "duplicates": duplicates,
        },
    ]

    count = before["train_normal"] + sum(record["count"] for record in earlier)

    @functools.cache
    def old_images(train):
        if train.version != before["train_version"]:
            raise InputError(f"the training images of {base} have changed since")
        return [train, *(_again(config.dataset, r, category) for r in earlier)]

    class Maker(detector_lib.Maker):
        # An ensemble's spread is of all images.
        reads = mode == "exact" or bool(config.ensemble.members)

        def images(self, train):
            if mode == "fast":
                return added, count
            return data.joined([*old_images(train), added]), 0

        def make(self, pipeline, train, folder, *, label):
            place = detector_lib.member_folder(pipeline, base_folder / category)
            detector, old = detector_lib.restored(pipeline, place), None
            try:
                old = old_images(train)
            except InputError as error:
                if mode == "exact" or config.ensemble.members:
                    raise
                _LOG.info("%s: %s", label, error)
            with fit.unfinished(pipeline, folder) as passes:
                return extend(
                    pipeline,
                    detector,
                    added,
                    count,
                    old,
                    passes,
                    mode=mode,
                    label=label,
                )

    return experiment.run(config, workdir, maker=Maker())


def extend(
    pipeline: Pipeline,
    detector: Detector,
    added: data.Split,
    count: int,
    old: list[data.Split] | None,
    passes: Passes,
    *,
    mode: str,
    label: str,
) -> fit.Fitted:
    """A detector that knows more images.

    Args:
      pipeline: of the detector's run.
      detector: is left as it is.
      added: the new normal images.
      count: how many images the detector has learnt from.
      old: those images, in that order; `fast` without an ensemble may do without.
      passes: what is not finished is kept there.
      mode: one of `MODES`.
      label: what the progress bars say first.
    """
    params, scorer = detector.params, pipeline.scorer
    seconds: dict[str, float] = {}
    splits = [*(old or ()), added]

    def describe(splits):
        with fit.timed(seconds, "features"):
            return descriptors.patches(pipeline, params, splits, passes, label=label)

    *known, new = describe(splits if mode == "exact" else [added])
    state = models.fingerprint({"state": base.on_host(detector.state)})
    kept = state if mode == "fast" else ""
    normal = fit.normal_of(pipeline, params, new, splits, passes, label, kept=kept)
    everything = dataclasses.replace(normal, rows=Stack([*known, new]))
    start = time.perf_counter()
    if scorer.extend is None:
        fitted = scorer.fit(everything)
    else:
        of_old = None
        if mode == "exact":
            of_old = functools.partial(Stack, known)
        elif old and all(
            descriptors.is_cached(pipeline, params, split) for split in old
        ):

            def of_old():
                return Stack(describe(old))

        fitted = scorer.extend(
            Extension(
                state=detector.state,
                report=detector.report,
                new=normal,
                images=count,
                old=of_old,
                fast=mode == "fast",
            )
        )
    seconds["fit"] = time.perf_counter() - start
    extended = fit.assemble(
        pipeline, params, *fitted, splits, seconds, passes, label=label
    )
    if mode == "exact":
        return fit.Fitted(extended, everything, seconds)
    return fit.Fitted(extended, normal, seconds, first=count)


def _category(config: ml_collections.ConfigDict, name: str | None) -> str:
    known = data.categories(config)
    if name is None and len(known) == 1:
        return known[0]
    if name not in known:
        hint = did_you_mean(name or "", known)
        raise InputError(
            f"category={name} is not in the run{hint}; choose one of {', '.join(known)}"
        )
    return name


def _load(config: ml_collections.ConfigDict, path: str, category: str) -> data.Split:
    """All normal training images in a folder or CSV, at the run's size."""
    if not pathlib.Path(path).expanduser().exists():
        raise InputError(f"images={path} does not exist; name a folder or a CSV")
    return dataclasses.replace(data.good(config, path, category), name="added")


def _again(config, record: dict, category: str) -> data.Split:
    """The images of an earlier extension."""
    split = _load(config, record["images"], category)
    if _sha256(split) != record["sha256"]:
        raise InputError(
            f"{record['images']}, which an earlier extension added, has changed since; "
            "put the images back"
        )
    return split


def _sha256(split: data.Split) -> str:
    """Of the files' bytes, in order."""
    digest = hashlib.sha256()
    for i in range(len(split)):
        encoded, _ = split.read(i)
        digest.update(hashlib.sha256(encoded).digest())
    return digest.hexdigest()
