"""One run: every category trained, fitted and evaluated; the results table."""

import contextlib
import dataclasses
import logging
import pathlib
import sys
import time
from collections.abc import Sequence

import ml_collections

from jaxad import config as config_lib
from jaxad import data, fields, methods, models
from jaxad.detectors import base
from jaxad.devices import processes, sharding
from jaxad.errors import InputError
from jaxad.inference import places
from jaxad.run import (
    banks,
    calibrate,
    decoded,
    descriptors,
    detector,
    doctor,
    evaluate,
    fit,
    identity,
    keys,
    overlays,
    passes,
    pretrain,
    provenance,
    results,
)
from jaxad.run import pipeline as pipeline_lib
from jaxad.run.passes import Passes
from jaxad.run.pipeline import Pipeline

_LOG = logging.getLogger(__name__)

_PHASES = ("features", "fit", "score", "total")

# By phase, spent on what is trained in a folder.
Seconds = dict[pathlib.Path, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run whose config, data and weights have been found to work.

    Attributes:
      folder: of the run.
      categories: all of them.
      pipelines: one for every member.
      outcome: what `results.json` holds, None while the run is not finished.
    """

    folder: pathlib.Path
    categories: list[str]
    pipelines: list[Pipeline]
    outcome: dict | None = None


def run(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    maker: detector.Maker | None = None,
) -> dict:
    """Trains, fits and evaluates every category of the config.

    Of a method that leaves a backbone it is `pretrain.run`.

    A finished category is never done twice: an interrupted run goes on where it was,
    and a finished one returns at once.

    Args:
      config: `config.base()`, completed by a config file.
      workdir: folder of the run; made if need be.
      maker: makes the detectors of the categories.

    Returns:
      What `results.json` holds.

    Raises:
      InputError: a field, file or shape that cannot work; another command works in
        the folder.
    """
    if maker is None:
        return run_together([(config, workdir)])[0]
    with identity.held(pathlib.Path(workdir)):
        return _finish(_open(config, workdir), {}, maker)


def run_together(runs: Sequence[tuple[ml_collections.ConfigDict, str]]) -> list[dict]:
    """Several runs that differ in their seed alone, each as `run` does it.

    `config.method.vectorize` heads, of any category and seed, train in one program.

    Args:
      runs: config and workdir of each.

    Raises:
      InputError: as `run`; configs that differ in more.
    """
    with contextlib.ExitStack() as stack:
        for _, workdir in runs:
            stack.enter_context(identity.held(pathlib.Path(workdir)))
        if methods.leaves(runs[0][0]) == "backbone":
            return [pretrain.run(config, workdir) for config, workdir in runs]
        return _together(runs)


def _together(runs) -> list[dict]:
    first = runs[0][0].to_dict()
    for config, _ in runs:
        differing = fields.differing(first, config.to_dict()) - {"seed"}
        if differing:
            raise InputError(
                "runs can train together if they differ in config.seed alone, not in "
                + ", ".join(f"config.{field}" for field in sorted(differing))
            )
    opened = [_open(config, workdir) for config, workdir in runs]
    seconds = _train_together([run for run in opened if run.outcome is None])
    return [_finish(run, seconds, detector.Maker()) for run in opened]


def _open(config: ml_collections.ConfigDict, workdir: str) -> _Run:
    """Everything that can be wrong is found here, before anything is trained."""
    config_lib.validate(config)
    pipeline_lib.tell_idle(config)
    folder = pathlib.Path(workdir)
    identity.require_alike(config, folder)
    members = pipeline_lib.members(config)
    evaluate.further_metrics(config)
    # Each host has looked for textures on its own disk.
    processes.require_same({"method.texture": members[0].method.get("texture")})
    identity.require_same_run(folder, members[0])
    finished = results.read_json(folder / "results.json")
    if finished is not None:
        provenance.tell_changes(finished["categories"], members[0])
        return _Run(folder, list(finished["categories"]), [], finished)
    categories = data.categories(config.dataset)
    places.require_names(categories)
    learns_from = methods.learns_from(members[0])
    if processes.first():
        for category in categories:
            if not (folder / category / "result.json").exists():
                doctor.require_sound(members[0].dataset, category, learns_from)
    for member in members:
        if _vectorize(member) != 1 and not member.feature_cache:
            # Read when heads train, and again when each has its memory bank made.
            member.feature_cache = str(folder / "features")
    pipelines = [pipeline_lib.load(member) for member in members]
    textures = fit.textures_of(pipelines[0])
    processes.require_same({"the textures": textures and textures.version})
    for category in categories:
        if not (folder / category / "result.json").exists():
            train, _ = calibrate.divide(
                pipelines, provenance.train_images(members[0], category)
            )
            for pipeline in pipelines:
                fit.check(pipeline.of_category(category), train, label=category)
    # Not before all this has worked: a folder with a config belongs to that run.
    processes.wait()
    results.write_json(folder / "config.json", members[0].to_dict())
    return _Run(folder, categories, pipelines)


def _vectorize(config) -> int:
    """Heads that train in one program, at most; 1 is each alone."""
    return config.method.get("vectorize", 1) or sys.maxsize


def _train_together(runs: list[_Run]) -> Seconds:
    """Heads that train in one program, left finished in their categories' folders."""
    seconds: Seconds = {}
    size = _vectorize(runs[0].pipelines[0].config) if runs else 1
    if size == 1:
        return seconds
    # A member of an ensemble after the other; a category's seeds side by side, since
    # they share its descriptors.
    for pipelines in zip(*(run.pipelines for run in runs), strict=True):
        tasks = []
        for category in runs[0].categories:
            for run, pipeline in zip(runs, pipelines, strict=True):
                folder = run.folder / category
                place = detector.member_folder(pipeline, folder)
                if not place.exists() and not (folder / "result.json").exists():
                    split = provenance.train_images(pipeline.config, category)
                    split = decoded.of_category(split, pipeline.config, category)
                    split, _ = calibrate.divide([pipeline], split)
                    work = detector.work_folder(pipeline, folder)
                    tasks.append(fit.Task(pipeline, split, work, category))
        for task, spent in zip(tasks, fit.train_together(tasks, size), strict=True):
            seconds[task.folder] = spent
    return seconds


def _finish(run: _Run, seconds: Seconds, maker: detector.Maker) -> dict:
    """What is left of a run; `seconds` of what has been done for its detectors."""
    if run.outcome is not None:
        return run.outcome
    folder, rows = run.folder, {}
    for i, category in enumerate(run.categories, start=1):
        _LOG.info("%s (%d of %d)", category, i, len(run.categories))
        place = folder / category
        mine = [pipeline.of_category(category) for pipeline in run.pipelines]
        rows[category] = _category(mine, category, place, seconds, maker)
    outcome = results.finite(_outcome(run.pipelines, rows))
    results.write_text(folder / "results.md", results.table(outcome))
    # Last: its presence says that the run is finished.
    results.write_json(folder / "results.json", outcome)
    return outcome


def _category(
    pipelines: list[Pipeline],
    category: str,
    folder: pathlib.Path,
    earlier: Seconds,
    maker: detector.Maker,
) -> dict:
    """One row of the results, from `result.json` where the category is finished."""
    row, config = results.read_json(folder / "result.json"), pipelines[0].config
    if row is not None:
        other = provenance.changed(row, config, category)
        if other := other or provenance.other(row, pipelines):
            raise InputError(
                f"{folder} is finished, but with other {other} than there are now; put "
                "them back, choose another --workdir, or remove that folder to have it "
                "done again"
            )
        return row
    start = time.perf_counter()
    seconds = dict.fromkeys(_PHASES, 0.0)
    everything = provenance.train_images(config, category)
    train, held_out = calibrate.divide(pipelines, everything)
    members, decision = detector.made(
        pipelines, everything, category, folder, maker, seconds, earlier
    )

    every = [members, *banks.restored(folder, pipelines, members)]

    def predict(images, which=every):
        return base.predict_each(which, pipelines[0].place(images))

    test = provenance.test_images(config, category)
    test = decoded.of_category(test, config, category)
    recall = {}
    if pipelines[0].scorer.recall and len(test):
        with fit.timed(seconds, "recall"):
            recall["recall_at_1"] = {
                member.backbone.name: fit.recall(pipeline, member, test, label=category)
                for pipeline, member in zip(pipelines, members, strict=True)
            }
    if any(config.disturbance.values()):
        test = evaluate.Disturbed(test, config.seed, **config.disturbance)
    unfinished = folder / "unfinished"
    with (
        fit.timed(seconds, "score"),
        Passes(unfinished, every=config.save_seconds) as kept,
    ):
        evaluation = evaluate.evaluate(
            predict,
            test,
            pipelines[0].images_a_call,
            label=f"{category}: score",
            keep=kept.start("score", _scores_key(pipelines, every, test)),
            further=evaluate.further_metrics(config),
            banks=len(every),
        )
    results.write_scores(folder / "scores.csv", test, evaluation.scores)
    results.write_defect_types(folder / "defect_types.csv", test)
    results.write_train(folder / "train.csv", train, held_out)
    if processes.first():
        evaluation.thumbnails.save(folder / "thumbnails.npz")
        if evaluation.pixel_counts is not None:
            evaluation.pixel_counts.save(folder / "pixel_counts.npz")
    if decision:
        results.write_verdicts(
            folder / "verdicts.csv", test, evaluation.scores, decision.images
        )

    def predict_all(images):
        (found,) = predict(sharding.share_of(images), [members])
        return [sharding.fetch(x) for x in found]

    overlays.write(
        folder,
        predict_all,
        test,
        evaluation,
        pipelines[0].images_a_call,
        count=None if config.overlays == "all" else config.overlays,
        decision=decision,
        raw=config.raw_maps,
    )
    seconds["total"] += time.perf_counter() - start
    row = {
        **evaluation.metrics,
        "train_normal": int((train.labels == 0).sum()),
        "train_anomalous": int((train.labels == 1).sum()),
        "held_out_normal": len(held_out or ()),
        "train_version": train.version,
        "images": {"train": everything.version, "test": test.version},
        **provenance.made_by(pipelines),
        "key": provenance.key_of(pipelines, everything, test),
        "test_normal": int((test.labels == 0).sum()),
        "test_anomalous": int((test.labels == 1).sum()),
        "detector": {member.backbone.name: member.report for member in members},
        "threshold": decision and decision.results(evaluation.scores, test.labels),
        **recall,
        **({"banks": banks.row(evaluation.banks)} if len(every) > 1 else {}),
        "seconds": seconds,
    }
    results.write_json(folder / "result.json", row)
    passes.remove(unfinished)
    banks.remove(folder)
    return row


def _scores_key(pipelines: list[Pipeline], every, test) -> str:
    """Names all that scores depend on and the config does not say."""
    members, *others = every
    states = [
        models.fingerprint({"state": base.on_host(member.state)})
        for bank in others
        for member in bank
    ]
    return keys.digest(
        {"kept": evaluate.KEPT, "banks": states}
        | {
            pipeline.backbone.name: (
                descriptors.key_of(pipeline, member.params, test),
                models.fingerprint({"state": base.on_host(member.state)}),
            )
            for pipeline, member in zip(pipelines, members, strict=True)
        }
    )


def _outcome(pipelines: list[Pipeline], rows: dict[str, dict]) -> dict:
    config = pipelines[0].config
    further = evaluate.columns_of(evaluate.further_metrics(config))
    names = (*results.COLUMNS, *further)
    rows = {name: dict(row) for name, row in rows.items()}
    seconds: dict[str, float] = {}
    for row in rows.values():
        # The same of all, and told once.
        del row["weights"], row["versions"]
        for phase, spent in row.pop("seconds").items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    outcome = {
        "dataset": config.dataset.name,
        "method": config.method.name,
        "seed": config.seed,
        "texture": _pasted(config),
        "backbones": [
            {
                "name": pipeline.backbone.name,
                "weights": provenance.weights(pipeline),
                "sha256": pipeline.fingerprint,
            }
            for pipeline in pipelines
        ],
        "metrics": list(further),
        "categories": rows,
        "mean": results.mean(rows, further),
        **({"banks": banks.mean(rows, names)} if config.bank_starts > 1 else {}),
        "seconds": seconds,
        "versions": results.versions(),
    }
    if "extensions" in config:
        outcome["extensions"] = config.to_dict()["extensions"]
    return outcome


def _pasted(config) -> str | None:
    """What synthetic anomalies are pasted from."""
    pasted = methods.pasted(config)
    return (config.dataset.textures or "dtd") if pasted == "dtd" else pasted
