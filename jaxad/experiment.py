"""One run: every category trained, fitted and evaluated; the results table."""

import json
import logging
import pathlib
import time

import ml_collections

from jaxad import check, data, evaluate, fit, models, overlays, results
from jaxad import config as config_lib
from jaxad.detectors import knn
from jaxad.errors import InputError
from jaxad.fit import Pipeline

_LOG = logging.getLogger(__name__)

# What may change between two calls of a run, because its numbers do not.
_PLACES = (
    "dataset.data_dir",
    "dataset.manual_dir",
    "dataset.check",
    "feature_cache",
    "train.stage_cache",
    "compilation_cache",
)
_PHASES = ("features", "coreset", "score", "total")


def run(config: ml_collections.ConfigDict, workdir: str) -> dict:
    """Trains, fits and evaluates every category of the config.

    A finished category is never done twice: an interrupted run goes on where it was,
    and a finished one returns at once.

    Args:
      config: `config.base()`, completed by a config file.
      workdir: folder of the run; made if need be.

    Returns:
      What `results.json` holds.

    Raises:
      InputError: a field, file or shape that cannot work.
    """
    config_lib.validate(config)
    folder = pathlib.Path(workdir)
    categories = data.categories(config.dataset)
    members = fit.members(config)
    _require_same_run(folder, members[0])
    finished = _read(folder / "results.json")
    if finished is not None:
        _LOG.info("%s holds this run, finished: nothing to do", folder)
        return finished
    # Everything that can be wrong with the data is found before anything is trained.
    if config.dataset.check:
        for category in categories:
            if not (folder / category / "result.json").exists():
                check.require_sound(members[0].dataset, category)
    pipelines = [fit.load_pipeline(member) for member in members]
    # Not before all this has worked: a folder with a config belongs to that run.
    results.write_json(folder / "config.json", members[0].to_dict())
    rows = {}
    for i, category in enumerate(categories, start=1):
        _LOG.info("%s (%d of %d)", category, i, len(categories))
        rows[category] = _category(pipelines, category, folder / category)
    outcome = results.finite(_outcome(pipelines, rows))
    results.write_text(folder / "results.md", results.table(outcome))
    # Last: its presence says that the run is finished.
    results.write_json(folder / "results.json", outcome)
    return outcome


def restore(folder: str) -> knn.KNN | tuple[knn.KNN, ...]:
    """The fitted detector of a category of a run, from `<workdir>/<category>`.

    Returns:
      What `knn.predict` takes: a detector, or the members of an ensemble.

    Raises:
      InputError: there is none, it is damaged, or the backbone's weights have changed.
    """
    folder = pathlib.Path(folder)
    stored = _read(folder.parent / "config.json")
    if stored is None:
        raise InputError(
            f"{folder.parent / 'config.json'} does not exist; name the folder of a "
            "category inside a run's --workdir"
        )
    members = fit.members(ml_collections.ConfigDict(stored))
    pipelines = [fit.load_pipeline(member) for member in members]
    members = tuple(
        fit.restore(pipeline, _detector_folder(pipeline, folder))
        for pipeline in pipelines
    )
    return members if len(members) > 1 else members[0]


def _detector_folder(pipeline: Pipeline, folder: pathlib.Path) -> pathlib.Path:
    """Where a detector lies in its category's folder."""
    if pipeline.config.ensemble.members:
        return folder / pipeline.backbone.name / "detector"
    return folder / "detector"


def _category(pipelines: list[Pipeline], category: str, folder: pathlib.Path) -> dict:
    """One row of the results, from `result.json` where the category is finished."""
    row = _read(folder / "result.json")
    if row is not None:
        return row
    config, start = pipelines[0].config, time.perf_counter()
    seconds = dict.fromkeys(_PHASES, 0.0)
    members = tuple(
        _member(pipeline, category, folder, seconds) for pipeline in pipelines
    )
    detector = members if len(members) > 1 else members[0]

    def predict(images):
        return knn.predict(detector, pipelines[0].place(images))

    test = data.load(config.dataset, category, "test")
    if any(config.disturbance.values()):
        test = evaluate.Disturbed(test, config.seed, **config.disturbance)
    with fit.timed(seconds, "score"):
        evaluation = evaluate.evaluate(
            predict, test, pipelines[0].images_a_call, label=f"{category}: score"
        )
    results.write_scores(folder / "scores.csv", test, evaluation.scores)
    overlays.write(
        folder / "maps",
        predict,
        test,
        evaluation.scores,
        config.overlays,
        pipelines[0].images_a_call,
    )
    seconds["total"] = time.perf_counter() - start
    row = {
        **evaluation.metrics,
        "test_normal": int((test.labels == 0).sum()),
        "test_anomalous": int((test.labels == 1).sum()),
        "bank_patches": sum(len(member.bank) for member in members),
        "seconds": seconds,
    }
    results.write_json(folder / "result.json", row)
    return row


def _member(pipeline, category, folder, seconds) -> knn.KNN:
    """A fitted detector, from disk where it is there."""
    place = _detector_folder(pipeline, folder)
    if place.exists():
        return fit.restore(pipeline, place)
    split = data.load(pipeline.config.dataset, category, "train").normal()
    detector, spent = fit.fit(pipeline, split, place.parent, label=category)
    for phase, value in spent.items():
        seconds[phase] = seconds.get(phase, 0.0) + value
    fit.save(pipeline, detector, place)
    return detector


def _outcome(pipelines: list[Pipeline], rows: dict[str, dict]) -> dict:
    config = pipelines[0].config
    rows = {name: dict(row) for name, row in rows.items()}
    seconds: dict[str, float] = {}
    for row in rows.values():
        for phase, spent in row.pop("seconds").items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    return {
        "dataset": config.dataset.name,
        "method": config.method.name,
        "seed": config.seed,
        # What synthetic anomalies are pasted from.
        "texture": config.method.get("texture"),
        "backbones": [
            {
                "name": pipeline.backbone.name,
                "weights": models.source(
                    pipeline.backbone.name, pipeline.config.backbone.weights
                ),
                "sha256": pipeline.fingerprint,
            }
            for pipeline in pipelines
        ],
        "categories": rows,
        "mean": results.mean(rows),
        "seconds": seconds,
        "versions": results.versions(),
    }


def _require_same_run(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises InputError if the folder holds another run, or anything else."""
    mine = json.loads(json.dumps(config.to_dict()))
    path = folder / "config.json"
    theirs = _read(path)
    if theirs is None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--workdir={folder} is a file; name a folder")
        # A killed write leaves a hidden temporary file, which is nobody's.
        if folder.exists() and any(p.name[0] != "." for p in folder.iterdir()):
            raise InputError(
                f"{folder} is not empty and holds no run; choose another --workdir"
            )
        return
    mine, theirs = _flat(mine), _flat(theirs)
    differing = sorted(
        field
        for field in mine.keys() | theirs.keys()
        if mine.get(field) != theirs.get(field) and field not in _PLACES
    )
    if differing:
        raise InputError(
            f"{path} is of another run (it differs in {', '.join(differing)}); choose "
            "another --workdir, or remove that folder"
        )


def _flat(tree: dict, prefix: str = "") -> dict:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _read(path: pathlib.Path) -> dict | None:
    """The JSON of a file, None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise InputError(
            f"{path} is not valid JSON; remove it to have it made again"
        ) from None
