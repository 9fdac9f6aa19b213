"""A category's detector: made, saved in its folder, and restored from there."""

import logging
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np

from jaxad import config as config_lib
from jaxad import data, fields
from jaxad.detectors import base
from jaxad.devices import processes
from jaxad.inference import decisions, places
from jaxad.inference import folder as detector_folder
from jaxad.run import (
    banks,
    calibrate,
    decoded,
    fit,
    identity,
    overlays,
    passes,
    provenance,
    results,
    stages,
)
from jaxad.run.pipeline import Pipeline

_LOG = logging.getLogger(__name__)

_SUSPECTS = 24  # that a report shows


class Maker:
    """How a category's detector comes about; unless somebody says else, by a fit.

    Attributes:
      reads: whether it reads the training images, which are then decoded beforehand.
    """

    reads = True

    def images(self, train: data.Split) -> tuple[data.Split, int]:
        """What it learns from, as far as that is at hand.

        Args:
          train: the training images that nothing else is to be done with.

        Returns:
          (the images, the place of the first of them among all that it learns from).
        """
        return train, 0

    def make(
        self, pipeline: Pipeline, train: data.Split, folder: pathlib.Path, *, label: str
    ) -> fit.Fitted:
        """A member of the detector, as `fit.fit`."""
        return fit.fit(pipeline, train, folder, label=label)


def member_folder(pipeline: Pipeline, folder: pathlib.Path) -> pathlib.Path:
    """Where a member of the detector lies in its category's folder."""
    return folder / "detector" / pipeline.backbone.name


def work_folder(pipeline: Pipeline, folder: pathlib.Path) -> pathlib.Path:
    """Where the stages of a member lie in its category's folder."""
    ensemble = pipeline.config.ensemble.members
    return folder / pipeline.backbone.name if ensemble else folder


def made(
    pipelines: Sequence[Pipeline],
    everything: data.Split,
    category: str,
    folder: pathlib.Path,
    maker: Maker,
    seconds: dict[str, float],
    earlier: dict[pathlib.Path, dict[str, float]],
) -> tuple[tuple[base.Detector, ...], decisions.Decision | None]:
    """The fitted members and the decision, from disk where they are there.

    Args:
      pipelines: of the category, one for every member.
      everything: all of its training images.
      category: its name.
      folder: of the category.
      maker: makes what is not there.
      seconds: what that takes is added here, by phase.
      earlier: by work folder, what has been spent there before.
    """
    place = folder / "detector"
    train, _ = calibrate.divide(pipelines, everything)
    _forget_other(place, provenance.key_of(pipelines, train))
    if (place / places.CARD).exists():
        members = tuple(
            restored(pipeline, member_folder(pipeline, folder))
            for pipeline in pipelines
        )
        decision = decisions.Decision.from_card(detector_folder.read_card(place))
        return members, decision
    if maker.reads:
        everything = decoded.of_category(everything, pipelines[0].config, category)
    train, held_out = calibrate.divide(pipelines, everything)
    members, decision, calibration = calibrate.decided(
        pipelines,
        (
            _member(pipeline, train, category, folder, maker, seconds, earlier)
            for pipeline in pipelines
        ),
        maker.images(train)[0] if held_out is None else held_out,
        lambda pipeline: work_folder(pipeline, folder),
        seconds,
        label=category,
    )
    if calibration:
        _show_suspects(folder, members, calibration, decision, pipelines[0].config)
    detector_folder.save_card(
        place, card(pipelines, members, category, train, decision)
    )
    for pipeline in pipelines:
        _forget(pipeline, work_folder(pipeline, folder))
    return members, decision


