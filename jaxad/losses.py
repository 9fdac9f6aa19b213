"""Losses and similarities: one function an equation."""

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST

# ---- ReConPatch (Hyun et al., WACV 2024, arXiv:2305.16713)


def pairwise_similarity(z: jax.Array, *, sigma: float) -> jax.Array:
    """Gaussian similarity of all pairs (ReConPatch, eq. 1).

    w_ij = exp(-||z_i - z_j||^2 / sigma)

    Args:
      z: embeddings, [n, d].
      sigma: bandwidth, in squared units of z.

    Returns:
      [n, n] in [0, 1], ones on the diagonal.
    """
    return jnp.exp(-_squared_distances(z) / sigma)


def contextual_similarity(z: jax.Array, *, k: int) -> jax.Array:
    """How far two points share their neighbours (ReConPatch, eq. 2 to 6).

    N_k(i) holds every j no farther from i than i's k-th nearest point, i itself being
    the first; R_k(i) holds the j in N_k(i) that have i in N_k(j).

      w~_ij = |N_k(i) & N_k(j)| / |N_k(i)|  if j in N_k(i), else 0     (eq. 3)
      w^_ij = mean of w~_lj over l in R_{k/2}(i)                       (eq. 5)
      w_ij  = (w^_ij + w^_ji) / 2                                      (eq. 6)

    Ties at the k-th distance all count, so N_k(i) can be larger than k. k/2 is rounded
    down, and is at least 1. No gradient flows through.

    Args:
      z: embeddings, [n, d].
      k: neighbours, the point itself included; 1 <= k < n.

    Returns:
      [n, n] in [0, 1], symmetric.
    """
    # Under vmap the condition must stay one: a select would run both branches.
    expanded = jax.custom_batching.sequential_vmap(lambda z: _expanded(z, k))
    w = expanded(jax.lax.stop_gradient(z))
    return (w + w.T) / 2


def relaxed_contrastive_loss(
    z: jax.Array, w: jax.Array, *, margin: float = 1.0
) -> jax.Array:
    """Pulls pairs together by w, and pushes them apart by 1 - w (ReConPatch, eq. 7).

    delta_ij = ||z_i - z_j|| / (mean over n of ||z_i - z_n||)
    L = (1/N) sum_ij [w_ij delta_ij^2 + (1 - w_ij) max(margin - delta_ij, 0)^2]

    Args:
      z: embeddings, [n, d].
      w: soft labels in [0, 1], [n, n].
      margin: in units of a point's mean distance.

    Returns:
      Scalar. Its gradient is finite wherever z is: two equal points do not pull at
      each other.
    """
    squared = _squared_distances(z)
    apart = squared > 0
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
    mean = distance.mean(1, keepdims=True)
    delta = distance / jnp.maximum(mean, jnp.finfo(z.dtype).tiny)
    pull = w * delta**2
    push = (1.0 - w) * jnp.maximum(margin - delta, 0.0) ** 2
    return (pull + push).sum() / len(z)


def _squared_distances(z: jax.Array) -> jax.Array:
    """||z_i - z_j||^2, [n, n]; what rounding cannot tell from zero is zero.

    About the mean, or an offset that all share would cost digits; no distance, and no
    gradient, depends on it.
    """
    products = _gram(z - jax.lax.stop_gradient(z.mean(0, keepdims=True)))
    squares = jnp.diagonal(products)
    scale = squares[:, None] + squares[None, :]
    squared = scale - 2.0 * products
    return jnp.where(squared > 4 * jnp.finfo(z.dtype).eps * scale, squared, 0.0)


@jax.custom_vjp
def _gram(z: jax.Array) -> jax.Array:
    """z z^T, [n, n]; backwards one product, where without symmetry there are two."""
    return jnp.matmul(z, z.T, precision=_HIGHEST)


_gram.defvjp(
    lambda z: (_gram(z), z),
    lambda z, c: (jnp.matmul(c + c.T, z, precision=_HIGHEST),),
)


