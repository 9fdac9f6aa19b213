"""Adds normal images to the detector of a run, and leaves that run as it is.

  python -m jaxad.extend --base RUN --images DIR --workdir NEW [--mode exact|fast]

What is learnt stays: the backbone, and a method's map. The memory bank grows:

* `exact` chooses the bank anew from the patches of all images, old ones first. It is
  the bank that a run on all of them would have, index for index. The old images are
  described again, or come from `config.feature_cache`.
* `fast` keeps every entry of the bank and goes on choosing by the same greedy rule,
  among the patches of the new images alone, until the bank has its share
  (`config.coreset.ratio`) of all patches. Old images are not read.

Results say how well the bank covers the patches, see `knn.KNN.coverage`. After `fast`
the covering radius of all patches is known where the old descriptors are cached;
elsewhere the larger of the old radius and that of the new patches is a bound, since
more entries bring no patch farther away.

An ensemble's members are extended one by one. What puts their scores on one scale is
measured on all images, so old images are read in either mode.
"""

import dataclasses
import hashlib
import logging
import os
import pathlib

import ml_collections
import numpy as np
from absl import flags

from jaxad import command_line, data
from jaxad.bank import memory_bank
from jaxad.data import folder as own_images
from jaxad.detectors import knn
from jaxad.devices.rows import Stack
from jaxad.errors import InputError, did_you_mean
from jaxad.run import descriptors, doctor, experiment, fit, results
from jaxad.run.passes import Passes
from jaxad.run.pipeline import Pipeline

_LOG = logging.getLogger("jaxad.extend")  # also where it is the command

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
    config = experiment.stored(base_folder)
    category = _category(config.dataset, category)
    before = experiment.read_json(base_folder / category / "result.json")
    if before is None:
        raise InputError(
            f"{base_folder} has no finished category {category}; run the command that "
            "made it again, to its end"
        )
    experiment.restore(base_folder / category)  # damage is told before anything is made
    added = _load(config.dataset, images, category)
    duplicates = None
    if config.dataset.check:
        duplicates = doctor.require_sound_addition(config.dataset, category, added)
    earlier = list(config.get("extensions", ()))
    config.dataset.category = category
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

    def make(pipeline, train, folder, *, label):
        place = experiment.detector_folder(pipeline, base_folder / category)
        detector = fit.restore(pipeline, place)
        count = before["train_normal"] + sum(record["count"] for record in earlier)
        old = None
        try:
            if train.version != before["train_version"]:
                raise InputError(f"the training images of {base} have changed since")
            old = [train, *(_again(config.dataset, r, category) for r in earlier)]
        except InputError as error:
            if mode == "exact" or config.ensemble.members:
                raise
            _LOG.info("%s: %s", label, error)
        with fit.unfinished(pipeline, folder) as passes:
            return extend(
                pipeline, detector, added, count, old, passes, mode=mode, label=label
            )

    return experiment.run(config, workdir, make=make)


def extend(
    pipeline: Pipeline,
    detector: knn.KNN,
    added: data.Split,
    count: int,
    old: list[data.Split] | None,
    passes: Passes,
    *,
    mode: str,
    label: str,
) -> tuple[knn.KNN, dict[str, float]]:
    """A detector whose bank covers more images.

    Args:
      pipeline: of the detector's run.
      detector: is left as it is.
      added: the new normal images.
      count: how many images the detector has learnt from.
      old: those images, in that order; `fast` without an ensemble may do without.
      passes: what is not finished is kept there.
      mode: one of `MODES`.
      label: what the progress bars say first.

    Returns:
      (the extended detector, seconds spent in each phase).
    """
    config, params, bank = pipeline.config, detector.params, np.asarray(detector.bank)
    places = {
        "mesh": pipeline.mesh,
        "max_device_bytes": config.detector.max_device_bytes or None,
    }
    seconds: dict[str, float] = {}
    splits = [*(old or ()), added]
    with fit.timed(seconds, "features"):
        described = splits if mode == "exact" else [added]
        parts = descriptors.patches(pipeline, params, described, passes, label=label)
        new, kept = parts[-1], 0
        if mode == "fast":
            parts, kept = [bank, *parts], len(bank)
        rows = Stack(parts)
    patches = len(new) // len(added) * (count + len(added))
    size = knn.coreset_size(config.coreset.ratio, patches)
    size = min(max(size, kept), len(rows))
    extended = fit.build(
        pipeline, params, rows, size, splits, seconds, passes, label=label, kept=kept
    )
    with fit.timed(seconds, "coverage"):
        coverage = {
            f"{name}_before": radius
            for name, radius in detector.coverage.items()
            if name in _RADII
        }
        coverage["added_before"] = memory_bank.covering_radius(new, bank, **places)
        radius = extended.coverage["radius"]
        if mode == "exact":
            coverage["radius"] = radius
        else:
            coverage["added"] = radius  # the bank's own entries are covered anyway
            if old and all(
                descriptors.is_cached(pipeline, params, split) for split in old
            ):
                parts = descriptors.patches(pipeline, params, old, passes, label=label)
                of_old = memory_bank.covering_radius(
                    Stack(parts), extended.bank, **places
                )
                coverage["radius"] = max(radius, of_old)
            else:
                (of_old,) = (
                    detector.coverage[name]
                    for name in _RADII & detector.coverage.keys()
                )
                coverage["radius_bound"] = max(radius, of_old)
    _LOG.info(
        "%s: %d images added, the bank grows from %d to %d patches; the new ones were "
        "at most %.4g away from it, now %.4g",
        label,
        len(added),
        len(bank),
        len(extended.bank),
        coverage["added_before"],
        radius,
    )
    return extended.replace(coverage=coverage), seconds


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
    source = config.copy_and_resolve_references()
    source.update(name=own_images.NAME, path=str(path), category="all", test_share=0.0)
    source.update(anomalous_path="", limit=0, shots=0, draw=0)
    found = data.categories(source)
    if category not in found and len(found) > 1:
        raise InputError(
            f"images={path} has the categories {', '.join(found)}, but not {category}; "
            "name the folder of one"
        )
    name = category if category in found else found[0]
    added = data.load(source, name, "train").normal()
    if not len(added):
        raise InputError(f"images={path} has no normal image")
    return dataclasses.replace(added, name="added")


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


def _main(values) -> None:
    command_line.use_compilation_cache(experiment.stored(pathlib.Path(values.base)))
    outcome = run(
        values.base,
        values.images,
        values.workdir,
        mode=values.mode,
        category=values.category,
    )
    print(results.table(outcome), end="")
    print(f"Results: {os.path.join(values.workdir, 'results.json')}")


if __name__ == "__main__":
    flags.DEFINE_string("base", None, "Folder of the run to extend.")
    flags.DEFINE_string("images", None, "New normal images: a folder, or a CSV.")
    flags.DEFINE_string("workdir", None, "Folder of the extended run.")
    flags.DEFINE_enum("mode", "exact", MODES, "How the bank grows.")
    flags.DEFINE_string("category", None, "Where the run has several.")
    command_line.run(
        lambda: _main(flags.FLAGS),
        "python -m jaxad.extend",
        ("base", "images", "workdir"),
    )
