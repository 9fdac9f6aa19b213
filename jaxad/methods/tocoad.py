"""ToCoAD: two-stage contrastive learning for industrial anomaly detection.

Stage I (DNP) teaches a discriminative network D to find synthetic anomalies in the
features of a frozen backbone F. Stage II (NCL) fine-tunes F by contrastive learning on
normal images, while the frozen D keeps watch that anomalies stay visible. The memory
bank is then built on the fine-tuned F.

The paper's modules, losses and best settings are known; its layouts, optimisers and
schedules are a reconstruction. `fields` says which is which.

References:
  Liang et al., ToCoAD: Two-Stage Contrastive Learning for Industrial Anomaly Detection,
  IEEE TIM 2025 (arXiv:2407.01312).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import traverse_util

from jaxad import config as config_lib
from jaxad import losses, models, optim, patches, rng
from jaxad.augment import anomalies, views
from jaxad.errors import InputError
from jaxad.methods.base import Backbone, Method, Stage, identity
from jaxad.models import decoder, heads

STAGES = ("dnp", "ncl")
GENERATORS = ("perlin", "cutpaste", "cutpaste_patch", "cutpaste_scar", "nsa")
TEXTURES = ("auto", "dtd", "images", "noise")
STATISTICS = ("frozen", "batch")
SCHEDULES = ("cosine", "constant")
CONTRASTIVE = ("simsiam", "ntxent")
GUIDES = ("gradient", "feature")
# F's feature maps, shallowest first, under the names that every backbone knows.
LEVELS = ("layer1", "layer2", "layer3", "layer4")


def fields() -> ml_collections.ConfigDict:
    """`config.method` with its defaults; (ours) marks what no source of it says."""
    return ml_collections.ConfigDict(
        dict(
            name="tocoad",
            # Both; "ncl" alone needs lambda_neg = 0; none is PatchCore.
            stages=STAGES,
            # ---- Anomaly generator G
            # "perlin" is the paper's best; the others are compared with it. Their
            # constants (ours) are those of each generator's own code, and explained
            # in jaxad.augment.
            generator="perlin",
            # What "perlin" pastes (DRAEM's "dtd"): pictures of the texture source, see
            # config.dataset.textures; other training "images"; its "noise"; "auto" is
            # the first of these that is there.
            texture="auto",
            perlin=dict(
                lattices=6,
                rotation=90.0,
                threshold=0.5,
                # Changes of a texture, and the bounds of each.
                vary=dict(
                    changes=3,
                    gamma=(0.5, 2.0),
                    gain=(0.8, 1.2),
                    offset=(-30.0, 30.0),
                    sharpness=(0.0, 3.0),
                    hue=(-50.0, 50.0),
                    saturation=(-50.0, 50.0),
                    solarise=(32.0, 128.0),
                    bits=(1, 8),
                    cutoff=(0.0, 0.2),
                    rotation=45.0,
                ),
                max_blend=0.8,
                unchanged=0.5,
                rotate_image=0.0,
            ),
            cutpaste=dict(
                jitter=0.1,
                patch=dict(area=(0.02, 0.15), aspect=(0.3, 1 / 0.3)),
                scar=dict(width=(2.0, 16.0), height=(10.0, 25.0), rotation=45.0),
            ),
            nsa=dict(
                half_height=(0.03, 0.4),
                half_width=(0.03, 0.4),
                half_offset=0.03,
                half_scale=0.05,
                resize=(0.7, 1.3),
                resize_deviation=0.5,
                patches=3,
                further=0.5,
                visible=1.0,
                median=5,
                # Brightness and tolerance of a background, (200, 60) or (20, 20) for
                # eight objects of MVTec AD; () is none. See augment.nsa.
                background=(),
                object_median=7,
                min_object=0.7,
                min_overlap=0.25,
            ),
            # ---- Discriminative network D and its loss
            # Residual blocks a stage, "none" or "unet" skip connections, channels of
            # its head (ours).
            decoder=dict(depths=(3, 4, 6), skip="none", head_width=64),
            # The paper's best cell. gamma = 0 is half the cross-entropy.
            focal=dict(alpha=0.5, gamma=2.0),
            # ---- Stage I (all ours)
            dnp=dict(
                batch_size=16,
                epochs=100,
                min_steps=2000,
                # One of jaxad.optim.RULES.
                optimiser="adam",
                betas=(0.9, 0.999),
                weight_decay=0.0,
                # Times `drop` at these shares of the steps, as DRAEM does.
                learning_rate=1e-4,
                drop=0.2,
                drop_at=(0.8, 0.9),
                # F's batch normalisation: "frozen" or of the "batch".
                statistics="frozen",
            ),
            # ---- Stage II
            # Levels of the contrastive loss. The paper's best is "3 and 4", read as
            # these two (ours); the other reading is layer2 and layer3.
            levels=("layer3", "layer4"),
            # "simsiam" is the paper's; "ntxent" contrasts with the batch's images, at
            # a temperature (ours).
            contrastive="simsiam",
            temperature=0.5,
            # How the frozen D guides (ours): "gradient", its loss on synthetic
            # anomalies flows into F; "feature", views are pushed from what it shows.
            guide="gradient",
            # Weight of the guide (ours); 0 is stage II without a guide. The focal loss
            # is small beside the contrastive one: at 1 it hardly guides (docs/tocoad.md
            # has the measurements). For "feature", a cosine, 1 is a start.
            lambda_neg=100.0,
            # Widths are SimSiam's; "batch" or "layer" normalisation (ours).
            heads=dict(width=2048, bottleneck=512, norm="batch"),
            # Weak views of a normal image (ours): a crop's share of the area and width
            # over height, colours; flip only what is symmetric.
            views=dict(scale=(0.8, 1.0), ratio=(3 / 4, 4 / 3), jitter=0.1, flip=False),
            # All ours.
            ncl=dict(
                batch_size=32,
                epochs=20,
                min_steps=500,
                optimiser="adam",
                betas=(0.9, 0.999),
                weight_decay=1e-5,
                backbone_learning_rate=1e-5,
                heads_learning_rate=1e-4,
                # "cosine" to 0, or "constant".
                schedule="cosine",
                # F's batch normalisation: "frozen", which protects features where
                # images are few; or of the "batch", views and defects together.
                statistics="frozen",
            ),
        )
    )


def runlocal(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks a run to seconds: few small images, few steps, the same code paths."""
    config = config_lib.runlocal(config)
    config.dataset.image_size = (64, 64)
    config.backbone.name = "efficientnet_lite0"
    config.backbone.taps = ()
    config.method.decoder.depths = (1, 1, 1)
    config.method.heads.update(width=32, bottleneck=8)
    for stage in (config.method.dnp, config.method.ncl):
        stage.update(batch_size=4, epochs=0, min_steps=3)
    return config


