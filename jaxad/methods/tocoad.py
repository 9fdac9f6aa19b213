"""ToCoAD: two-stage contrastive learning for industrial anomaly detection.

Stage I (DNP) teaches a discriminative network D to find synthetic anomalies in the
features of a frozen backbone F. Stage II (NCL) fine-tunes F by contrastive learning on
normal images, while the frozen D keeps watch that anomalies stay visible. The memory
bank is then built on the fine-tuned F. Stage II is in `tocoad_contrast`. Two stages
that are not the paper's, whitening and ranking, are in `tocoad_map`; with the first, D
may have a say in the descriptors, and in every row of an ablation in the score.

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

from jaxad import fields as fields_lib
from jaxad import losses, models, patches
from jaxad.methods import tocoad_contrast, tocoad_map, tocoad_parts
from jaxad.methods.base import Backbone, Method, Stage, identity
from jaxad.methods.tocoad_fields import FIELDS, STAGES, check, in_map, sees
from jaxad.methods.tocoad_fields import fields as fields


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
        "ncl": lambda: tocoad_contrast.stage(options, backbone, describe, size),
        "whitening": lambda: tocoad_map.whitening(options),
        "ranking": lambda: tocoad_map.ranking(
            options,
            mapped,
            backbone.normalise,
            tocoad_parts.generator(options),
            textures=tocoad_parts.pastes_textures(options),
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
    discriminator = tocoad_parts.discriminator(options, backbone, size)

    def features(params, images):
        maps = backbone.module.apply(params["backbone"], images)[1]
        described = describe([maps[tap] for tap in backbone.taps])
        logits = discriminator.apply(
            params["discriminator"], tocoad_parts.levels(maps), size
        )
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
    discriminator = tocoad_parts.discriminator(options, backbone, image_size)
    generate, fields = tocoad_parts.generator(options), options.dnp
    optimiser = tocoad_parts.optimiser(fields)

    def init(key, params, item):
        frozen = params["backbone"]
        if fields.statistics == "frozen":
            frozen = models.fold(backbone.module, frozen)
        maps = backbone.module.apply(frozen, jnp.zeros((1, *item)))[1]
        variables = discriminator.init(key, tocoad_parts.levels(maps), image_size)
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
        maps, _ = tocoad_parts.run(backbone, state["frozen"], x_s, fields.statistics)
        params, statistics = (
            state["discriminator"][name] for name in ("params", "batch_stats")
        )
        (loss, (statistics, logits)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            params, statistics, tocoad_parts.levels(maps), mask
        )
        rate = _dropped(fields, batch["progress"])
        updates, optimiser_state = optimiser.update(grads, state["optimiser"], params)
        params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
        state = {
            "discriminator": {"params": params, "batch_stats": statistics},
            "optimiser": optimiser_state,
            "frozen": state["frozen"],
            "empty_masks": state["empty_masks"] + tocoad_parts.count_empty(mask),
        }
        curves = {"loss": loss, "empty_masks": state["empty_masks"]}
        return state, curves | tocoad_parts.watch_guide(logits, mask)

    def finish(state, params):
        return params | {"discriminator": state["discriminator"]}

    return Stage(
        "dnp",
        "images",
        fields.batch_size,
        functools.partial(tocoad_parts.num_steps, fields),
        init,
        step,
        finish,
        textures=tocoad_parts.pastes_textures(options),
        fields=("generator", "texture", "grey", "perlin", "cutpaste", "nsa")
        + ("decoder", "focal", "dnp"),
    )


def _dropped(fields, progress):
    """The learning rate, `fields.drop` times smaller at each of `fields.drop_at`."""
    drops = sum((progress >= share).astype(jnp.float32) for share in fields.drop_at)
    return fields.learning_rate * fields.drop**drops