def _member(pipeline, train, category, folder, maker, seconds, earlier) -> fit.Fitted:
    """A fitted member of the detector, from disk where it is there."""
    place, work = member_folder(pipeline, folder), work_folder(pipeline, folder)
    if place.exists():
        detector = restored(pipeline, place)
        return fit.Fitted(detector, None, {}, first=maker.images(train)[1])
    fitted = maker.make(pipeline, train, work, label=category)
    for phase, value in fitted.seconds.items():
        seconds[phase] = seconds.get(phase, 0.0) + value
    for phase, value in earlier.get(work, {}).items():
        seconds[phase] = seconds.get(phase, 0.0) + value
        seconds["total"] += value
    if not _learnt(pipeline, fitted.detector):
        name = pipeline.backbone.name
        detector_folder.save_backbone(
            folder.parent / "backbone" / name, pipeline.variables, pipeline.fingerprint
        )
    banks.save(folder, pipeline, fitted.banks)
    detector_folder.save_member(
        place, fitted.detector, pipeline.variables, pipeline.fingerprint
    )
    return fitted


def restored(pipeline: Pipeline, place: pathlib.Path) -> base.Detector:
    """A fitted member, from the folder that `member_folder` names.

    Raises:
      InputError: as `inference.folder.restore_member`.
    """
    return detector_folder.restore_member(
        place,
        pipeline.config,
        pipeline.networks,
        pipeline.variables,
        pipeline.fingerprint,
        pipeline.mesh,
    )


def card(
    pipelines: Sequence[Pipeline],
    members: Sequence[base.Detector],
    category: str,
    train: data.Split,
    decision: decisions.Decision | None,
) -> dict:
    """What a detector's folder says of it."""
    return {
        "category": category,
        "dataset": pipelines[0].config.dataset.name,
        "members": [
            {
                "name": pipeline.backbone.name,
                "config": _without_places(pipeline.config),
                "backbone": {
                    "sha256": pipeline.fingerprint,
                    "weights": provenance.weights(pipeline),
                    "learnt": _learnt(pipeline, member),
                },
            }
            for pipeline, member in zip(pipelines, members, strict=True)
        ],
        **(decision.to_card() if decision else decisions.NO_DECISION),
        "train": {"images": len(train), "version": train.version},
        "versions": results.versions(),
        "key": provenance.key_of(pipelines, train),
    }


def _without_places(config) -> dict:
    """The fields of a config that are true wherever a detector travels."""
    table = config_lib.FIELDS
    paths = {name: fields.get(table, name).default for name in identity.PATHS}
    config = config.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict(paths)
    return {name: x for name, x in config.to_dict().items() if name != "extensions"}


def _learnt(pipeline: Pipeline, member: base.Detector) -> bool:
    return member.params["backbone"] is not pipeline.variables


def _forget_other(place: pathlib.Path, key: str) -> None:
    """Removes a detector, or a part of one, that something else has made."""
    path, known = place / "made_by", None
    if place.exists():
        known = path.read_text(encoding="utf-8") if path.exists() else ""
    processes.wait()  # all have looked
    if processes.first() and known != key:
        if known is not None:
            _LOG.warning(
                "%s was fitted on other images, or with other weights or versions; it "
                "is fitted again",
                place,
            )
            shutil.rmtree(place)
        results.write_text(path, key)
    processes.wait()


def _forget(pipeline: Pipeline, folder: pathlib.Path) -> None:
    """Removes what only a detector that is not saved yet needs."""
    stages.forget(pipeline, folder)
    passes.remove(folder / "unfinished")


def _show_suspects(folder, members, calibration, decision, config) -> None:
    """The good images by how unlike the others they are: a table, and pictures."""
    split, scores = calibration.split, calibration.scores
    results.write_suspects(folder / "suspects.csv", split, scores)
    count = config.overlays
    if count == "all":  # which means the test images
        count = config_lib.FIELDS["overlays"].default
    worst = np.argsort(-scores, kind="stable")[: max(count, _SUSPECTS)]
    maps = calibrate.maps(members, calibration, worst)
    overlays.write_suspects(folder, split, scores, maps, worst, decision, count)