def complete(options, *, textures: Callable[[], object]) -> None:
    """Settles what `texture="auto"` is.

    Args:
      options: `config.method`.
      textures: gives the texture source, None where there is none.
    """
    if options.texture == "auto":
        alone = min(options.dnp.batch_size, options.ncl.batch_size) < 2
        there = options.generator == "perlin" and textures() is not None
        options.texture = "dtd" if there else "noise" if alone else "images"


def pasted(options) -> str | None:
    """What G pastes, None where no stage draws from it.

    Args:
      options: `config.method`, completed.

    Returns:
      "dtd", "images", "noise" or, of the image that it changes, "itself".
    """
    if "dnp" not in options.stages:
        return None
    if options.generator == "perlin":
        return options.texture
    return "images" if options.generator == "nsa" else "itself"


def build(config, backbone: Backbone) -> Method:
    """The stages that `config.method.stages` names, and PatchCore's descriptors.

    Raises:
      InputError: a field that cannot work, or levels that the backbone does not have.
    """
    options = config.method
    _check(options)
    make = {"dnp": _discriminative_pretraining, "ncl": _negative_guided_contrast}
    describe = patches.descriptor(config.patches)

    def features(params, images):
        return describe(backbone.levels(params["backbone"], images))

    stages = tuple(
        make[name](options, backbone, config.dataset.image_size)
        for name in STAGES
        if name in options.stages
    )
    return Method(stages=stages, features=features, project=identity)


