"""What features are good for before anything is built on them, in one number each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

_QUERIES = 1024  # at a time
_DECAY, _STEPS = 1e-3, 100  # of L-BFGS


def knn_accuracy(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    truth: np.ndarray,
    *,
    k: int | None = None,
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
      k: neighbours, all n where there are fewer. None is 200, or the size of the
        bank's smallest class where that is less: of all n the largest class would win.
      temperature: of the votes.

    Returns:
      Share of the queries.

    References:
      Wu et al., Unsupervised Feature Learning via Non-Parametric Instance
      Discrimination, CVPR 2018 (arXiv:1805.01978), section 3.4.
    """
    bank, queries = _unit(bank), _unit(queries)
    classes, right = int(labels.max()) + 1, 0
    if k is None:
        k = min(200, np.unique(labels, return_counts=True)[1].min())
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
) -> float:
    """How often a linear classifier is right.

    It is a multinomial logistic regression on standardised features, with 0.0005 |W|^2,
    solved: there is no rate to choose.

    Args:
      bank, labels, queries, truth: as `knn_accuracy` takes them.

    Returns:
      Share of the queries.
    """
    classes = int(labels.max()) + 1
    mean, deviation = bank.mean(0), bank.std(0) + 1e-6
    bank, queries = ((x - mean) / deviation for x in (bank, queries))
    weights = _solved(jnp.asarray(bank), jnp.asarray(labels), classes)
    logits = _logits(weights, jnp.asarray(queries))
    return float((np.asarray(logits).argmax(1) == truth).mean())


@functools.partial(jax.jit, static_argnums=2)
def _solved(x, labels, classes):
    def loss(weights):
        decay = _DECAY / 2 * (weights["kernel"] ** 2).sum()
        return _cross_entropy(weights, x, labels) + decay

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
    return jax.lax.fori_loop(0, _STEPS, step, (zeros, solver.init(zeros)))[0]


def _cross_entropy(weights, x, labels):
    logits = _logits(weights, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _logits(weights, x):
    product = jnp.matmul(x, weights["kernel"], precision=jax.lax.Precision.HIGHEST)
    return product + weights["bias"][None]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
