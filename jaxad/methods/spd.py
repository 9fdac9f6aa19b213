"""SPot-the-Difference (SPD): a backbone pre-trained to see small local changes.

Contrastive pre-training makes features blind to what augmentation does to an image, and
so to detail. SPD adds a term to it: an image comes closer to a copy that has changed a
little as a whole, and away from a copy that has also changed in one spot.

  L = L_base + eta L_SPD,  L_SPD = cos(z_a, z_neg) - cos(z_a, z_pos)

The base is SimSiam, MoCo v2, SimCLR or supervised classification; eta = 0 is the base
alone. What is left is the backbone, for the detectors of other runs.

`jaxad.methods.spd_fields` says what of it is the paper's.

References:
  Zou et al., SPot-the-Difference Self-supervised Pre-training for Anomaly Detection and
  Segmentation, ECCV 2022 (arXiv:2207.14315).
  Chen and He, SimSiam, CVPR 2021 (arXiv:2011.10566).
  Chen et al., MoCo v2, 2020 (arXiv:2003.04297).
  Chen et al., SimCLR, ICML 2020 (arXiv:2002.05709).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxad import losses, models, optim, rng
from jaxad.augment import anomalies, views
from jaxad.fields import require
from jaxad.methods import spd_fields, spd_linear
from jaxad.methods.base import Backbone, Method, Product, Stage, identity
from jaxad.methods.spd_fields import fields as fields
from jaxad.methods.spd_linear import resized
from jaxad.models import heads

LEAVES = "backbone"


def build(config, backbone: Backbone) -> Method:
    """A stage that trains the backbone, and one that evaluates it.

    Raises:
      InputError: a field that cannot work; from `stages`, a level that the backbone
        does not have, or residual blocks that it has not.
    """
    options, image_size = config.method, tuple(config.dataset.image_size)
    spd_fields.check(config)
    view_size = tuple(options.view_size) if any(options.view_size) else image_size

    def embed(variables, images):
        maps = backbone.module.apply(variables, backbone.normalise(images))[1]
        return _pooled(maps, options.level)

    def compare(variables, batch, key):
        """SPD's two cosines, of the backbone itself, on images as they are."""
        anchors = resized(batch["image"], view_size)
        made = {"anchor": anchors} | _spots(options)(key, batch, anchors)
        z = {name: embed(variables, images) for name, images in made.items()}
        cosine = functools.partial(losses.cosine_similarity, z["anchor"])
        return {
            "cosine_to_positive": cosine(z["positive"]),
            "cosine_to_negative": cosine(z["negative"]),
        }

    def features(params, images):
        return embed(params["backbone"], images)[:, None, None]

    tests = options.linear.optimiser != "none"

    def stages():
        (pooled,) = backbone.shapes(view_size, (options.level,))
        width = pooled.shape[-1]
        _check_networks(options, backbone)
        made = [_stage(config, backbone, width, view_size)] if options.epochs else []
        if tests:
            made += [spd_linear.stage(options, backbone, embed, width, view_size)]
        return tuple(made)

    product = Product(
        embed=lambda variables, x: embed(variables, resized(x, view_size)),
        compare=compare,
        held_out=options.held_out,
        card={"base": options.base, "eta": options.eta, "term": options.term},
        test=functools.partial(spd_linear.test, embed, view_size) if tests else None,
    )
    return Method(features, identity, stages, product=product)


# -----------------------------------------------------------------------------
# Views
# -----------------------------------------------------------------------------


def _spots(options) -> Callable:
    """(key, batch, anchors [b, h, w, 3]) -> their positives and negatives.

    A negative has changed as a whole, too, or the whole change alone would tell it
    from a positive.
    """
    weaken = jax.vmap(functools.partial(views.global_view, **options.weak))
    weaken = jax.vmap(weaken, in_axes=(0, None))  # one program for both
    if options.perturbation == "smooth_blend":
        spot = functools.partial(anomalies.smooth_blend, **options.smooth_blend)
    else:
        spot = functools.partial(anomalies.cutpaste_patch, **options.cutpaste)

    def apply(key, batch, anchors):
        first, second, third = (
            rng.per_example(rng.at(key, i), batch["index"]) for i in (2, 3, 4)
        )
        positive, weak = weaken(jnp.stack([first, second]), anchors)
        negative, _ = jax.vmap(spot)(third, weak)
        return {"positive": positive, "negative": negative}

    return apply


def _views(options, size) -> Callable:
    """(key, batch) -> all that a step shows the networks, by name, [b, h, w, 3]."""
    strong = jax.vmap(functools.partial(views.global_view, size=size, **options.strong))
    strong, spots = jax.vmap(strong, in_axes=(0, None)), _spots(options)
    names = ("view1",) if options.base == "supervised" else ("view1", "view2")

    def apply(key, batch):
        keys = [
            rng.per_example(rng.at(key, i), batch["index"]) for i in range(len(names))
        ]
        made = dict(zip(names, strong(jnp.stack(keys), batch["image"]), strict=True))
        if options.eta and options.anchor == "view":
            made |= spots(key, batch, made["view1"])
        elif options.eta:
            made["anchor"] = resized(batch["image"], size)
            made |= spots(key, batch, made["anchor"])
        return made

    return apply