# -----------------------------------------------------------------------------
# Stage I: discriminative network pre-training (DNP)
# -----------------------------------------------------------------------------


def _discriminative_pretraining(options, backbone: Backbone, image_size) -> Stage:
    """D learns to find what G put there: L_I = FL(D(F(x_s)), m), F frozen."""
    discriminator = _discriminator(options, backbone, image_size)
    generate, fields = _generator(options), options.dnp
    optimiser = _optimiser(fields)

    def init(key, params):
        frozen = params["backbone"]
        if fields.statistics == "frozen":
            frozen = models.fold(backbone.module, frozen)
        image = jnp.zeros((1, *image_size, 3))
        maps = _levels(backbone.module.apply(frozen, image)[1])
        variables = discriminator.init(key, maps, image_size)
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
        name="dnp",
        inputs="images",
        textures=_pastes_textures(options),
        batch_size=options.dnp.batch_size,
        num_steps=functools.partial(_num_steps, options.dnp),
        init=init,
        step=step,
        finish=finish,
        fields=(
            "generator",
            "texture",
            "perlin",
            "cutpaste",
            "nsa",
            "decoder",
            "focal",
            "dnp",
        ),
    )


def _dropped(fields, progress):
    """The learning rate, `fields.drop` times smaller at each of `fields.drop_at`."""
    drops = sum((progress >= share).astype(jnp.float32) for share in fields.drop_at)
    return fields.learning_rate * fields.drop**drops


# -----------------------------------------------------------------------------
# Stage II: negative-guided contrastive learning (NCL)
# -----------------------------------------------------------------------------


