"""What a result comes of: images, weights, config and code; whether they changed."""

import logging

from jaxad import data, fields, methods, models
from jaxad.devices import processes
from jaxad.errors import InputError
from jaxad.run import identity, keys
from jaxad.run.pipeline import Pipeline

_LOG = logging.getLogger(__name__)


def test_images(config, category: str):
    """The images that a detector is tried on."""
    return _load(config, category, "test")


def train_images(config, category: str):
    """The images that a detector learns from: of most methods the normal ones.

    Raises:
      InputError: its method learns from both classes, or from masks, and one is
        missing.
    """
    split, kind = _load(config, category, "train"), methods.learns_from(config)
    if kind == "normal":
        return split.normal()
    for label, word in enumerate(("normal", "anomalous")):
        if not (split.labels == label).any():
            raise InputError(
                f"config.method.name={config.method.name} learns from normal and "
                f"anomalous images, and the training images of {category} have no "
                f"{word} one; config.dataset.protocol=2cls_highshot divides all images "
                "of both classes"
            )
    if kind == "masks" and not split.has_masks:
        raise InputError(
            f"config.method.name={config.method.name} learns from masks, and the "
            f"training images of {category} have none; add them (docs/own_images.md "
            "says where), or learn from labels: config.method.task=classification"
        )
    return split


def _load(config, category: str, name: str):
    """A split, which the first process prepares if need be."""
    with processes.one_after_first():
        split = data.load(config.dataset, category, name)
    processes.require_same({f"the {name} images of {category}": split.version})
    return split


def made_by(pipelines: list[Pipeline]) -> dict:
    """What makes a result, beside the images and the config."""
    weights = [one.fingerprint for one in pipelines]
    return {"weights": weights, "versions": keys.versions()}


def weights(pipeline: Pipeline) -> str:
    """Where a backbone's weights are from."""
    return models.source(pipeline.backbone.name, pipeline.config.backbone.weights)


def key_of(pipelines: list[Pipeline], *splits: data.Split) -> str:
    """Names all that comes of the images: data, weights, config, code."""
    config = fields.flat(pipelines[0].config.to_dict())
    return keys.digest(
        {
            "config": {k: v for k, v in config if k not in identity.PLACES},
            "images": [split.version for split in splits],
            **made_by(pipelines),
        }
    )


def changed(row: dict, config, category: str) -> str | None:
    """Which images, where a finished category has seen others than there are now."""
    for name, load in (("train", train_images), ("test", test_images)):
        if load(config, category).version != row["images"][name]:
            return f"{name} images"
    return None


def other(row: dict, pipelines: list[Pipeline]) -> str | None:
    """What else of a finished category is another by now."""
    made, now = row["versions"], made_by(pipelines)
    if row["weights"] != now["weights"]:
        return "weights"
    differing = sorted(name for name in made if made[name] != now["versions"].get(name))
    return f"versions of {', '.join(differing)}" if differing else None


def tell_changes(rows: dict[str, dict], config) -> None:
    """Warns where a finished run's images are others by now."""
    try:
        further = set(data.categories(config.dataset)).difference(rows)
    except InputError as error:
        _LOG.info("the images cannot be looked at (%s)", error)
        return
    if further:
        _LOG.warning(
            "there is more than these results are of: %s; another --workdir has a run "
            "on all",
            ", ".join(sorted(further)),
        )
    for category, row in rows.items():
        try:
            differing = changed(row, config, category)
        except InputError as error:
            _LOG.info("%s: the images cannot be looked at (%s)", category, error)
        else:
            if differing:
                _LOG.warning(
                    "%s: the %s have changed since; these results are of those "
                    "before, and another --workdir has a run on those of now",
                    category,
                    differing,
                )
