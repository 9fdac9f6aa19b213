"""A run whose product is a backbone: trained on a corpus, probed, and written.

backbone.safetensors   for `config.backbone.weights` of any other run
backbone.json          its card: how it came about, and the sha256 of its variables
results.json           the card, and the probes before and after
spd/metrics.jsonl      the curves of the stage, here SPD's
spd/probes/metrics.jsonl   the probes while it trains, at every checkpoint that is due
linear/metrics.jsonl   the curves of the linear evaluation, where there is one
"""

import logging
import pathlib
import time

import jax
import ml_collections
import numpy as np

from jaxad import config as config_lib
from jaxad import data, models, probes, rng
from jaxad.devices import processes, sharding
from jaxad.errors import InputError
from jaxad.fields import flat, get
from jaxad.models import heads, pretrained
from jaxad.run import decoded, doctor, features, fit, identity, results, stages
from jaxad.run import pipeline as pipeline_lib
from jaxad.run.pipeline import Pipeline
from jaxad.training import feed

_LOG = logging.getLogger(__name__)

WEIGHTS, CARD = "backbone.safetensors", "backbone.json"
# Pictures that probes look at, at most: of those held out, and of those to learn from.
_HELD_OUT, _BANK = 5_000, 20_000
_ONE_DIRECTION, _TELLING = 1.5, 10  # a rank below it is told, of so many pictures
# Fields of the shared table that only a detector goes by.
_OF_DETECTORS = (
    *("patches", "coreset", "detector", "threshold", "ensemble", "disturbance"),
    *(
        "bank_starts",
        "metrics",
        "overlays",
        "feature_cache",
        "backbone.taps",
        "train.stage_cache",
    ),
)


def run(config: ml_collections.ConfigDict, workdir: str) -> dict:
    """Pre-trains a backbone; goes on where an interrupted run was.

    Args:
      config: `config.base()`, completed by a config file, of a method that leaves a
        backbone.
      workdir: folder of the run; made if need be.

    Returns:
      What `results.json` holds.

    Raises:
      InputError: a field, file or shape that cannot work.
      Preempted: SIGTERM came.
    """
    start, folder = time.perf_counter(), pathlib.Path(workdir)
    config_lib.validate(config)
    _require_no_effect(config)
    pipeline_lib.tell_idle(config)
    identity.require_alike(config, folder)
    (member,) = pipeline_lib.members(config)
    with processes.one_after_first():
        corpus, validation = pictures(member)
    version = corpus.version + (validation.version if validation else "")
    processes.require_same({"the pictures": version})
    identity.require_same_run(folder, member)
    finished = results.read_json(folder / "results.json")
    if finished is not None:
        if finished["pictures"]["version"] != version:
            _LOG.warning("the pictures have changed since; these results are of before")
        return finished
    pipeline = pipeline_lib.load(member)
    train, seen = divided(corpus, validation, pipeline)
    for stage in pipeline.stages:
        feed.require_enough(stage, len(train), "what is not held out of the corpus")
    test = pipeline.method.product.test
    if test and not len(seen):
        raise InputError(
            "config.method.held_out=0 leaves no picture to test the linear evaluation "
            "on: the corpus has no validation set; hold some out, or leave the "
            "evaluation out with config.method.linear.optimiser=none"
        )
    # Last of the checks, for pictures may be millions.
    if not (folder / "config.json").exists():  # else they have been looked at
        for split in filter(None, (corpus, validation)):
            doctor.require_sound_corpus(member.dataset, split)
    processes.wait()
    results.write_json(folder / "config.json", member.to_dict())
    corpus = decoded.kept(corpus, member.dataset.cache, "corpus")
    if validation:
        validation = decoded.kept(validation, member.dataset.cache, "validation set")
    train, seen = divided(corpus, validation, pipeline)

    seconds: dict[str, float] = {}
    with fit.timed(seconds, "probe"):
        before = _probe(pipeline, pipeline.variables, train, seen, "before")

    def probe(params) -> dict[str, float]:
        found = _probe(pipeline, params["backbone"], train, seen, "now")
        told = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        _LOG.info("on pictures held out: %s", told)
        return found

    def leave(params) -> dict:
        variables = jax.tree.map(sharding.fetch, params["backbone"])
        card = _card(pipeline, variables, train)
        if processes.first():
            about = (
                f"{card['name']}, pre-trained by {card['method']}; {CARD} has its card"
            )
            pretrained.write(folder / WEIGHTS, variables, about)
        results.write_json(folder / CARD, card)
        return card

    card: dict = {}

    def done(stage, params) -> None:
        if stage.tunes:  # what else is learnt may take days
            card.update(leave(params))

    with fit.unfinished(pipeline, folder) as passes:
        params, _ = fit.learn(
            *(pipeline, train, folder, passes, seconds),
            label="corpus",
            probe=probe if len(seen) else None,
            done=done,
        )
    with fit.timed(seconds, "probe"):
        after = _probe(pipeline, params["backbone"], train, seen, "after")
        if test:
            after |= _means(test, pipeline, params, seen)
    card = card or leave(params)  # as it came, where no stage has trained it
    outcome = results.finite(
        {
            "dataset": config.dataset.name,
            "method": config.method.name,
            "seed": config.seed,
            "backbone": card,
            "pictures": {
                "train": len(train),
                "validation" if validation else "held_out": len(seen),
                "classes": len(corpus.classes),
                "version": version,
            },
            "probes": {"before": before, "after": after},
            "mean": after,
            "seconds": seconds | {"total": time.perf_counter() - start},
            "versions": results.versions(),
        }
    )
    results.write_text(folder / "results.md", results.table(outcome))
    # Last: its presence says that the run is finished.
    results.write_json(folder / "results.json", outcome)
    stages.forget(pipeline, folder)
    return outcome


