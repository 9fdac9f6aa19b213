"""ReConPatch: contrastive patch representation learning.

A linear map f is trained on the patch features of a frozen backbone, so that patches
that are alike come close and others move apart. How alike two patches are is not
labelled: slow copies of f and of a projection g tell it, from the distances of a batch
and from the neighbourhoods in it. The memory bank is then built on f's output.

References:
  Hyun et al., ReConPatch: Contrastive Patch Representation Learning for Industrial
  Anomaly Detection, WACV 2024 (arXiv:2305.16713).
"""

import jax
import jax.numpy as jnp
import optax

from jaxad import losses, optim, patches
from jaxad.methods.base import Backbone, Method, Stage
from jaxad.methods.reconpatch_fields import check
from jaxad.methods.reconpatch_fields import fields as fields


def build(config, backbone: Backbone) -> Method:
    """f on PatchCore's descriptors, learnt in one stage.

    Raises:
      InputError: a field that cannot work.
    """
    options = config.method
    check(config)
    describe = patches.descriptor(config.patches)

    def features(params, images):
        return describe(backbone.levels(params["backbone"], images))

    def project(params, x):
        f = params["f"]
        projected = jnp.matmul(x, f["kernel"])
        if "bias" in f:  # detectors of an earlier version have one, and so their banks
            projected += jnp.broadcast_to(f["bias"], projected.shape)
        return projected

    return Method(features, project, lambda: (_stage(options),))


def _stage(options) -> Stage:
    optimiser = optim.scale_by_adamp(weight_decay=options.weight_decay)

    def init(key, params, item):
        key_f, key_g = jax.random.split(key)
        student = {
            "f": _orthogonal(key_f, *item, options.dim),
            "g": _orthogonal(key_g, options.dim, options.projection_dim),
        }
        return {
            "student": student,
            "teacher": jax.tree.map(jnp.copy, student),
            "optimiser": optimiser.init(student),
        }

    def step(state, batch, key):
        del key  # nothing is random but the order of the patches
        x, student, teacher = batch["patches"], state["student"], state["teacher"]
        w = soft_labels(options, embed(teacher, x))

        def loss_of(student):
            z = embed(student, x)
            return losses.relaxed_contrastive_loss(z, w, margin=options.margin), z

        (loss, z), grads = jax.value_and_grad(loss_of, has_aux=True)(student)
        direction, memory = optimiser.update(grads, state["optimiser"], student)
        rate = options.learning_rate * optim.cosine(batch["progress"])
        student = jax.tree.map(lambda p, d: p - rate * d, student, direction)
        # Eq. 8.
        teacher = optax.incremental_update(student, teacher, 1.0 - options.ema)
        state = {"student": student, "teacher": teacher, "optimiser": memory}
        return state, {"loss": loss, "mean_weight": w.mean(), **collapse(z)}

    def finish(state, params):
        # g and the slow copies have done their work (section 3.2).
        return {**params, "f": state["student"]["f"]}

    def num_steps(patches):
        return options.epochs * (patches // options.batch_size)

    return Stage(
        "reconpatch",
        "patches",
        options.batch_size,
        num_steps,
        init,
        step,
        finish,
        together=options.vectorize,
    )


def embed(networks, x: jax.Array) -> jax.Array:
    """g(f(x)): [n, c] -> [n, projection_dim].

    Both are linear, so their product comes first: a batch then passes through one
    narrow map in place of a wide and a narrow one.
    """
    f, g = networks["f"]["kernel"], networks["g"]["kernel"]
    return jnp.matmul(x, jnp.matmul(f, g))


def soft_labels(options, z: jax.Array) -> jax.Array:
    """w = alpha w_pairwise + (1 - alpha) w_contextual of slow embeddings, [n, n].

    The mix that eq. 7 is weighted by; `normalise` puts the embeddings on the unit
    sphere first, where sigma has a meaning of its own.
    """
    if options.normalise:
        z = z / jnp.maximum(jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-12)
    pairwise = losses.pairwise_similarity(z, sigma=options.sigma)
    contextual = losses.contextual_similarity(z, k=options.k)
    return options.alpha * pairwise + (1.0 - options.alpha) * contextual


def collapse(z: jax.Array) -> dict[str, jax.Array]:
    """What falls when embeddings [n, d] collapse to a point, or into few dimensions.

    Returns:
      `z_variance`: over the batch, mean of the dimensions. `z_rank`: effective rank,
      the participation ratio (sum l)^2 / sum l^2 of the covariance's eigenvalues l;
      from 1 to d.
    """
    z = z - z.mean(0, keepdims=True)
    covariance = jnp.matmul(z.T, z, precision=jax.lax.Precision.HIGHEST) / len(z)
    total, squares = jnp.trace(covariance), (covariance**2).sum()
    rank = total**2 / jnp.maximum(squares, jnp.finfo(z.dtype).tiny)
    return {"z_variance": total / z.shape[1], "z_rank": rank}


def _orthogonal(key: jax.Array, inputs: int, outputs: int):
    """A linear map that starts as a random (semi-)orthogonal one (ours).

    Without a bias: the loss does not see one, so its gradient would be rounding noise,
    of which AdamP makes steps of full size; and slow embeddings of unit length would
    see those.
    """
    return {"kernel": jax.nn.initializers.orthogonal()(key, (inputs, outputs))}
