"""ToCoAD's stage II: negative-guided contrastive learning (NCL)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxad import losses, models, optim, rng
from jaxad.augment import views
from jaxad.methods import tocoad_parts
from jaxad.methods.base import Backbone, Stage
from jaxad.methods.tocoad_fields import LEVELS, sees, weight_of_guide
from jaxad.models import heads, parts


def stage(options, backbone: Backbone, describe: Callable, image_size) -> Stage:
    """F contracts normal views and keeps anomalies apart; D is frozen.

    L_II = L_con + lambda_neg L_neg, and what holds F's descriptors (ours): an anchor
    where they were before, VICReg's terms. BatchNorm in F keeps its statistics, unless
    the config says otherwise, and learns its scale and shift.
    """
    backbone.shapes(image_size, options.levels)  # which refuses what there is not
    weight = weight_of_guide(options)
    guided = weight > 0
    discriminator = None
    if guided:
        discriminator = tocoad_parts.discriminator(options, backbone, image_size)
    generate, weaken = tocoad_parts.generator(options), _weak_views(options)
    siamese = heads.SimSiamHeads(levels=len(options.levels), **options.heads)
    fields, optimiser = options.ncl, tocoad_parts.optimiser(options.ncl)
    held = fields.anchor > 0 or fields.vicreg > 0
    slow = fields.target if options.contrastive == "simsiam" else 0.0
    part = _part(fields.trains, backbone, image_size)

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
        every, moved = tocoad_parts.run(backbone, variables, stacked, fields.statistics)
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
            before, _ = tocoad_parts.run(backbone, frozen["anchor"], stacked, "frozen")
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
            frozen["discriminator"],
            tocoad_parts.levels(maps),
            image_size,
            mutable="intermediates",
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
        metrics |= {"guide": push, "loss": loss} | tocoad_parts.watch_guide(
            logits, mask
        )
        if options.sight:
            metrics["sight"] = _sight(logits, mask)
        return loss, (metrics, moved)

    def aimed_at(target, statistics, images):
        """Projections of the two views by the slow copy."""
        stacked = backbone.normalise(_interleave([images["view1"], images["view2"]]))
        variables = {"params": target["backbone"], "batch_stats": statistics}
        maps = _separate(tocoad_parts.run(backbone, variables, stacked, "frozen")[0], 2)
        project = functools.partial(
            siamese.apply, {"params": target["heads"]}, method=siamese.project
        )
        return [project(_alike(options, view)) for view in maps]

    def step(state, batch, key):
        images = dict(zip(("view1", "view2"), weaken(key, batch), strict=True))
        mask, empty = None, state["empty_masks"]
        if guided:
            images["defect"], mask = generate(key, batch)
            empty += tocoad_parts.count_empty(mask)
        frozen = {name: state[name] for name in ("target", "discriminator", "anchor")}
        grads, (metrics, statistics) = jax.grad(loss_of, has_aux=True)(
            state["learnt"], state["statistics"], frozen, images, mask
        )
        before, target = state["learnt"], state["target"]
        updates, moments = optimiser.update(grads, state["optimiser"], before)
        rates = _rates(fields, batch["progress"])
        learnt = {
            name: jax.tree.map(
                lambda p, u, rate=rate: p - rate * u, before[name], updates[name]
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
        functools.partial(tocoad_parts.num_steps, fields),
        init,
        step,
        finish,
        textures=guided and tocoad_parts.pastes_textures(options),
        tunes=True,
        stop=stop,
    )


def _rates(fields, progress):
    """The learning rates of F, which waits for heads that learn first, and of these."""
    first = fields.heads_first
    own = jnp.maximum(progress - first, 0.0) / (1.0 - first)
    fall = optim.cosine(own) if fields.schedule == "cosine" else 1.0
    goes = (progress >= first).astype(jnp.float32)
    return {
        "backbone": goes * fall * fields.backbone_learning_rate,
        "heads": (1.0 if first else fall) * fields.heads_learning_rate,
    }


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


def _mean(loss, *levels):
    """Mean over levels of `loss(*one of each)`."""
    values = [loss(*one) for one in zip(*levels, strict=True)]
    return sum(values) / len(values)
