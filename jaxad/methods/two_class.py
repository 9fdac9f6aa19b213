"""Two-class models: a backbone fine-tuned on normal and anomalous images.

What a backbone is worth where defects are known, as SPot-the-Difference measures it:

  classification   a linear layer on the pooled last feature map; its logit is an
                   image's score, and the same layer at every position is the map
  segmentation     a U-Net with the backbone as its encoder: a logit a pixel

Horizontal flips are the only augmentation, so that no kind of defect is made up. The
optimiser and its schedule are not in the paper; `FIELDS` says which values are ours.

References:
  Zou et al., SPot-the-Difference Self-supervised Pre-training for Anomaly Detection and
  Segmentation, ECCV 2022 (arXiv:2207.14315), section 5: the 2-class setups.
  Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016
  (arXiv:1512.04150): the map of a classifier.
"""

import jax
import jax.numpy as jnp

from jaxad import losses, models, optim, rng
from jaxad.augment import views
from jaxad.methods.base import Backbone, Method, Stage, identity
from jaxad.methods.two_class_fields import check
from jaxad.methods.two_class_fields import fields as fields
from jaxad.models import heads, unet


def learns_from(options) -> str:
    """Labels of images, or masks."""
    return "masks" if options.task == "segmentation" else "labels"


def build(config, backbone: Backbone) -> Method:
    """One stage, which trains the backbone with a classifier or a decoder on it.

    Raises:
      InputError: a field that cannot work; from `stages` and `grid`, a level that the
        backbone does not have.
    """
    options, size = config.method, tuple(config.dataset.image_size)
    check(config)
    segments = options.task == "segmentation"
    levels = unet.LEVELS if segments else (options.level,)
    head = _head(config)

    def features(params, images):
        """The logits of a U-Net, or what the classifier's layer is applied to."""
        maps = backbone.module.apply(params["backbone"], images)[1]
        shown = [maps[level] for level in levels]
        if not segments:
            return shown[0]
        return head.apply(params["head"], shown, images.shape[1:3])

    def project(params, x):
        """The classifier at every position: their mean is the image's logit."""
        return head.apply(params["head"], x)

    def grid():
        (first, *_) = backbone.shapes(size, levels)
        return (*size, 1) if segments else first.shape[1:]

    def stages():
        return (_stage(config, backbone, head, levels),)

    return Method(features, identity if segments else project, stages, grid=grid)


def _head(config):
    """The module behind the backbone."""
    if config.method.task == "classification":
        return heads.Linear(1)
    dtype = jnp.dtype(config.backbone.dtype)
    return unet.Decoder(tuple(config.method.widths), dtype)


# -----------------------------------------------------------------------------
# The stage
# -----------------------------------------------------------------------------


def _stage(config, backbone: Backbone, head, levels) -> Stage:
    options, size = config.method, tuple(config.dataset.image_size)
    shapes = backbone.shapes(size, levels)  # which refuses what there is not
    segments = options.task == "segmentation"
    if segments:
        unet.check(shapes, size, backbone.name)
    rates = {"backbone": options.encoder_factor * options.learning_rate}
    rates["head"] = options.learning_rate
    optimiser = optim.scale_by(
        "adamw", betas=(0.9, 0.999), weight_decay=options.weight_decay
    )

    def init(key, params, item):
        del item
        maps = [jnp.zeros(shape.shape) for shape in shapes]
        if segments:
            made = head.init(key, maps, size)
        else:  # undecided (ours): few shots would leave a random layer as it is
            made = jax.tree.map(jnp.zeros_like, head.init(key, maps[0]))
        variables = {"backbone": params["backbone"], "head": made}
        learnt = {part: variables[part]["params"] for part in variables}
        statistics = {
            part: variables[part].get("batch_stats", {}) for part in variables
        }
        return {
            "learnt": learnt,
            "statistics": statistics,
            "optimiser": optimiser.init(learnt),
        }

    def apply(learnt, statistics, images):
        """Logits of a batch, and the running statistics after it."""
        variables = _variables(learnt, statistics)
        (_, maps), moved = backbone.module.apply(
            variables["backbone"],
            images,
            train=options.statistics == "batch",
            mutable=["batch_stats"],
        )
        after = {"backbone": moved.get("batch_stats", {})}
        shown = [maps[level] for level in levels]
        if not segments:
            pooled = shown[0].astype(jnp.float32).mean((1, 2))
            return head.apply(variables["head"], pooled)[:, 0], after | {"head": {}}
        logits, moved = head.apply(
            variables["head"], shown, size, train=True, mutable=["batch_stats"]
        )
        return logits[..., 0], after | {"head": moved["batch_stats"]}

    def loss_of(learnt, statistics, images, targets):
        logits, statistics = apply(learnt, statistics, images)
        loss = losses.binary_focal_loss(logits, targets, gamma=options.gamma)
        curves = {"loss": loss, **_means(logits, targets)}
        return loss, (curves, statistics)

    def step(state, batch, key):
        images, masks = batch["image"], batch["mask"]
        if options.flip:
            flip = jax.vmap(views.random_flip)  # of one key, both or neither
            keys = rng.per_example(key, batch["index"])
            images, masks = flip(keys, images), flip(keys, masks)
        learnt = state["learnt"]
        grads, (curves, statistics) = jax.grad(loss_of, has_aux=True)(
            learnt,
            state["statistics"],
            backbone.normalise(images),
            masks if segments else batch["label"],
        )
        direction, moments = optimiser.update(grads, state["optimiser"], learnt)
        fall = optim.cosine(batch["progress"])
        learnt = {
            part: jax.tree.map(
                lambda p, d, rate=rate: p - rate * fall * d,
                learnt[part],
                direction[part],
            )
            for part, rate in rates.items()
        }
        state = {"learnt": learnt, "statistics": statistics, "optimiser": moments}
        return state, curves

    def finish(state, params):
        variables = _variables(state["learnt"], state["statistics"])
        if segments:
            variables["head"] = models.fold(head, variables["head"])
        return params | variables

    return Stage(
        options.task,
        "images",
        options.batch_size,
        lambda images: options.epochs * (images // options.batch_size),
        init,
        step,
        finish,
        tunes=True,
    )


def _variables(learnt, statistics) -> dict:
    """By part, as a Flax module takes them."""
    return {
        part: {"params": learnt[part]}
        | ({"batch_stats": statistics[part]} if statistics[part] else {})
        for part in learnt
    }


def _means(logits, targets):
    """Curves: the mean logit of what is anomalous, and of what is normal."""
    found = {}
    for name, one in (("anomalous", targets > 0), ("normal", targets <= 0)):
        found[f"logit_{name}"] = (one * logits).sum() / jnp.maximum(one.sum(), 1)
    return found
