"""A linear map on the descriptors of ToCoAD's backbone: two stages, both ours.

The paper's stage II moves F, and folds its descriptors into few directions
(docs/tocoad.md). These leave F alone and learn W; the memory bank is built on x W.

  whitening   normal patches fill all directions alike; what D sees of a patch may be
              one more
  ranking     the loss is the score: normal patches shall lie closer to the normal
              patches of other images than synthetic defects do
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.linalg

from jaxad import losses, optim, rng
from jaxad.methods.base import Params, Stage

_HIGHEST = jax.lax.Precision.HIGHEST

Batch = dict[str, jax.Array]


def project(params: Params, x: jax.Array) -> jax.Array:
    """x W, [..., c] -> [..., c]; x itself where no stage has learnt W yet.

    Channels that x has beyond those of W, D's log-odds for the score, stay as they are.
    """
    if "map" not in params:
        return x
    c = len(params["map"])
    mapped = jnp.matmul(x[..., :c], params["map"])
    return jnp.concatenate([mapped, x[..., c:]], -1) if c < x.shape[-1] else mapped


# -----------------------------------------------------------------------------
# Whitening
# -----------------------------------------------------------------------------


def whitening(options) -> Stage:
    """W from the covariance of normal patches, which one epoch adds up: of all but the
    few, drawn by the seed, that fill no last batch.

    Variances of one and covariances of zero are what VICReg's terms ask for
    (arXiv:2105.04906, section 4.1); for a linear map the answer is known.
    """
    fields = options.whitening

    def init(key, params, item):
        del key, params  # nothing is random, and x is what F gives
        c = item[0] - options.in_score  # D's log-odds are for the score
        return {
            "count": jnp.float32(0),
            "mean": jnp.zeros(c),
            "scatter": jnp.zeros((c, c)),
        }

    def step(state, batch, key):
        del key
        state = merged(state, batch["patches"][:, : len(state["mean"])])
        scatter = state["scatter"]
        squares = jnp.maximum((scatter**2).sum(), jnp.finfo(scatter.dtype).tiny)
        return state, {"rank": jnp.trace(scatter) ** 2 / squares}

    def finish(state, params):
        covariance = state["scatter"] / state["count"]
        whiten = functools.partial(whitener, shrinkage=fields.shrinkage)
        if fields.log_odds:
            return params | {"map": beside(whiten, covariance, share=fields.log_odds)}
        return params | {"map": whiten(covariance)}

    return Stage(
        "whitening",
        "patches",
        fields.batch_size,
        lambda patches: patches // fields.batch_size,
        init,
        step,
        finish,
    )


def merged(state, x: jax.Array):
    """Count, mean [c] and scatter [c, c] of the rows so far and of x [n, c].

    About the mean of each, so that no digits are lost to it (Chan et al., 1979).
    """
    n, count = len(x), state["count"] + len(x)
    mean = x.mean(0)
    centred, apart = x - mean[None], mean - state["mean"]
    within = jnp.matmul(centred.T, centred, precision=_HIGHEST)
    between = state["count"] * n / count * jnp.outer(apart, apart)
    return {
        "count": count,
        "mean": state["mean"] + n / count * apart,
        "scatter": state["scatter"] + within + between,
    }


def whitener(covariance: jax.Array, *, shrinkage: float) -> jax.Array:
    """W = (C / v + s I)^-1/2, symmetric, where v is the mean variance.

    Args:
      covariance: C [c, c].
      shrinkage: s. The smaller, the more alike are the variances of x W in all
        directions; 0 asks for a C of full rank. A large one leaves distances as they
        are but for their unit.
    """
    variance = jnp.trace(covariance) / len(covariance)
    covariance = covariance / jnp.maximum(variance, jnp.finfo(covariance.dtype).tiny)
    values, vectors = jnp.linalg.eigh(covariance)
    scale = jax.lax.rsqrt(jnp.maximum(values, 0.0) + shrinkage)
    return jnp.matmul(vectors * scale[None], vectors.T, precision=_HIGHEST)


def beside(
    whiten: Callable[[jax.Array], jax.Array], covariance: jax.Array, *, share: float
) -> jax.Array:
    """W with a channel of its own for D's log-odds, the last one of C [c + 1, c + 1].

    Of x W it has `share` times the variance of all others together, and normal patches
    are told by both. A bank so has D's false alarms, which are then none.
    """
    others = covariance[:-1, :-1]
    kernel = whiten(others)
    variance = (kernel * jnp.matmul(others, kernel, precision=_HIGHEST)).sum()
    own = jnp.maximum(covariance[-1, -1], jnp.finfo(covariance.dtype).tiny)
    return jax.scipy.linalg.block_diag(kernel, jnp.sqrt(share * variance / own))


# -----------------------------------------------------------------------------
# Ranking
# -----------------------------------------------------------------------------


def ranking(
    options,
    features: Callable[[Params, jax.Array], jax.Array],
    normalise: Callable[[jax.Array], jax.Array],
    generate: Callable[[jax.Array, Batch], tuple[jax.Array, jax.Array]],
    *,
    textures: bool,
) -> Stage:
    """W by gradient, on how far patches lie from the normal ones of other images.

    In a batch every image is the memory bank of the others: s is a patch's distance to
    the nearest of their patches. L = mean over pairs of a normal patch and one of a
    defect of softplus((log s_normal - log s_defect) / temperature).

    Args:
      options: `config.method`.
      features, normalise: of the method and its backbone.
      generate: G.
      textures: whether G pastes pictures of the texture source.
    """
    fields = options.ranking
    optimiser = optim.scale_by("adam", betas=(0.9, 0.999), weight_decay=0.0)

    def init(key, params, item):
        del key
        c = jax.eval_shape(features, params, jnp.zeros((1, *item))).shape[-1]
        start = params["map"] if "map" in params else jnp.eye(c)
        # What is learnt begins as the identity behind it: a step then is as large
        # whatever the unit of the descriptors.
        change = jnp.eye(c)
        return {
            "start": start,
            "change": change,
            "optimiser": optimiser.init(change),
            "frozen": {k: v for k, v in params.items() if k != "map"},
        }

    def step(state, batch, key):
        defects, mask = generate(key, batch)
        frozen = state["frozen"]
        maps = [features(frozen, normalise(x)) for x in (batch["image"], defects)]
        inside = jax.image.resize(mask, maps[0].shape[:3], "linear", antialias=True)
        normal, anomalous, inside = (
            x.reshape(len(x), -1, *x.shape[3:]) for x in (*maps, inside)
        )
        # Some places for the pairs, the same of all images, and some for the banks.
        pairs, banks = (
            jax.random.permutation(rng.at(key, i), inside.shape[1])[: fields.patches]
            for i in (1, 2)
        )
        patches = [normal[:, pairs], anomalous[:, pairs], normal[:, banks]]
        patches = [jnp.matmul(x, state["start"]) for x in patches]

        def loss_of(change):
            *both, bank = (jnp.matmul(x, change) for x in patches)
            scores = [log_distance(x, bank).ravel() for x in both]
            weight = inside[:, pairs].ravel()
            return losses.ranking_loss(*scores, weight, temperature=fields.temperature)

        loss, grads = jax.value_and_grad(loss_of)(state["change"])
        updates, moments = optimiser.update(grads, state["optimiser"], state["change"])
        rate = fields.learning_rate * optim.cosine(batch["progress"])
        change = state["change"] - rate * updates
        return state | {"change": change, "optimiser": moments}, {"loss": loss}

    def finish(state, params):
        return params | {"map": jnp.matmul(state["start"], state["change"])}

    return Stage(
        "ranking",
        "images",
        fields.batch_size,
        lambda images: fields.steps,
        init,
        step,
        finish,
        textures=textures,
    )


def log_distance(x: jax.Array, bank: jax.Array) -> jax.Array:
    """Log of the distance to the nearest patch of another image, [b, n].

    Args:
      x: patches of the images of a batch, [b, n, c].
      bank: normal patches of the same images, [b, m, c]; those of a patch's own image
        do not count. b is 2 or more.
    """
    b, n, c = x.shape
    flat, rows = x.reshape(-1, c), bank.reshape(-1, c)
    squared = _lengths(flat)[:, None] + _lengths(rows)[None]
    squared -= 2 * jnp.matmul(flat, rows.T)
    image = jnp.arange(b)
    own = jnp.repeat(image, n)[:, None] == jnp.repeat(image, bank.shape[1])[None]
    nearest = jax.lax.stop_gradient(jnp.where(own, jnp.inf, squared)).argmin(1)
    # Of the nearest alone, and without the cancellation of the products.
    exact = _lengths(flat - rows[nearest])
    return 0.5 * jnp.log(jnp.maximum(exact, 1e-12)).reshape(b, n)


def _lengths(x: jax.Array) -> jax.Array:
    return (x**2).sum(-1)