# -----------------------------------------------------------------------------
# Losses, of what the networks have found of each view
# -----------------------------------------------------------------------------


def _simsiam(options, found, labels, memory):
    one, two = found["view1"], found["view2"]
    return losses.simsiam_loss(one["p"], two["p"], one["z"], two["z"])


def _moco(options, found, labels, memory):
    query, temperature = found["view1"]["z"], options.temperature
    return losses.info_nce_loss(
        query, memory["keys"], memory["queue"], temperature=temperature
    )


def _simclr(options, found, labels, memory):
    one, two = found["view1"]["z"], found["view2"]["z"]
    return losses.ntxent_loss(one, two, temperature=options.temperature)


def _supervised(options, found, labels, memory):
    return losses.cross_entropy(found["view1"]["class"], labels)


_BASE_LOSSES = dict(
    simsiam=_simsiam, moco=_moco, simclr=_simclr, supervised=_supervised
)


def _spd(options, found):
    """L_SPD, or that of the classifier in its place, and its curves."""
    layer = "pooled" if options.base == "supervised" else "z"
    names = "anchor", "positive", "negative"
    anchor, positive, negative = (found[name][layer] for name in names)
    curves = {
        "cosine_to_positive": losses.cosine_similarity(anchor, positive).mean(),
        "cosine_to_negative": losses.cosine_similarity(anchor, negative).mean(),
    }
    if options.term == "cosine":
        if options.stop_positive:
            positive = jax.lax.stop_gradient(positive)
        loss = losses.spd_loss(anchor, positive, negative)
    else:
        logits = [found[name]["spot"] for name in ("positive", "negative")]
        labels = jnp.repeat(jnp.arange(2), len(anchor))
        loss = losses.cross_entropy(jnp.concatenate(logits), labels)
    return loss, curves | {"spd": loss}


# -----------------------------------------------------------------------------
# Networks
# -----------------------------------------------------------------------------


def _heads(options, width: int) -> dict:
    """By name: the layers, what they see, and the width of that."""
    made, projected = {}, options.projector
    if options.base == "supervised":
        made["class"] = heads.Linear(options.classes), "pooled", width
    else:
        projector = heads.Projector(tuple(projected), options.norm)
        made["z"] = projector, "pooled", width
    if options.base == "simsiam":
        predictor = heads.Predictor(projected[-1], options.bottleneck, options.norm)
        made["p"] = predictor, "z", projected[-1]
    if options.eta and options.term == "classifier":
        made["spot"] = heads.Linear(2), "pooled", width
    return made


def _show(options, backbone: Backbone, tops, learnt, statistics, images):
    """What the networks find in each view, by name, and the running statistics after.

    Each group of a view is normalised by itself. Heads see all views at once: they
    have far more weights to read, and to sum gradients of, than there are features.
    """

    def of_view(images):
        variables = {"params": learnt["backbone"], "batch_stats": statistics}
        (_, maps), moved = backbone.module.apply(
            variables, backbone.normalise(images), train=True, mutable=["batch_stats"]
        )
        return _pooled(maps, options.level), moved.get("batch_stats", {})

    def of_all(pooled):
        found = {"pooled": pooled}
        for name, (head, source, _) in tops.items():
            if name in learnt:
                found[name] = head.apply({"params": learnt[name]}, found[source])
        return found, {}

    seen = [_by_groups(of_view, x, options.groups) for x in images.values()]
    pooled, moved = zip(*seen, strict=True)
    found, _ = _by_groups(of_all, jnp.stack(pooled, 1), options.groups)
    found = {
        name: {layer: x[:, i] for layer, x in found.items()}
        for i, name in enumerate(images)
    }
    return found, jax.tree.map(lambda *x: sum(x) / len(x), *moved)


def _slow(learnt):
    """Of the networks, those that MoCo has slow copies of."""
    return {name: learnt[name] for name in ("backbone", "z")}


def _pooled(maps, level):
    """Global average pooling: float32 [b, c]."""
    return maps[level].astype(jnp.float32).mean((1, 2))


def _by_groups(function: Callable, images: jax.Array, groups: int):
    """`function` of each of so many parts of a batch, which do not see each other.

    Its rows come back in their order, and its statistics as the mean of the groups.
    """
    if groups == 1:
        return function(images)
    parts = images.reshape(groups, -1, *images.shape[1:])
    found, statistics = jax.vmap(function)(parts)
    found = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
    return found, jax.tree.map(lambda x: x.mean(0), statistics)


def _shuffled(function: Callable, key: jax.Array, images: jax.Array) -> jax.Array:
    """Rows of `function` on the batch in a random order, put back into its own.

    So a key's group is not its query's: what a group's normalisation tells of those in
    it would else give the answer away (MoCo, section 3.3).
    """
    order = jax.random.permutation(key, len(images))
    return function(images[order])[jnp.argsort(order)]


# -----------------------------------------------------------------------------
# The stage
# -----------------------------------------------------------------------------