def _require_no_effect(config) -> None:
    """Raises InputError for a field that does nothing without a detector."""
    for name, field in flat(config_lib.FIELDS):
        if name.startswith(tuple(f"{group}." for group in _OF_DETECTORS)) or (
            name in _OF_DETECTORS
        ):
            value = get(config, name)
            config_lib.require(
                tuple(value) == field.default
                if isinstance(field.default, tuple)
                else value == field.default,
                name,
                value,
                f"left out: the method {config.method.name} leaves a backbone, and the "
                "run that makes a detector of it sets this",
            )


def pictures(config) -> tuple[data.Split, data.Split | None]:
    """A corpus and its validation set, None where there is none; fills into the config
    how many classes there are, where it does not say."""
    corpus = data.corpus(config.dataset)
    if "classes" in config.method:
        _fill_in_classes(config, corpus)
    return corpus, data.validation(config.dataset, corpus)


def _fill_in_classes(config, corpus: data.Split) -> None:
    given, there = config.method.classes, len(corpus.classes)
    config_lib.require(
        given in (0, there),
        "method.classes",
        given,
        f"0, or the {there} classes that the corpus has",
    )
    with config.unlocked():
        config.method.classes = there


def divided(
    corpus: data.Split, validation: data.Split | None, pipeline: Pipeline
) -> tuple[data.Split, data.Split]:
    """What is trained on, and what the probes look at: the validation set, or some of
    the corpus, drawn by the seed."""
    if validation is not None:
        return corpus, validation
    share = pipeline.method.product.held_out
    order = np.random.default_rng((pipeline.config.seed, 4)).permutation(len(corpus))
    count = round(share * len(corpus))
    if share and not 0 < count < len(corpus):
        raise InputError(
            f"config.method.held_out={share} of {len(corpus)} pictures holds out "
            f"{count}; there must be some of both, or set it to 0"
        )
    return tuple(corpus.take(np.sort(rows)) for rows in (order[count:], order[:count]))


def _probe(
    pipeline: Pipeline, variables, train: data.Split, seen: data.Split, when: str
) -> dict[str, float]:
    """The probes of a backbone as it is, none where no picture is held out; while it
    trains ("now") all but the linear one, which is as dear as a short training."""
    if not len(seen):
        return {}
    product = pipeline.method.product
    label = f"probes {when}"
    seen, known = _some(seen, _HELD_OUT), _some(train, _BANK)
    embed = jax.jit(product.embed)

    def embedded(split):
        return features.extract(
            lambda x: embed(variables, pipeline.place(x))[:, None, None],
            split,
            pipeline.images_a_call,
            label=label,
        )[:, 0, 0]

    z = embedded(seen)
    found = {
        "spread": float(heads.collapse(z)),
        "rank": float(heads.participation_ratio(z)),
    }
    folded = found["rank"] < _ONE_DIRECTION and len(seen) >= _TELLING
    if folded and when != "before":
        _LOG.warning(
            "features of the pictures held out lie along about one direction (rank "
            "%.2f): if it stays so, lower config.method.eta or the learning rate",
            found["rank"],
        )
    if seen.classes:
        bank = embedded(known)
        given = bank, known.labels, z, seen.labels
        found["knn_accuracy"] = probes.knn_accuracy(*given)
        if when != "now":
            found["linear_accuracy"] = probes.linear_accuracy(*given)
    key = rng.stream(pipeline.config.seed, "probes")
    return found | _means(product.compare, pipeline, variables, seen, key)


def _some(split: data.Split, most: int) -> data.Split:
    """At most so many pictures, spread evenly over the split."""
    count = min(most, len(split))
    return split.take(np.arange(count) * len(split) // count)


def _means(function, pipeline: Pipeline, params, split, *key) -> dict[str, float]:
    """The means over a split of the numbers that a method has of each picture."""
    function, total = jax.jit(function), {}
    batches = data.eval_batches(split, pipeline.images_a_call, **processes.share())
    for batch in batches:
        shown = {x: pipeline.place(batch[x]) for x in ("image", "index", "label")}
        valid = sharding.fetch(pipeline.place(batch["valid"]))
        for name, values in function(params, shown, *key).items():
            values = sharding.fetch(values)[valid].astype(np.float64)
            total[name] = total.get(name, 0.0) + float(values.sum())
    return {name: value / len(split) for name, value in total.items()}


def _card(pipeline: Pipeline, variables, train: data.Split) -> dict:
    """How a backbone came about."""
    config = pipeline.config
    stages = [stage for stage in pipeline.stages if stage.tunes]
    return {
        "name": pipeline.backbone.name,
        "sha256": models.fingerprint(variables),
        "began_with": models.source(pipeline.backbone.name, config.backbone.weights),
        "method": config.method.name,
        **pipeline.method.product.card,
        "data": {
            "name": config.dataset.name,
            "pictures": len(train),
            "classes": len(train.classes),
            "version": train.version,
        },
        "steps": sum(stage.num_steps(len(train)) for stage in stages),
        "batch_size": stages[0].batch_size if stages else 0,
        "seed": config.seed,
        "config": {"method": config.method.to_dict()},
        "versions": results.versions(),
    }