def _negative_guided_contrast(options, backbone: Backbone, image_size) -> Stage:
    """F contracts normal views and keeps anomalies apart; D is frozen.

    L_II = L_con + lambda_neg L_neg. BatchNorm in F keeps its statistics, unless the
    config says otherwise, and learns its scale and shift.
    """
    _check_levels(options, backbone, image_size)
    guided = options.lambda_neg > 0
    discriminator = _discriminator(options, backbone, image_size) if guided else None
    generate, weaken = _generator(options), _weak_views(options)
    siamese = heads.SimSiamHeads(levels=len(options.levels), **options.heads)
    fields, optimiser = options.ncl, _optimiser(options.ncl)
    rates = {
        "backbone": fields.backbone_learning_rate,
        "heads": fields.heads_learning_rate,
    }

    def init(key, params):
        variables = params["backbone"]
        maps = backbone.module.apply(variables, jnp.zeros((2, *image_size, 3)))[1]
        learnt = {
            "backbone": variables["params"],
            "heads": siamese.init(key, _pooled(maps, options.levels))["params"],
        }
        return {
            "learnt": learnt,
            "statistics": variables["batch_stats"],
            "optimiser": optimiser.init(learnt),
            "discriminator": params["discriminator"] if guided else {},
            "empty_masks": jnp.int32(0),
        }

    def loss_of(learnt, statistics, discriminator_variables, images, mask):
        variables = {"params": learnt["backbone"], "batch_stats": statistics}

        def embed(pooled):
            return siamese.apply({"params": learnt["heads"]}, pooled)

        def project(pooled):
            return siamese.apply(
                {"params": learnt["heads"]}, pooled, method=siamese.project
            )

        # One pass for all: the program is a third as long to compile.
        stacked = backbone.normalise(_interleave(list(images.values())))
        maps, statistics = _run(backbone, variables, stacked, fields.statistics)
        maps = dict(zip(images, _separate(maps, len(images)), strict=True))
        pooled = _pooled(maps["view1"], options.levels)
        z1, p1 = embed(pooled)
        z2, p2 = embed(_pooled(maps["view2"], options.levels))
        pull = _contrast(options, p1, p2, z1, z2)
        metrics = {"contrastive": pull, "spread": _mean(heads.collapse, z1)}
        for level, x in zip(options.levels, pooled, strict=True):
            metrics[f"rank_{level}"] = heads.participation_ratio(x)
        if not guided:
            return pull, (metrics | {"loss": pull}, statistics)

        maps = maps["defect"]
        logits = discriminator.apply(discriminator_variables, _levels(maps), image_size)
        if options.guide == "gradient":
            # D's weights stand still; its gradient reaches F through the features.
            push = losses.focal_loss(logits, mask, **options.focal)
        else:
            shown = jax.nn.softmax(logits)[..., 1]
            n = project(_pooled_where(maps, options.levels, shown))
            push = _repel(p1, p2, n, there=mask.any((1, 2)))
        loss = pull + options.lambda_neg * push
        metrics |= {"guide": push, "loss": loss} | _watch_guide(logits, mask)
        return loss, (metrics, statistics)

    def step(state, batch, key):
        images = dict(zip(("view1", "view2"), weaken(key, batch), strict=True))
        mask, empty = None, state["empty_masks"]
        if guided:
            images["defect"], mask = generate(key, batch)
            empty += _count_empty(mask)
        grads, (metrics, statistics) = jax.grad(loss_of, has_aux=True)(
            state["learnt"], state["statistics"], state["discriminator"], images, mask
        )
        updates, optimiser_state = optimiser.update(
            grads, state["optimiser"], state["learnt"]
        )
        fall = optim.cosine(batch["progress"]) if fields.schedule == "cosine" else 1.0
        learnt = {
            part: jax.tree.map(
                lambda p, u, rate=rate: p - rate * fall * u,
                state["learnt"][part],
                updates[part],
            )
            for part, rate in rates.items()
        }
        if guided:
            metrics["empty_masks"] = empty
        state = state | {"learnt": learnt, "statistics": statistics}
        return state | {"optimiser": optimiser_state, "empty_masks": empty}, metrics

    def finish(state, params):
        """Hands on F alone: D and the heads have done their work."""
        tuned = {
            "params": state["learnt"]["backbone"],
            "batch_stats": state["statistics"],
        }
        kept = {k: v for k, v in params.items() if k != "discriminator"}
        return kept | {"backbone": tuned}

    return Stage(
        name="ncl",
        inputs="images",
        textures=guided and _pastes_textures(options),
        tunes=True,
        batch_size=options.ncl.batch_size,
        num_steps=functools.partial(_num_steps, options.ncl),
        init=init,
        step=step,
        finish=finish,
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


def _repel(p1, p2, n, *, there):
    """L_neg of the feature guide: views must not point where the anomaly lies.

    Mean over levels of 1/2 [max(0, cos(p1, sg n)) + max(0, cos(p2, sg n))], over the
    images that have an anomaly (`there`, bool [b]).
    """

    def level(p1, p2, n):
        n = jax.lax.stop_gradient(n)
        towards = [jax.nn.relu(losses.cosine_similarity(p, n)) for p in (p1, p2)]
        return (0.5 * sum(towards) * there).sum() / jnp.maximum(there.sum(), 1)

    return _mean(level, p1, p2, n)


def _pooled(maps, levels):
    """Global average pooling: [b, h, w, c] -> [b, c] a level."""
    return [maps[level].mean((1, 2)) for level in levels]


def _pooled_where(maps, levels, weight):
    """Average pooling weighted by [b, H, W], brought to each level's grid."""
    pooled = []
    for level in levels:
        x = maps[level]
        a = jax.image.resize(weight, x.shape[:3], "linear", antialias=True)[..., None]
        pooled.append((a * x).sum((1, 2)) / jnp.maximum(a.sum((1, 2)), 1e-6))
    return pooled


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

    def apply(key, batch):
        keys = rng.per_example(rng.at(key, 0), batch["index"])
        images = batch["image"]
        if name not in ("perlin", "nsa"):
            return jax.vmap(generate)(keys, images)
        if source == "noise":
            return jax.vmap(lambda key, image: generate(key, image, None))(keys, images)
        others = batch["texture"] if source == "dtd" else jnp.roll(images, 1, axis=0)
        return jax.vmap(generate)(keys, images, others)

    return apply


def _pastes_textures(options) -> bool:
    return options.generator == "perlin" and options.texture == "dtd"


def _weak_views(options) -> Callable:
    """(key, batch) -> two weak views, [b, H, W, 3] each."""
    weaken = jax.vmap(functools.partial(views.weak_view, **options.views))
    weaken = jax.vmap(weaken, in_axes=(0, None))

    def apply(key, batch):
        keys = [rng.per_example(rng.at(key, i), batch["index"]) for i in (1, 2)]
        return tuple(weaken(jnp.stack(keys), batch["image"]))

    return apply


def _discriminator(options, backbone: Backbone, image_size) -> decoder.InverseNetwork:
    maps = _shapes(backbone, image_size)
    missing = [level for level in LEVELS if level not in maps]
    if missing:
        raise InputError(
            f"config.backbone.name={backbone.name} has no {', '.join(missing)}, which "
            "ToCoAD's discriminative network inverts; choose a convolutional backbone"
        )
    return decoder.build([maps[level] for level in LEVELS], **options.decoder)


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


def _shapes(backbone: Backbone, image_size):
    """Shapes of all feature maps, without computing any."""

    def run():
        module, image = backbone.module, jnp.zeros((1, *image_size, 3))
        return module.init_with_output(jax.random.key(0), image)[0][1]

    return jax.eval_shape(run)


def _watch_guide(logits, mask):
    """Curves: D's mean probability inside and outside masks."""
    p = jax.nn.sigmoid(logits[..., 1] - logits[..., 0])
    inside, outside = (mask * p).sum(), ((1 - mask) * p).sum()
    return {
        "found": inside / jnp.maximum(mask.sum(), 1),
        "false_alarm": outside / jnp.maximum((1 - mask).sum(), 1),
    }


def _count_empty(mask):
    return (~mask.any((1, 2))).sum(dtype=jnp.int32)


def _num_steps(fields, images: int) -> int:
    return max(fields.min_steps, fields.epochs * (images // fields.batch_size))


def _mean(loss, *levels):
    """Mean over levels of `loss(*one of each)`."""
    values = [loss(*one) for one in zip(*levels, strict=True)]
    return sum(values) / len(values)


# -----------------------------------------------------------------------------
# Checks
# -----------------------------------------------------------------------------


_CHOICES = {
    "generator": GENERATORS,
    "texture": TEXTURES,
    "contrastive": CONTRASTIVE,
    "guide": GUIDES,
    "decoder.skip": decoder.SKIPS,
    "heads.norm": heads.NORMS,
    "dnp.optimiser": optim.RULES,
    "ncl.optimiser": optim.RULES,
    "dnp.statistics": STATISTICS,
    "ncl.statistics": STATISTICS,
    "ncl.schedule": SCHEDULES,
}
_SHARES = (
    "focal.alpha",
    "perlin.max_blend",
    "perlin.unchanged",
    "perlin.rotate_image",
    "nsa.further",
    "nsa.min_object",
    "nsa.min_overlap",
)
_NOT_NEGATIVE = (
    "lambda_neg",
    "focal.gamma",
    "perlin.threshold",
    "cutpaste.jitter",
    "nsa.half_offset",
    "nsa.half_scale",
    "nsa.resize_deviation",
    "nsa.visible",
    "views.jitter",
    "dnp.learning_rate",
    "dnp.weight_decay",
    "ncl.backbone_learning_rate",
    "ncl.heads_learning_rate",
    "ncl.weight_decay",
)
# Where two numbers are a lower and an upper bound.
_WITH_BOUNDS = ("perlin", "cutpaste", "nsa", "views")


def _check(options) -> None:
    def value_of(field):
        value = config_lib.get(options, field)
        return tuple(value) if isinstance(value, (tuple, list)) else value

    def require(field, holds, must_be):
        value = value_of(field)
        config_lib.require(holds(value), f"method.{field}", value, must_be)

    for stage in options.stages:
        config_lib.choose("method.stages", stage, STAGES)
    for field, allowed in _CHOICES.items():
        config_lib.choose(f"method.{field}", value_of(field), allowed)
    for field in _SHARES:
        require(field, lambda x: 0 <= x <= 1, "between 0 and 1")
    for field in _NOT_NEGATIVE:
        require(field, lambda x: x >= 0, "0 or more")
    require("temperature", lambda x: x > 0, "above 0")
    require("perlin.lattices", lambda x: 1 <= x <= 10, "1 to 10")
    require("perlin.vary.changes", lambda x: 0 <= x <= 10, "0 to 10")
    require("nsa.patches", lambda x: x >= 1, "at least 1")
    for field in ("nsa.median", "nsa.object_median"):
        require(field, lambda x: x >= 1 and x % 2 == 1, "odd")
    for field, default in traverse_util.flatten_dict(
        {group: fields()[group].to_dict() for group in _WITH_BOUNDS}, sep="."
    ).items():
        if isinstance(default, tuple) and default:
            require(field, _are_ascending, "a lower and an upper bound")
    require("perlin.vary.bits", lambda x: 1 <= x[0] and x[1] <= 8, "within 1 and 8")
    require(
        "nsa.background",
        lambda x: len(x) in (0, 2) and _are_numbers(x),
        "a brightness and a tolerance, or ()",
    )
    require(
        "decoder.depths",
        lambda x: len(x) == 3 and _are_numbers(x) and min(x) >= 1,
        "three numbers of 1 or more",
    )
    require(
        "dnp.drop_at",
        lambda x: _are_numbers(x) and all(0 < share < 1 for share in x),
        "shares of the steps between 0 and 1",
    )
    for stage in STAGES:
        require(
            f"{stage}.betas",
            lambda x: len(x) == 2 and _are_numbers(x) and 0 <= min(x) <= max(x) < 1,
            "two numbers of 0 or more, below 1",
        )
    pastes = options.generator == "nsa" or (
        options.generator == "perlin" and options.texture in ("auto", "images")
    )
    for stage in options.stages:
        require(
            f"{stage}.batch_size",
            lambda x: x >= 1 + pastes,
            "at least 2: what is pasted comes from another image of the batch"
            if pastes
            else "at least 1",
        )
    if "ncl" in options.stages:
        require(
            "ncl.batch_size",
            lambda x: x >= 2 or options.heads.norm != "batch",
            'at least 2, or method.heads.norm "layer"',
        )
        require(
            "lambda_neg",
            lambda x: "dnp" in options.stages or x == 0,
            '0 where method.stages has no "dnp": nothing has taught the guide',
        )
        require("levels", len, "at least one")
    else:
        require(
            "dnp.statistics",
            lambda x: x == "frozen",
            '"frozen" where method.stages has no "ncl": F is then an inference network',
        )


def _are_ascending(values) -> bool:
    return len(values) == 2 and _are_numbers(values) and values[0] <= values[1]


def _are_numbers(values) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def _check_levels(options, backbone: Backbone, image_size) -> None:
    shapes = _shapes(backbone, image_size)
    known = [level for level in LEVELS if level in shapes]
    if not known:
        raise InputError(
            f"config.backbone.name={backbone.name} has no {', '.join(LEVELS)}, which "
            "ToCoAD fine-tunes; choose a convolutional backbone"
        )
    for level in options.levels:
        if level not in known:
            raise InputError(
                f"config.method.levels: {backbone.name} has no level {level!r}; it has "
                f"{', '.join(known)}"
            )
