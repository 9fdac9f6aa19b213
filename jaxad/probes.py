"""What features are good for before anything is built on them, in one number each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

_QUERIES = 1024  # at a time


def knn_accuracy(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    truth: np.ndarray,
    *,
    k: int = 200,
    temperature: float = 0.1,
) -> float:
    """How often the neighbours of a query vote for its class.

    Each of the k nearest features by cosine votes with exp(cosine / temperature); ties
    go to the lowest class.

    Args:
      bank: features of known pictures, [n, d].
      labels: their classes, int [n].
      queries: features, [m, d].
      truth: their classes, int [m].
      k: neighbours, all n where there are fewer.
      temperature: of the votes.

    Returns:
      Share of the queries.

    References:
      Wu et al., Unsupervised Feature Learning via Non-Parametric Instance
      Discrimination, CVPR 2018 (arXiv:1805.01978), section 3.4.
    """
    bank, queries = _unit(bank), _unit(queries)
    classes, right = int(labels.max()) + 1, 0
    for first in range(0, len(queries), _QUERIES):
        cosine = queries[first : first + _QUERIES] @ bank.T
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        weight = np.exp(np.take_along_axis(cosine, nearest, 1) / temperature)
        votes = np.zeros((len(cosine), classes))
        np.add.at(votes, (np.arange(len(cosine))[:, None], labels[nearest]), weight)
        right += int((votes.argmax(1) == truth[first : first + _QUERIES]).sum())
    return right / len(queries)


def linear_accuracy(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    truth: np.ndarray,
    *,
    decay: float = 1e-3,
    steps: int = 100,
) -> float:
    """How often a linear classifier on standardised features is right.

    Multinomial logistic regression with decay/2 |W|^2, by L-BFGS: no rate to choose and
    no augmentation, so it is not the linear evaluation of the papers, which trains for
    100 epochs on crops.

    Args:
      bank, labels, queries, truth: as `knn_accuracy` takes them.
      decay: of the weights.
      steps: of L-BFGS.

    Returns:
      Share of the queries.
    """
    mean, deviation = bank.mean(0), bank.std(0) + 1e-6
    scaled = [jnp.asarray((x - mean) / deviation) for x in (bank, queries)]
    weights = _fit_linear(
        scaled[0], jnp.asarray(labels), int(labels.max()) + 1, decay, steps
    )
    logits = _logits(weights, scaled[1])
    return float((np.asarray(logits).argmax(1) == truth).mean())


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _fit_linear(x, labels, classes, decay, steps):
    def loss(weights):
        picked = optax.softmax_cross_entropy_with_integer_labels(
            _logits(weights, x), labels
        )
        return picked.mean() + decay / 2 * (weights["kernel"] ** 2).sum()

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(_, carry):
        weights, state = carry
        value, grad = value_and_grad(weights, state=state)
        updates, state = solver.update(
            grad, state, weights, value=value, grad=grad, value_fn=loss
        )
        return optax.apply_updates(weights, updates), state

    zeros = {"kernel": jnp.zeros((x.shape[1], classes)), "bias": jnp.zeros(classes)}
    return jax.lax.fori_loop(0, steps, step, (zeros, solver.init(zeros)))[0]


def _logits(weights, x):
    product = jnp.matmul(x, weights["kernel"], precision=jax.lax.Precision.HIGHEST)
    return product + weights["bias"][None]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
