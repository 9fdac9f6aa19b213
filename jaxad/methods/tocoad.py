"""ToCoAD: two-stage contrastive learning for industrial anomaly detection.

Stage I (DNP) teaches a discriminative network D to find synthetic anomalies in the
features of a frozen backbone F. Stage II (NCL) fine-tunes F by contrastive learning on
normal images, while the frozen D keeps watch that anomalies stay visible. The memory
bank is then built on the fine-tuned F. Two stages that are not the paper's, whitening
and ranking, are in `tocoad_map`; with the first, D may have a say in the descriptors,
and in every row of an ablation in the score.

The paper's modules, losses and best settings are known; its layouts, optimisers and
schedules are a reconstruction. `tocoad_fields.FIELDS` says which is which.

References:
  Liang et al., ToCoAD: Two-Stage Contrastive Learning for Industrial Anomaly Detection,
  IEEE TIM 2025 (arXiv:2407.01312).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxad import fields as fields_lib
from jaxad import losses, models, optim, patches, rng
from jaxad.augment import anomalies, colour, views
from jaxad.methods import tocoad_map
from jaxad.methods.base import Backbone, Method, Stage, identity
from jaxad.methods.tocoad_fields import (
    FIELDS,
    LEVELS,
    STAGES,
    check,
    in_map,
    sees,
    weight_of_guide,
)
from jaxad.methods.tocoad_fields import fields as fields
from jaxad.models import decoder, heads, parts


def complete(options, *, textures: Callable[[], object]) -> None:
    """Settles what `texture="auto"` is."""
    if options.texture == "auto":
        alone = min(options.dnp.batch_size, options.ncl.batch_size) < 2
        there = options.generator == "perlin" and textures() is not None
        options.texture = "dtd" if there else "noise" if alone else "images"


def of_category(options, category: str):
    """The options as a category has them; the same object where that is no other."""
    mine = {name: x for one, name, x in options.by_category if one == category}
    if not mine:
        return options
    options = options.copy_and_resolve_references()
    for name, value in mine.items():
        # JSON, in which a run keeps its config, has no tuples.
        value = tuple(value) if isinstance(value, list) else value
        options.update_from_flattened_dict({name: value})
    fields_lib.check(FIELDS, options, "method")
    return options


def pasted(options) -> str | None:
    """What G pastes: "dtd", "images", "noise" or, of the same image, "itself".

    None where no stage draws from it.
    """
    if not {"dnp", "ranking"} & set(options.stages):
        return None
    if options.generator == "perlin":
        return options.texture
    return "images" if options.generator == "nsa" else "itself"


def build(config, backbone: Backbone) -> Method:
    """The stages that `config.method.stages` names, and PatchCore's descriptors.

    Raises:
      InputError: a field that cannot work; from `stages`, levels that the backbone does
        not have.
    """
    options, size = config.method, config.dataset.image_size
    check(config)
    describe = patches.descriptor(config.patches)

    def features(params, images):
        return describe(backbone.levels(params["backbone"], images))

    mapped, grid = features, None
    if sees(options):
        features, grid = _with_log_odds(options, backbone, describe, size)
    if in_map(options):
        mapped = features
    make = {
        "dnp": lambda: _discriminative_pretraining(options, backbone, size),
        "ncl": lambda: _negative_guided_contrast(options, backbone, describe, size),
        "whitening": lambda: tocoad_map.whitening(options),
        "ranking": lambda: tocoad_map.ranking(
            options,
            mapped,
            backbone.normalise,
            _generator(options),
            textures=_pastes_textures(options),
        ),
    }

    def stages():
        return tuple(make[name]() for name in STAGES if name in options.stages)

    maps = {"whitening", "ranking"} & set(options.stages)
    project = tocoad_map.project if maps else identity
    return Method(features, project, stages, grid=grid, log_odds=options.in_score)


def _with_log_odds(options, backbone: Backbone, describe, size):
    """(descriptors with D's log-odds as one more channel, their grid), as `Method` has
    them."""
    discriminator = _discriminator(options, backbone, size)

    def features(params, images):
        maps = backbone.module.apply(params["backbone"], images)[1]
        described = describe([maps[tap] for tap in backbone.taps])
        logits = discriminator.apply(params["discriminator"], _levels(maps), size)
        log_odds = logits[..., 1:] - logits[..., :1]
        shape = (*described.shape[:3], 1)
        seen = jax.image.resize(log_odds, shape, "linear", antialias=True)
        return jnp.concatenate([described, seen], axis=-1)

    def grid():
        taps = backbone.shapes(size, backbone.taps)
        h, w, c = jax.eval_shape(describe, taps).shape[1:]
        return h, w, c + 1

    return features, grid


# -----------------------------------------------------------------------------
# Stage I: discriminative network pre-training (DNP)
# -----------------------------------------------------------------------------


def _discriminative_pretraining(options, backbone: Backbone, image_size) -> Stage:
    """D learns to find what G put there: L_I = FL(D(F(x_s)), m), F frozen."""
    discriminator = _discriminator(options, backbone, image_size)
    generate, fields = _generator(options), options.dnp
    optimiser = _optimiser(fields)

    def init(key, params, item):
        frozen = params["backbone"]
        if fields.statistics == "frozen":
            frozen = models.fold(backbone.module, frozen)
        maps = backbone.module.apply(frozen, jnp.zeros((1, *item)))[1]
        variables = discriminator.init(key, _levels(maps), image_size)
        return {
            "discriminator": variables,
            "optimiser": optimiser.init(variables["params"]),
            "frozen": frozen,
            "empty_masks": jnp.int32(0),
        }

    def loss_of(params, statistics, maps, mask):
        variables = {"params": params, "batch_stats": statistics}
        logits, moved = discriminator.apply(
            variables, maps, image_size, train=True, mutable=["batch_stats"]
        )
        loss = losses.focal_loss(logits, mask, **options.focal)
        return loss, (moved["batch_stats"], logits)

    def step(state, batch, key):
        x_s, mask = generate(key, batch)
        x_s = backbone.normalise(x_s)
        maps, _ = _run(backbone, state["frozen"], x_s, fields.statistics)
        params, statistics = (
            state["discriminator"][name] for name in ("params", "batch_stats")
        )
        (loss, (statistics, logits)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            params, statistics, _levels(maps), mask
        )
        rate = _dropped(fields, batch["progress"])
        updates, optimiser_state = optimiser.update(grads, state["optimiser"], params)
        params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
        state = {
            "discriminator": {"params": params, "batch_stats": statistics},
            "optimiser": optimiser_state,
            "frozen": state["frozen"],
            "empty_masks": state["empty_masks"] + _count_empty(mask),
        }
        curves = {"loss": loss, "empty_masks": state["empty_masks"]}
        return state, curves | _watch_guide(logits, mask)

    def finish(state, params):
        return params | {"discriminator": state["discriminator"]}

    return Stage(
        "dnp",
        "images",
        fields.batch_size,
        functools.partial(_num_steps, fields),
        init,
        step,
        finish,
        textures=_pastes_textures(options),
        fields=("generator", "texture", "grey", "perlin", "cutpaste", "nsa")
        + ("decoder", "focal", "dnp"),
    )


def _dropped(fields, progress):
    """The learning rate, `fields.drop` times smaller at each of `fields.drop_at`."""
    drops = sum((progress >= share).astype(jnp.float32) for share in fields.drop_at)
    return fields.learning_rate * fields.drop**drops


# -----------------------------------------------------------------------------
# Stage II: negative-guided contrastive learning (NCL)
# -----------------------------------------------------------------------------


def _negative_guided_contrast(
    options, backbone: Backbone, describe: Callable, image_size
) -> Stage:
    """F contracts normal views and keeps anomalies apart; D is frozen.

    L_II = L_con + lambda_neg L_neg, and what holds F's descriptors (ours): an anchor
    where they were before, VICReg's terms. BatchNorm in F keeps its statistics, unless
    the config says otherwise, and learns its scale and shift.
    """
    backbone.shapes(image_size, options.levels)  # which refuses what there is not
    weight = weight_of_guide(options)
    guided = weight > 0
    discriminator = _discriminator(options, backbone, image_size) if guided else None
    generate, weaken = _generator(options), _weak_views(options)
    siamese = heads.SimSiamHeads(levels=len(options.levels), **options.heads)
    fields, optimiser = options.ncl, _optimiser(options.ncl)
    held = fields.anchor > 0 or fields.vicreg > 0
    slow = fields.target if options.contrastive == "simsiam" else 0.0
    part = _part(fields.trains, backbone, image_size)
    rates = {
        "backbone": fields.backbone_learning_rate,
        "heads": fields.heads_learning_rate,
    }

    def init(key, params, item):
        variables = params["backbone"]
        maps = backbone.module.apply(variables, jnp.zeros((2, *item)))[1]
        learnt = {
            "backbone": variables["params"],
            "heads": siamese.init(key, _alike(options, maps))["params"],
        }
        return {
            "learnt": learnt,
            "statistics": variables["batch_stats"],
            "optimiser": optimiser.init(learnt),
            "target": jax.tree.map(jnp.copy, learnt) if slow else {},
            "discriminator": params["discriminator"] if guided else {},
            "anchor": models.fold(backbone.module, variables) if held else {},
            "empty_masks": jnp.int32(0),
        }

    def described(maps):
        return describe([maps[tap] for tap in backbone.taps])

    def loss_of(learnt, statistics, frozen, images, mask):
        variables = {"params": learnt["backbone"], "batch_stats": statistics}

        embed = functools.partial(siamese.apply, {"params": learnt["heads"]})

        # One pass for all: the program is a third as long to compile.
        stacked = backbone.normalise(_interleave(list(images.values())))
        every, moved = _run(backbone, variables, stacked, fields.statistics)
        maps = dict(zip(images, _separate(every, len(images)), strict=True))
        alike = _alike(options, maps["view1"])
        z1, p1 = embed(alike)
        z2, p2 = embed(_alike(options, maps["view2"]))
        aims = z1, z2
        if slow:
            aims = aimed_at(frozen["target"], statistics, images)
        pull = _contrast(options, p1, p2, *aims)
        metrics = {"contrastive": pull, "spread": _mean(heads.collapse, z1)}
        for level, x in zip(options.levels, alike, strict=True):
            metrics[f"rank_{level}"] = heads.participation_ratio(x)
        loss = pull
        if held:
            before, _ = _run(backbone, frozen["anchor"], stacked, "frozen")
            pairs = described(every), described(before)
            if fields.anchor:
                metrics["drift"] = losses.anchor_loss(*pairs)
                loss += fields.anchor * metrics["drift"]
            if fields.vicreg:
                normal = (_views(x, len(images)) for x in pairs)
                metrics["vicreg"] = losses.vicreg_loss(*normal)
                loss += fields.vicreg * metrics["vicreg"]
        if not guided:
            return loss, (metrics | {"loss": loss}, moved)

        maps = maps["defect"]
        logits, stages = discriminator.apply(
            frozen["discriminator"], _levels(maps), image_size, mutable="intermediates"
        )
        if options.guide in ("gradient", "per_class"):
            # D's weights stand still; its gradient reaches F through the features.
            per_class = options.guide == "per_class"
            push = losses.focal_loss(
                logits, mask, per_class=per_class, **options.guide_focal
            )
        else:
            if options.negatives == "discriminator":
                maps = {name: x for name, (x,) in stages["intermediates"].items()}
            shown, there = _anomalous(options, maps, _shown(logits, mask), mask)
            n = embed(shown, alike, method=siamese.project_among)
            v1, v2 = _drawn(options, (p1, p2), (z1, z2))
            push = _repel(v1, v2, n, there)
        loss += weight * push
        metrics |= {"guide": push, "loss": loss} | _watch_guide(logits, mask)
        if options.sight:
            metrics["sight"] = _sight(logits, mask)
        return loss, (metrics, moved)

    def aimed_at(target, statistics, images):
        """Projections of the two views by the slow copy."""
        stacked = backbone.normalise(_interleave([images["view1"], images["view2"]]))
        variables = {"params": target["backbone"], "batch_stats": statistics}
        maps = _separate(_run(backbone, variables, stacked, "frozen")[0], 2)
        project = functools.partial(
            siamese.apply, {"params": target["heads"]}, method=siamese.project
        )
        return [project(_alike(options, view)) for view in maps]

    def step(state, batch, key):
        images = dict(zip(("view1", "view2"), weaken(key, batch), strict=True))
        mask, empty = None, state["empty_masks"]
        if guided:
            images["defect"], mask = generate(key, batch)
            empty += _count_empty(mask)
        frozen = {name: state[name] for name in ("target", "discriminator", "anchor")}
        grads, (metrics, statistics) = jax.grad(loss_of, has_aux=True)(
            state["learnt"], state["statistics"], frozen, images, mask
        )
        before, target = state["learnt"], state["target"]
        updates, moments = optimiser.update(grads, state["optimiser"], before)
        fall = optim.cosine(batch["progress"]) if fields.schedule == "cosine" else 1.0
        learnt = {
            name: jax.tree.map(
                lambda p, u, rate=rate: p - rate * fall * u, before[name], updates[name]
            )
            for name, rate in rates.items()
        }
        if part is not None:
            learnt["backbone"] = jax.tree.map(
                lambda own, new, old: new if own else old,
                *(part, learnt["backbone"], before["backbone"]),
            )
        if slow:
            target = jax.tree.map(
                lambda t, p: slow * t + (1.0 - slow) * p, target, learnt
            )
        if guided:
            metrics["empty_masks"] = empty
        state = state | {"learnt": learnt, "statistics": statistics, "target": target}
        return state | {"optimiser": moments, "empty_masks": empty}, metrics

    def stop(curves, progress):
        # Nothing is found where the batch has no defect.
        if not curves.get("found") or curves.get("sight", 1.0) >= options.sight:
            return None
        return (
            "D sees too little to guide: its pixel AUROC on defects drawn anew is "
            f"{curves['sight']:.2g}, less than config.method.sight={options.sight}; "
            "train stage I longer, or give D skips (method.decoder.skip)"
        )

    def finish(state, params):
        """Hands on F, and D where descriptors hold what it sees; never the heads."""
        tuned = {
            "params": state["learnt"]["backbone"],
            "batch_stats": state["statistics"],
        }
        kept = dict(params)
        if not sees(options):
            kept.pop("discriminator", None)
        return kept | {"backbone": tuned}

    return Stage(
        "ncl",
        "images",
        fields.batch_size,
        functools.partial(_num_steps, fields),
        init,
        step,
        finish,
        textures=guided and _pastes_textures(options),
        tunes=True,
        stop=stop,
    )


def _interleave(batches):
    """Batches [b, ...] as one [b * k, ...], the k rows of an example side by side.

    So the rows stay on the device that has the example.
    """
    stacked = jnp.stack(batches, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _separate(maps, k):
    """The inverse, for a dictionary of feature maps: k dictionaries."""
    return [{name: x[i::k] for name, x in maps.items()} for i in range(k)]


def _contrast(options, p1, p2, z1, z2):
    """L_con, the mean over levels."""
    if options.contrastive == "simsiam":
        return _mean(losses.simsiam_loss, p1, p2, z1, z2)
    loss = functools.partial(losses.ntxent_loss, temperature=options.temperature)
    return _mean(loss, z1, z2)


def _drawn(options, p, z):
    """What the contrastive loss draws together of two views, which a guide can push.

    Predictions with SimSiam, projections without: nothing else holds the predictor
    then, and it could turn away all by itself.
    """
    return p if options.contrastive == "simsiam" else z


def _repel(v1, v2, n, there):
    """L_neg of the feature guide: views must not point where the anomaly lies.

    Mean over levels of 1/2 [max(0, cos(v1, sg n)) + max(0, cos(v2, sg n))], over the
    rows that have an anomaly, each by its weight in `there`, [n] a level.
    """

    def level(v1, v2, n, there):
        n = jax.lax.stop_gradient(n)
        towards = [jax.nn.relu(losses.cosine_similarity(v, n)) for v in (v1, v2)]
        return (0.5 * sum(towards) * there).sum() / jnp.maximum(there.sum(), 1e-6)

    return _mean(level, v1, v2, n, there)


def _shown(logits, mask):
    """Where D sees what is there, [b, H, W]; its false alarms are most of the pixels
    that it calls anomalous, and would make the background a negative."""
    return mask * jax.nn.softmax(logits)[..., 1]


def _alike(options, maps):
    """What two views have in common, [n, c] a level: means [b, c], or every place."""
    if options.positives == "place":
        return [_places(maps[level]) for level in options.levels]
    return [maps[level].mean((1, 2)) for level in options.levels]


def _anomalous(options, maps, seen, mask):
    """Negatives for `_alike`'s rows, [n, c] a level, and the weight of each, [n].

    Args:
      seen: [b, H, W], where an image's features are those of its anomaly.
      mask: [b, H, W]; an image without an anomaly has no negative.
    """
    weights = [
        jax.image.resize(seen, maps[level].shape[:3], "linear", antialias=True)
        for level in options.levels
    ]
    if options.positives == "place":
        return _alike(options, maps), [weight.reshape(-1) for weight in weights]
    there = mask.any((1, 2)).astype(jnp.float32)
    pooled = [
        _pooled_where(maps[level], weight)
        for level, weight in zip(options.levels, weights, strict=True)
    ]
    return pooled, [there] * len(pooled)


def _pooled_where(x, weight):
    """Average pooling of [b, h, w, c] weighted by [b, h, w]: [b, c]."""
    weight = weight[..., None]
    return (weight * x).sum((1, 2)) / jnp.maximum(weight.sum((1, 2)), 1e-6)


def _places(x):
    """[b, h, w, c] -> [b * h * w, c]."""
    return x.reshape(-1, x.shape[-1])


def _views(x, k):
    """The two views' rows of [b * k, ...], of which every example has k."""
    return jnp.concatenate([x[i::k] for i in (0, 1)])


def _part(trains, backbone: Backbone, image_size):
    """Which weights of F stage II changes, a bool for each; None is all."""
    if trains == "all":
        return None
    item = (*image_size, 3)
    shapes = jax.eval_shape(
        backbone.module.init, jax.random.key(0), jnp.zeros((1, *item))
    )
    if trains == "normalisation":
        return parts.normalisations(shapes["params"])
    return parts.between(backbone.module, shapes, item, backbone.taps, LEVELS)


# -----------------------------------------------------------------------------
# What both stages share
# -----------------------------------------------------------------------------


def _generator(options) -> Callable:
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


def _pastes_textures(options) -> bool:
    return options.generator == "perlin" and options.texture == "dtd"


def _weak_views(options) -> Callable:
    """(key, batch) -> two weak views, [b, H, W, 3] each."""
    if options.positives == "place":
        view = functools.partial(views.recoloured, jitter=options.views.jitter)
    else:
        view = functools.partial(views.weak_view, **options.views)
    weaken = jax.vmap(view)
    weaken = jax.vmap(weaken, in_axes=(0, None))

    def apply(key, batch):
        keys = [rng.per_example(rng.at(key, i), batch["index"]) for i in (1, 2)]
        return tuple(weaken(jnp.stack(keys), batch["image"]))

    return apply


def _discriminator(options, backbone: Backbone, image_size) -> decoder.InverseNetwork:
    return decoder.build(backbone.shapes(image_size, LEVELS), **options.decoder)


def _optimiser(fields) -> optax.GradientTransformation:
    return optim.scale_by(
        fields.optimiser, betas=tuple(fields.betas), weight_decay=fields.weight_decay
    )


def _run(backbone: Backbone, variables, images, statistics: str):
    """F's feature maps, and its batch normalisation's statistics after it."""
    if statistics == "frozen":
        maps = backbone.module.apply(variables, images)[1]
        return maps, variables.get("batch_stats")
    (_, maps), moved = backbone.module.apply(
        variables, images, train=True, mutable=["batch_stats"]
    )
    return maps, moved["batch_stats"]


def _levels(maps):
    return [maps[level] for level in LEVELS]


def _watch_guide(logits, mask):
    """Curves: D's mean probability inside and outside masks."""
    p = jax.nn.sigmoid(logits[..., 1] - logits[..., 0])
    inside, outside = (mask * p).sum(), ((1 - mask) * p).sum()
    return {
        "found": inside / jnp.maximum(mask.sum(), 1),
        "false_alarm": outside / jnp.maximum((1 - mask).sum(), 1),
    }


def _sight(logits, mask):
    """Pixel AUROC of D's probability, in 256 steps of it; two pixels within one count
    half, and without a pixel of either class it is 0."""
    p = jax.nn.sigmoid(logits[..., 1] - logits[..., 0])
    steps = jnp.minimum((256 * p).astype(jnp.int32), 255)
    anomalous, normal = (
        jnp.zeros(256, p.dtype).at[steps].add(weight) for weight in (mask, 1 - mask)
    )
    below = jnp.cumsum(normal) - normal / 2
    pairs = anomalous.sum() * normal.sum()
    return (anomalous * below).sum() / jnp.maximum(pairs, 1)


def _count_empty(mask):
    return (~mask.any((1, 2))).sum(dtype=jnp.int32)


def _num_steps(fields, images: int) -> int:
    return max(fields.min_steps, fields.epochs * (images // fields.batch_size))


def _mean(loss, *levels):
    """Mean over levels of `loss(*one of each)`."""
    values = [loss(*one) for one in zip(*levels, strict=True)]
    return sum(values) / len(values)