def _expanded(z: jax.Array, k: int) -> jax.Array:
    """w^ (eq. 5), [n, n]: from neighbour lists, or from sets where there are ties."""
    squared = _squared_distances(z)
    half = max(k // 2, 1)
    nearest, lists = jax.lax.top_k(-squared, k + 1)
    tied = (nearest[:, [k - 1, half - 1]] == nearest[:, [k, half]]).any()
    return jax.lax.cond(
        tied,
        lambda: _expand_sets(squared, -nearest, k, half),
        lambda: _expand_lists(lists, k, half).astype(z.dtype),
    )


def _expand_sets(squared, nearest, k, half):
    """Eq. 2 to 5 as matrices of 0 and 1; sets of any size, at the cost of n^3."""

    def within(k):
        return (squared <= nearest[:, k - 1 : k]).astype(squared.dtype)

    near, closer = within(k), within(half)
    shared = (
        jnp.matmul(near, near.T, precision=_HIGHEST) / near.sum(1, keepdims=True) * near
    )
    mutual = closer * closer.T
    expanded = jnp.matmul(mutual, shared, precision=_HIGHEST)
    return expanded / mutual.sum(1, keepdims=True)


def _expand_lists(lists, k, half):
    """Eq. 2 to 5 on exactly k neighbours each, [n, k + 1]; costs n k^3."""
    near, closer = lists[:, :k], lists[:, :half]
    rows = jnp.arange(len(lists), dtype=near.dtype)
    # shared[i, a] = |N_k(i) & N_k(j)|, j the a-th neighbour of i.
    shared = (near[:, None, :, None] == near[near][:, :, None, :]).sum((2, 3))
    mutual = (closer[closer] == rows[:, None, None]).any(2)
    counts = shared[closer] * mutual[:, :, None]
    total = jnp.zeros((len(lists),) * 2, counts.dtype)
    # Whole numbers: the order in which they are added does not matter.
    total = total.at[rows[:, None, None], near[closer]].add(counts)
    return total / (k * mutual.sum(1, keepdims=True))


# ---- ToCoAD (Liang et al., TIM 2025, arXiv:2407.01312)


def focal_loss(
    logits: jax.Array,
    mask: jax.Array,
    *,
    alpha: float = 0.5,
    gamma: float = 2.0,
    per_class: bool = False,
) -> jax.Array:
    """Cross-entropy that well classified pixels weigh little in.

    L = mean over pixels of -a_t (1 - p_t)^gamma log(p_t + 1e-5), where p_t is the
    probability of the pixel's class, a_t = alpha for anomalous pixels and 1 - alpha for
    normal ones. gamma = 0 and alpha = 0.5 is half the cross-entropy.

    Args:
      logits: (normal, anomalous), [..., 2].
      mask: 1 where anomalous, 0 where normal, [...].
      alpha: weight of the anomalous class, in [0, 1].
      gamma: focus, 0 or more.
      per_class: the mean over anomalous pixels plus the mean over normal ones, so that
        a small defect counts as much as all around it (ours); a class that has no pixel
        adds 0.

    Returns:
      Scalar.

    References:
      Lin et al., Focal Loss for Dense Object Detection, ICCV 2017 (arXiv:1708.02002),
      eq. 5.
    """
    margin = logits[..., 1] - logits[..., 0]
    margin = jnp.where(mask > 0, margin, -margin)
    p = jax.nn.sigmoid(margin)
    # 1 - p without cancellation; of zero a power below 1 has no gradient.
    q = jnp.maximum(jax.nn.sigmoid(-margin), jnp.finfo(margin.dtype).tiny)
    weight = jnp.where(mask > 0, alpha, 1.0 - alpha)
    terms = -weight * q**gamma * jnp.log(p + 1e-5)
    if not per_class:
        return terms.mean()
    return sum(
        jnp.where(there, terms, 0.0).sum() / jnp.maximum(there.sum(), 1)
        for there in (mask > 0, mask <= 0)
    )


def anchor_loss(x: jax.Array, reference: jax.Array) -> jax.Array:
    """How far descriptors have moved, in units of their variance (ours).

    L = sum over i of ||x_i - r_i||^2 / sum over i of ||r_i - mean r||^2

    Args:
      x: descriptors, [..., d].
      reference: the same ones before, which stand still, [..., d].

    Returns:
      Scalar; 0 where nothing has moved, 1 where all are the mean of what they were.
    """
    reference = jax.lax.stop_gradient(reference)
    rows = tuple(range(reference.ndim - 1))
    spread = ((reference - reference.mean(rows, keepdims=True)) ** 2).sum()
    tiny = jnp.finfo(reference.dtype).tiny
    return ((x - reference) ** 2).sum() / jnp.maximum(spread, tiny)


def vicreg_loss(x: jax.Array, reference: jax.Array) -> jax.Array:
    """Descriptors shall vary in all channels, and in each by itself.

    Each channel in units of its standard deviation in the reference, C the covariance:
    L = mean over j of max(0, 1 - sqrt(C_jj + 1e-4)) + sum over i != j of C_ij^2 / 25 d

    The third term of the paper, the invariance, is the contrastive loss's here; 25 : 1
    are the paper's weights of these two.

    Args:
      x: descriptors, [..., d], 2 or more.
      reference: of the same shape; the same ones before any training.

    Returns:
      Scalar, 0 or more.

    References:
      Bardes et al., VICReg, ICLR 2022 (arXiv:2105.04906), eqs. 1 to 4.
    """
    d = x.shape[-1]
    x, reference = x.reshape(-1, d), jax.lax.stop_gradient(reference.reshape(-1, d))
    x = x / jnp.maximum(reference.std(0, keepdims=True), 1e-6)
    x = x - x.mean(0, keepdims=True)
    covariance = jnp.matmul(x.T, x) / (len(x) - 1)
    variances = jnp.diagonal(covariance)
    variance = jax.nn.relu(1.0 - jnp.sqrt(variances + 1e-4)).mean()
    return variance + ((covariance**2).sum() - (variances**2).sum()) / (25 * d)


def cosine_similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    """cos(a, b) of two times [..., d] -> [...]; 0 where a vector is zero."""
    squares = (a**2).sum(-1) * (b**2).sum(-1)
    return (a * b).sum(-1) * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def simsiam_loss(
    p1: jax.Array, p2: jax.Array, z1: jax.Array, z2: jax.Array
) -> jax.Array:
    """Each view predicts the other's projection, which stands still.

    L = mean over rows of -1/2 [cos(p1, sg z2) + cos(p2, sg z1)]

    Args:
      p1, p2: predictions of the two views, [n, d].
      z1, z2: their projections, [n, d].

    Returns:
      Scalar in [-1, 1].

    References:
      Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021
      (arXiv:2011.10566), eqs. 1 to 4.
    """
    z1, z2 = jax.lax.stop_gradient((z1, z2))
    return -0.5 * (cosine_similarity(p1, z2) + cosine_similarity(p2, z1)).mean()


def ntxent_loss(z1: jax.Array, z2: jax.Array, *, temperature: float = 0.5) -> jax.Array:
    """Each projection picks the other view of its image among all others in the batch.

    L = mean over the 2n projections z_i of
      -log [exp(cos(z_i, z_i') / t) / sum over j != i of exp(cos(z_i, z_j) / t)]

    Args:
      z1, z2: projections of the two views, [n, d]; n is the global batch.
      temperature: t, of the softmax over cosines.

    Returns:
      Scalar.

    References:
      Chen et al., A Simple Framework for Contrastive Learning of Visual
      Representations, ICML 2020 (arXiv:2002.05709), eq. 1.
    """
    z = _unit(jnp.concatenate([z1, z2]))
    n = len(z)
    cosine = jnp.matmul(z, z.T, precision=_HIGHEST) / temperature
    cosine = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, cosine)
    return cross_entropy(cosine, (jnp.arange(n) + n // 2) % n)


def ranking_loss(
    normal: jax.Array, anomalous: jax.Array, weight: jax.Array, *, temperature: float
) -> jax.Array:
    """Every anomalous patch shall score higher than every normal one (ours).

    L = mean over pairs of softplus((normal_i - anomalous_j) / t), the mean over j
    weighted: a smooth count of the pairs that AUROC counts against a detector.

    Args:
      normal: scores, [n].
      anomalous: scores, [m].
      weight: how far each of those lies in a defect, 0 or more, [m].
      temperature: t, in units of a score.

    Returns:
      Scalar; 0 where nothing lies in a defect.
    """
    pairs = jax.nn.softplus((normal[:, None] - anomalous[None]) / temperature)
    total = jnp.maximum(weight.sum(), jnp.finfo(weight.dtype).tiny)
    return (pairs.mean(0) * weight).sum() / total


# ---- SPot-the-Difference (Zou et al., ECCV 2022, arXiv:2207.14315) and its bases


def spd_loss(anchor: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
    """An anchor comes closer to what changed as a whole than to what changed in a spot.

    L = mean over rows of cos(anchor, negative) - cos(anchor, positive)

    Args:
      anchor: projections, [n, d].
      positive: of the same images after a weak global change, [n, d].
      negative: after one and a local change, [n, d].

    Returns:
      Scalar in [-2, 2].
    """
    far = cosine_similarity(anchor, negative)
    return (far - cosine_similarity(anchor, positive)).mean()


def binary_focal_loss(
    logits: jax.Array, targets: jax.Array, *, gamma: float = 2.0
) -> jax.Array:
    """Cross-entropy of log-odds that what is well classified weighs little in.

    L = mean of -(1 - p_t)^gamma log p_t, where p_t is the probability of the target.
    gamma = 0 is the cross-entropy; no class is weighted.

    Args:
      logits: log-odds of 1, [...].
      targets: 0 or 1, [...].
      gamma: focus, 0 or more.

    Returns:
      Scalar.

    References:
      Lin et al., Focal Loss for Dense Object Detection, ICCV 2017 (arXiv:1708.02002),
      eq. 4.
    """
    margin = jnp.where(targets > 0, logits, -logits)
    # 1 - p_t without cancellation; of zero a power below 1 has no gradient.
    q = jnp.maximum(jax.nn.sigmoid(-margin), jnp.finfo(margin.dtype).tiny)
    return (q**gamma * jax.nn.softplus(-margin)).mean()


def info_nce_loss(
    query: jax.Array, key: jax.Array, queue: jax.Array, *, temperature: float = 0.2
) -> jax.Array:
    """Each query picks its own key among it and the keys of earlier batches.

    L = mean over i of -log [e_i / (e_i + sum over j of exp(cos(q_i, queue_j) / t))],
    with e_i = exp(cos(q_i, k_i) / t)

    Args:
      query: [n, d].
      key: of the other view, [n, d]; it stands still.
      queue: earlier keys, [m, d]; they stand still.
      temperature: t.

    Returns:
      Scalar.

    References:
      He et al., Momentum Contrast for Unsupervised Visual Representation Learning, CVPR
      2020 (arXiv:1911.05722), eq. 1.
    """
    query, key, queue = _unit(query), _unit(key), _unit(queue)
    key, queue = jax.lax.stop_gradient((key, queue))
    own = (query * key).sum(1, keepdims=True)
    others = jnp.matmul(query, queue.T, precision=_HIGHEST)
    logits = jnp.concatenate([own, others], axis=1) / temperature
    return cross_entropy(logits, jnp.zeros(len(query), jnp.int32))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """L = mean over rows of -log softmax(logits)[label].

    Args:
      logits: [n, classes]; minus infinity rules a class out.
      labels: int32 [n].

    Returns:
      Scalar.
    """
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
    return -picked.mean()


def _unit(z: jax.Array) -> jax.Array:
    """Rows [n, d] at length 1; a zero row stays zero."""
    squares = (z**2).sum(-1, keepdims=True)
    return z * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
