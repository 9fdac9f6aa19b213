"""What ToCoAD's stages share: the generator G, the discriminative network D, F."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxad import optim, rng
from jaxad.augment import anomalies, colour
from jaxad.methods.base import Backbone
from jaxad.methods.tocoad_fields import LEVELS
from jaxad.models import decoder


def generator(options) -> Callable:
    """G: (key, batch) -> images with defects [b, H, W, 3] and their masks [b, H, W].

    What is pasted is `batch["texture"]`, or the next image of the batch.
    """
    name = options.generator
    source = "images" if name == "nsa" else options.texture
    family, _, kind = name.partition("_")
    constants = options[family].to_dict()
    if kind:  # one of CutPaste's two
        constants = {"jitter": constants["jitter"], **constants[kind]}
    generate = functools.partial(getattr(anomalies, name), **constants)

    def draw(key, batch):
        keys = rng.per_example(rng.at(key, 0), batch["index"])
        images = batch["image"]
        if name not in ("perlin", "nsa"):
            return jax.vmap(generate)(keys, images)
        if source == "noise":
            return jax.vmap(lambda key, image: generate(key, image, None))(keys, images)
        others = batch["texture"] if source == "dtd" else jnp.roll(images, 1, axis=0)
        return jax.vmap(generate)(keys, images, others)

    def without_colours(key, batch):
        defects, mask = draw(key, batch)
        return jnp.where(mask[..., None] > 0, colour.luma(defects), defects), mask

    return without_colours if options.grey else draw


def pastes_textures(options) -> bool:
    """Whether G needs `batch["texture"]`."""
    return options.generator == "perlin" and options.texture == "dtd"


def discriminator(options, backbone: Backbone, image_size) -> decoder.InverseNetwork:
    """D, for the feature maps that F makes of images of a size."""
    return decoder.build(backbone.shapes(image_size, LEVELS), **options.decoder)


def optimiser(fields) -> optax.GradientTransformation:
    """Of a stage; the rate is the stage's own."""
    return optim.scale_by(
        fields.optimiser, betas=tuple(fields.betas), weight_decay=fields.weight_decay
    )


def run(backbone: Backbone, variables, images, statistics: str):
    """F's feature maps, and its batch normalisation's statistics after it."""
    if statistics == "frozen":
        maps = backbone.module.apply(variables, images)[1]
        return maps, variables.get("batch_stats")
    (_, maps), moved = backbone.module.apply(
        variables, images, train=True, mutable=["batch_stats"]
    )
    return maps, moved["batch_stats"]


def levels(maps):
    """What D sees of F."""
    return [maps[level] for level in LEVELS]


def watch_guide(logits, mask):
    """Curves: D's mean probability inside and outside masks."""
    p = jax.nn.sigmoid(logits[..., 1] - logits[..., 0])
    inside, outside = (mask * p).sum(), ((1 - mask) * p).sum()
    return {
        "found": inside / jnp.maximum(mask.sum(), 1),
        "false_alarm": outside / jnp.maximum((1 - mask).sum(), 1),
    }


def count_empty(mask):
    """Images of a batch in which G has left everything as it was."""
    return (~mask.any((1, 2))).sum(dtype=jnp.int32)


def num_steps(fields, images: int) -> int:
    """Of a stage that has so many images."""
    return max(fields.min_steps, fields.epochs * (images // fields.batch_size))