def _check_networks(options, backbone: Backbone) -> None:
    """Raises InputError where the corpus or the backbone cannot have what is asked."""
    require(
        options.linear.optimiser == "none" or options.classes > 1,
        "method.linear.optimiser",
        options.linear.optimiser,
        "none: the corpus has no classes; docs/spd.md says how folders name them",
    )
    require(
        options.base != "supervised" or options.classes > 1,
        "method.base",
        options.base,
        "simsiam, moco or simclr, which need no labels: the corpus has no classes; "
        "docs/spd.md says how folders name them",
    )
    require(
        not (options.zero_residuals and options.epochs)
        or models.spec(backbone.name).zero_residuals,
        "method.zero_residuals",
        True,
        f"False: {backbone.name} has no blocks that could begin as the identity",
    )


def _stage(config, backbone: Backbone, width: int, view_size) -> Stage:
    options = config.method
    tops = _heads(options, width)
    views_of, moco = _views(options, view_size), options.base == "moco"
    show = functools.partial(_show, options, backbone, tops)
    optimiser = optim.scale_by(
        options.optimiser,
        betas=tuple(options.betas),
        weight_decay=options.weight_decay,
    )
    scale = (options.batch_size / 256) ** (1 if options.scaling == "linear" else 0.5)
    rate = options.learning_rate * scale
    steady = () if options.predictor_decays else ("p",)

    def init(key, params, item):
        del item
        learnt = {"backbone": params["backbone"]["params"]}
        if options.zero_residuals:
            change = models.spec(backbone.name).zero_residuals
            learnt["backbone"] = change(learnt["backbone"])
        for i, (name, (head, _, width)) in enumerate(tops.items()):
            x = jnp.zeros((2, width))
            learnt[name] = head.init(rng.at(key, i), x)["params"]
        state = {
            "learnt": learnt,
            "statistics": params["backbone"].get("batch_stats", {}),
            "optimiser": optimiser.init(learnt),
        }
        if moco:
            shape = (options.queue, options.projector[-1])
            state["slow"] = jax.tree.map(jnp.copy, _slow(learnt))
            state["queue"] = jax.random.normal(rng.at(key, len(tops)), shape)
        return state

    def remember(state, key, images):
        """MoCo: the slow networks a step on, and their keys of the second view."""
        decay = 1 - options.momentum
        slow = optax.incremental_update(_slow(state["learnt"]), state["slow"], decay)

        def keys_of(images):
            found, _ = show(slow, state["statistics"], {"key": images})
            return found["key"]["z"]

        keys = _shuffled(keys_of, key, images)
        return {"slow": slow, "keys": keys, "queue": state["queue"]}

    def loss_of(learnt, statistics, images, labels, memory):
        found, moved = show(learnt, statistics, images)
        if options.eta and options.anchor == "view":
            found["anchor"] = found["view1"]
        base = _BASE_LOSSES[options.base](options, found, labels, memory)
        loss, curves = base, {"base": base}
        if options.eta:
            spd, of_spd = _spd(options, found)
            loss, curves = base + options.eta * spd, curves | of_spd
        seen = found["view1"].get("z", found["view1"]["pooled"])
        curves |= {
            "loss": loss,
            "spread": heads.collapse(seen),
            "rank": heads.participation_ratio(seen),
        }
        return loss, (curves, moved)

    def step(state, batch, key):
        images, memory = views_of(key, batch), None
        if moco:
            memory = remember(state, rng.at(key, 5), images.pop("view2"))
        learnt = state["learnt"]
        grads, (curves, statistics) = jax.grad(loss_of, has_aux=True)(
            learnt, state["statistics"], images, batch["label"], memory
        )
        direction, moments = optimiser.update(grads, state["optimiser"], learnt)
        fall = optim.warm_cosine(batch["progress"], options.warmup)
        learnt = {
            part: jax.tree.map(
                lambda p, d, r=rate if part in steady else rate * fall: p - r * d,
                learnt[part],
                direction[part],
            )
            for part in learnt
        }
        state = {"learnt": learnt, "statistics": statistics, "optimiser": moments}
        if moco:
            # The oldest keys leave at the end.
            queue = jnp.concatenate([memory["keys"], memory["queue"]])
            state |= {"slow": memory["slow"], "queue": queue[: options.queue]}
        return state, curves

    def finish(state, params):
        """Hands on the backbone alone: the heads have done their work."""
        tuned = {"params": state["learnt"]["backbone"]}
        if state["statistics"]:
            tuned["batch_stats"] = state["statistics"]
        return params | {"backbone": tuned}

    def stop(curves, progress):
        if progress <= 0.1 or curves["spread"] >= options.collapsed:
            return None
        return (
            f"its outputs have collapsed: spread {curves['spread']:.2g} is below "
            f"config.method.collapsed={options.collapsed}; lower the learning rate, "
            "take a larger batch, or look at the views"
        )

    return Stage(
        "spd",
        "images",
        options.batch_size,
        lambda images: options.epochs * (images // options.batch_size),
        init,
        step,
        finish,
        tunes=True,
        stop=stop,
    )
