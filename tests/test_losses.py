import functools
import inspect
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxad.losses

# Called as they are, each of their operations would be a program of its own.
losses = types.SimpleNamespace(
    **{
        name: jax.jit(
            function,
            static_argnames={"k", "half", "per_class"}
            & inspect.signature(function).parameters.keys(),
        )
        for name, function in vars(jaxad.losses).items()
        if inspect.isfunction(function)
    }
)

# ---- ReConPatch, from its equations, loop by loop


def distance(z, i, j):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(z[i], z[j], strict=True)))


def naive_pairwise(z, sigma):
    n = len(z)
    return [
        [math.exp(-(distance(z, i, j) ** 2) / sigma) for j in range(n)]
        for i in range(n)
    ]


def naive_contextual(z, k):
    n = len(z)
    d = [[distance(z, i, j) for j in range(n)] for i in range(n)]

    def near(i, k):
        return {j for j in range(n) if d[i][j] <= sorted(d[i])[k - 1]}

    def mutual(i, k):
        return {j for j in near(i, k) if i in near(j, k)}

    def w3(i, j):
        if j not in near(i, k):
            return 0.0
        return len(near(i, k) & near(j, k)) / len(near(i, k))

    def w5(i, j):
        around = mutual(i, max(k // 2, 1))
        return sum(w3(m, j) for m in around) / len(around)

    return [[(w5(i, j) + w5(j, i)) / 2 for j in range(n)] for i in range(n)]


def naive_loss(z, w, margin):
    n, total = len(z), 0.0
    for i in range(n):
        mean = sum(distance(z, i, m) for m in range(n)) / n
        for j in range(n):
            delta = distance(z, i, j) / mean
            total += w[i][j] * delta**2
            total += (1 - w[i][j]) * max(margin - delta, 0) ** 2
    return total / n


def scattered(n=14, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def grid():
    """A 4x3 lattice: every point has tied neighbours."""
    return np.array([[i, j] for i in range(4) for j in range(3)], np.float32)


def duplicates():
    """Three points, one of them five times; in coordinates that are not round."""
    return np.repeat(scattered(3, 7, seed=3), [1, 5, 2], axis=0)


def alone():
    """A tight group and one point far from it."""
    return np.concatenate([scattered(9, 3, seed=5), [[50.0, 50.0, 50.0]]]).astype(
        np.float32
    )


POINTS = {f.__name__: f for f in (scattered, grid, duplicates, alone)}
every_case = pytest.mark.parametrize("points", POINTS)


def test_pairwise_by_hand():
    z = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    w = losses.pairwise_similarity(z, sigma=25.0)
    np.testing.assert_allclose(w, [[1, 0.36787944], [0.36787944, 1]], rtol=1e-6)


@pytest.mark.isa
@every_case
def test_pairwise_against_loops(points):
    """Within the rounding of squared distances, from products about the mean.

    Of d terms each, with what they are made of and put together by: (2d + 16) 2^-24 of
    both points' squares at most.
    """
    z = POINTS[points]()
    got = jax.jit(functools.partial(losses.pairwise_similarity, sigma=0.7))(z)
    squares = ((z - z.mean(0, dtype=np.float64)) ** 2).sum(1)
    error = (2 * z.shape[1] + 16) * 2.0**-24 * (squares[:, None] + squares) / 0.7
    want = naive_pairwise(z.tolist(), 0.7)
    assert (np.abs(got - np.array(want)) <= error + 2.0**-22).all()


def test_contextual_by_hand():
    """Points at 0, 1, 3, 7 on a line and k = 2: each one's nearest other.

    N(0) = {0, 1}, N(1) = {0, 1}, N(3) = {1, 3}, N(7) = {3, 7}; k/2 = 1 leaves every
    point alone in R, so (5) is (3).
    """
    z = jnp.array([[0.0], [1.0], [3.0], [7.0]])
    want = [
        [1.0, 1.0, 0.0, 0.0],
        [1.0, 1.0, 0.25, 0.0],
        [0.0, 0.25, 1.0, 0.25],
        [0.0, 0.0, 0.25, 1.0],
    ]
    np.testing.assert_array_equal(losses.contextual_similarity(z, k=2), want)


def test_contextual_of_duplicates_is_one():
    """Four equal points are all in each other's sets, whatever k says."""
    z = jnp.concatenate([jnp.ones((4, 3)) * 0.3, 5 * jnp.eye(3)])
    w = losses.contextual_similarity(z, k=2)
    np.testing.assert_array_equal(w[:4, :4], np.ones((4, 4)))
    np.testing.assert_array_equal(np.diagonal(w), np.ones(7))


@pytest.mark.parametrize("k", [1, 2, 5])
@every_case
def test_contextual_against_loops(points, k):
    z = POINTS[points]()
    got = jax.jit(functools.partial(losses.contextual_similarity, k=k))(z)
    np.testing.assert_allclose(got, naive_contextual(z.tolist(), k), atol=1e-6)


def test_contextual_of_a_point_alone():
    """Nobody has it for a neighbour, yet it has neighbours: weights fall by half."""
    w = np.asarray(losses.contextual_similarity(alone(), k=3))
    assert w[9, 9] == 1.0
    assert (w[9, :9] > 0).sum() == 2 and w[9, :9].max() < 0.5


@pytest.mark.parametrize("k", [2, 4, 5])
def test_lists_and_sets_agree(k):
    squared = losses._squared_distances(jnp.asarray(scattered(40)))
    nearest, lists = jax.lax.top_k(-squared, k + 1)
    np.testing.assert_allclose(
        losses._expand_lists(lists, k, max(k // 2, 1)),
        losses._expand_sets(squared, -nearest, k, max(k // 2, 1)),
        atol=1e-6,
    )


def test_contextual_under_vmap_and_permutation():
    z = np.stack([scattered(12, 2), grid()])
    function = functools.partial(losses.contextual_similarity, k=4)
    batched = jax.vmap(function)(z)
    order = np.random.default_rng(1).permutation(12)
    for w, points in zip(batched, z, strict=True):
        np.testing.assert_allclose(w, function(points), atol=1e-6)
        np.testing.assert_allclose(
            function(points[order]), w[order][:, order], atol=1e-6
        )


def test_loss_by_hand():
    """Two points: mean distance is half of theirs, so delta = 2."""
    z = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    w = jnp.array([[1.0, 0.25], [0.25, 0.5]])
    # Off the diagonal 2 x 0.25 x 4 and, with margin 3, 2 x 0.75 x 1; on it 0.5 x 9.
    assert losses.relaxed_contrastive_loss(z, w, margin=3.0) == (2 + 1.5 + 4.5) / 2
    assert losses.relaxed_contrastive_loss(z, w, margin=1.0) == (2 + 0.5) / 2


@pytest.mark.isa
@every_case
def test_loss_against_loops(points):
    z = POINTS[points]()
    w = np.random.default_rng(2).uniform(size=(len(z), len(z))).astype(np.float32)
    got = jax.jit(functools.partial(losses.relaxed_contrastive_loss, margin=0.9))(z, w)
    np.testing.assert_allclose(got, naive_loss(z.tolist(), w.tolist(), 0.9), rtol=1e-5)


def test_loss_ignores_scale():
    z, w = scattered(), np.full((14, 14), 0.3, np.float32)
    loss = functools.partial(losses.relaxed_contrastive_loss, w=w)
    np.testing.assert_allclose(loss(z), loss(100 * z), rtol=1e-5)


@pytest.mark.isa
def test_gradient_against_differences():
    """Central differences of the loops in float64."""
    z = scattered(6, 3)
    w = np.random.default_rng(2).uniform(size=(6, 6))
    got = jax.grad(losses.relaxed_contrastive_loss)(z, jnp.float32(w), margin=1.0)
    h = 1e-5
    for i in range(6):
        for j in range(3):
            step = np.zeros((6, 3))
            step[i, j] = h
            ahead = naive_loss((z + step).tolist(), w, 1.0)
            behind = naive_loss((z - step).tolist(), w, 1.0)
            np.testing.assert_allclose(
                got[i, j], (ahead - behind) / (2 * h), atol=2e-5, rtol=1e-4
            )


@pytest.mark.isa
def test_an_offset_of_all_points_changes_nothing():
    """100 deviations away from zero; the points stay the same in float32."""
    z = np.round(scattered(20) * 2**10) / 2**10
    w = np.random.default_rng(2).uniform(size=(20, 20)).astype(np.float32)
    function = jax.value_and_grad(losses.relaxed_contrastive_loss)
    value, gradient = function(z, w)
    shifted, shifted_gradient = function(z + np.float32(128), w)
    np.testing.assert_allclose(shifted, value, rtol=1e-5)
    scale = np.abs(gradient).max()
    np.testing.assert_allclose(shifted_gradient, gradient, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "z", [duplicates(), np.zeros((4, 3)), np.full((4, 3), 0.7)], ids=str
)
def test_gradient_is_finite_at_zero_distance(z):
    z = jnp.asarray(z, jnp.float32)
    w = jnp.full((len(z), len(z)), 0.3)
    loss, gradient = jax.value_and_grad(losses.relaxed_contrastive_loss)(z, w)
    assert jnp.isfinite(loss) and jnp.isfinite(gradient).all()


# ---- ToCoAD


def test_focal_loss_by_hand():
    # p_t = 1/2 twice, then sigma(2) for a normal pixel said to be normal.
    logits = jnp.asarray([[0.0, 0.0], [3.0, 3.0], [2.0, 0.0]])
    mask = jnp.asarray([1.0, 0.0, 0.0])
    p = 1 / (1 + math.exp(-2))
    terms = [
        -0.3 * 0.25 * math.log(0.5 + 1e-5),
        -0.7 * 0.25 * math.log(0.5 + 1e-5),
        -0.7 * (1 - p) ** 2 * math.log(p + 1e-5),
    ]
    ours = jax.jit(losses.focal_loss)(logits, mask, alpha=0.3, gamma=2.0)
    np.testing.assert_allclose(ours, sum(terms) / 3, rtol=1e-5)
    np.testing.assert_allclose(sum(terms) / 3, 0.058181, atol=1e-6)


def test_focal_loss_without_focus_is_half_the_cross_entropy():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 2)), jnp.float32)
    mask = jnp.asarray(np.random.default_rng(1).random((4, 5)) < 0.3, jnp.float32)
    log_p = jax.nn.log_softmax(logits)
    cross_entropy = -jnp.where(mask > 0, log_p[..., 1], log_p[..., 0]).mean()
    ours = losses.focal_loss(logits, mask, alpha=0.5, gamma=0.0)
    np.testing.assert_allclose(2 * ours, cross_entropy, atol=1e-4)


def test_focal_loss_is_finite_where_the_answer_is_certainly_wrong():
    logits = jnp.asarray([[1e4, -1e4]])
    value, gradient = jax.value_and_grad(losses.focal_loss)(logits, jnp.ones(1))
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_has_a_gradient_where_the_answer_is_certainly_right(gamma):
    def loss(margin):
        logits = jnp.stack([jnp.zeros_like(margin), margin], -1)
        return losses.focal_loss(logits, jnp.ones(1), gamma=gamma)

    for margin in (17.0, 100.0, 1e4):
        assert np.isfinite(jax.grad(loss)(jnp.asarray([margin]))).all()
    p = 1 / (1 + math.exp(-5.0))
    slope = gamma * p * math.log(p + 1e-5) - (1 - p) * p / (p + 1e-5)
    np.testing.assert_allclose(
        jax.grad(loss)(jnp.asarray([5.0])), 0.5 * (1 - p) ** gamma * slope, rtol=1e-3
    )


def test_focal_loss_per_class_by_hand():
    """One anomalous pixel counts as much as three normal ones."""
    wrong, even = [[2.0, 0.0]], [[0.0, 0.0]] * 3
    logits = jnp.asarray(wrong + even)
    loss = functools.partial(losses.focal_loss, gamma=0.0, per_class=True)
    # -1/2 log sigma(-2) and -1/2 log 1/2
    terms = (1.063464, 0.346574)
    mask = jnp.asarray([1.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(loss(logits, mask), sum(terms), rtol=1e-4)
    # Without a defect the mean over all, which are normal; and of defects alone.
    np.testing.assert_allclose(loss(logits[1:], mask[1:]), terms[1], rtol=1e-4)
    np.testing.assert_allclose(loss(logits[:1], mask[:1]), terms[0], rtol=1e-4)


def test_anchor_loss_by_hand():
    before = jnp.asarray([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])  # 8 about their mean
    assert losses.anchor_loss(before, before) == 0
    after = before + jnp.asarray([[0.0, 2.0]])
    np.testing.assert_allclose(losses.anchor_loss(after, before), 12 / 8)
    collapsed = jnp.asarray([[2.0, 0.0]] * 3)
    np.testing.assert_allclose(losses.anchor_loss(collapsed, before), 1.0)
    # The same whatever the descriptors' unit is, and their grid.
    grid = after.reshape(3, 1, 2), before.reshape(3, 1, 2)
    np.testing.assert_allclose(losses.anchor_loss(*(1e-3 * x for x in grid)), 1.5)
    still = jax.grad(losses.anchor_loss, 1)(after, before)
    np.testing.assert_array_equal(still, 0)
    same = jax.grad(losses.anchor_loss)(jnp.ones((2, 2)), jnp.ones((2, 2)))
    assert np.isfinite(same).all()


def test_vicreg_loss_by_hand():
    signs = jnp.asarray([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    before = 3.0 * signs + 7.0  # deviations of 3 in both channels
    # Half as far, and both channels the same: all of C is 4 / 4 / 3.
    after = 1.5 * signs[:, :1] * jnp.ones((1, 2))
    want = 1 - math.sqrt(1 / 3 + 1e-4) + 2 / 9 / (25 * 2)
    np.testing.assert_allclose(losses.vicreg_loss(after, before), want, rtol=1e-5)
    grid = after.reshape(2, 2, 2), before.reshape(2, 2, 2)
    np.testing.assert_allclose(losses.vicreg_loss(*grid), want, rtol=1e-5)
    # Nothing to ask for where channels vary enough, each by itself.
    assert losses.vicreg_loss(4.0 * signs, before) == pytest.approx(0, abs=1e-6)
    still = jax.grad(losses.vicreg_loss, 1)(after, before)
    np.testing.assert_array_equal(still, 0)
    flat = jax.grad(losses.vicreg_loss)(jnp.ones((3, 2)), jnp.ones((3, 2)))
    assert np.isfinite(flat).all()


def test_simsiam_loss_by_hand_and_where_its_gradient_goes():
    p1, z2 = jnp.asarray([[1.0, 0.0]]), jnp.asarray([[3.0, 4.0]])
    p2, z1 = jnp.asarray([[0.0, 2.0]]), jnp.asarray([[0.0, -1.0]])
    # cos(p1, z2) = 3/5, cos(p2, z1) = -1
    np.testing.assert_allclose(losses.simsiam_loss(p1, p2, z1, z2), 0.2, rtol=1e-6)
    gradients = jax.grad(losses.simsiam_loss, (0, 1, 2, 3))(p1, p2, z1, z2)
    assert np.abs(gradients[0]).max() > 0
    np.testing.assert_array_equal(gradients[2:], 0)


def test_cosine_of_a_zero_vector_is_zero():
    zero, one = jnp.zeros(3), jnp.ones(3)
    assert losses.cosine_similarity(zero, one) == 0
    assert np.isfinite(jax.grad(losses.cosine_similarity)(zero, one)).all()


def test_ntxent_loss_equals_the_naive_sum():
    rng = np.random.default_rng(0)
    z1, z2 = rng.normal(size=(2, 5, 7))
    z = np.concatenate([z1, z2])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    expected = 0.0
    for i in range(10):
        others = [math.exp(z[i] @ z[j] / 0.3) for j in range(10) if j != i]
        expected -= math.log(math.exp(z[i] @ z[(i + 5) % 10] / 0.3) / sum(others)) / 10
    ours = losses.ntxent_loss(
        jnp.asarray(z1, jnp.float32), jnp.asarray(z2, jnp.float32), temperature=0.3
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


# ---- SPot-the-Difference


def test_spd_loss_by_hand():
    anchor = jnp.asarray([[1.0, 0.0], [0.0, 2.0]])
    positive = jnp.asarray([[3.0, 4.0], [0.0, 1.0]])  # cosines 3/5 and 1
    negative = jnp.asarray([[-2.0, 0.0], [4.0, 3.0]])  # cosines -1 and 3/5
    ours = losses.spd_loss(anchor, positive, negative)
    np.testing.assert_allclose(ours, ((-1 - 0.6) + (0.6 - 1)) / 2, rtol=1e-6)
    gradients = jax.grad(losses.spd_loss, (0, 1, 2))(anchor, positive, negative)
    for gradient in gradients:  # through all three branches
        assert np.abs(gradient).max() > 0


def test_ntxent_loss_by_hand():
    """Two images; views at a right angle to those of the other one, and equal."""
    z = jnp.asarray([[2.0, 0.0], [0.0, 3.0]])
    want = -math.log(math.e**2 / (math.e**2 + 2))  # temperature 1/2
    np.testing.assert_allclose(losses.ntxent_loss(z, z), want, rtol=1e-5)


def test_info_nce_loss_by_hand():
    query, key = jnp.asarray([[3.0, 4.0]]), jnp.asarray([[1.0, 0.0]])
    queue = jnp.asarray([[0.0, -2.0], [3.0, 4.0]])
    # Cosines 3/5 with its key, -4/5 and 1 with the queue; temperature 1/5.
    want = -math.log(math.exp(3) / (math.exp(3) + math.exp(-4) + math.exp(5)))
    loss = functools.partial(losses.info_nce_loss, temperature=0.2)
    np.testing.assert_allclose(loss(query, key, queue), want, rtol=1e-5)
    gradients = jax.grad(loss, (0, 1, 2))(query, key, queue)
    assert np.abs(gradients[0]).max() > 0
    np.testing.assert_array_equal(gradients[1], 0)
    np.testing.assert_array_equal(gradients[2], 0)


def test_info_nce_loss_equals_the_naive_sum():
    rng = np.random.default_rng(0)
    query, key, queue = (rng.normal(size=(n, 6)) for n in (4, 4, 9))

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    want = 0.0
    for q, k in zip(query, key, strict=True):
        own = math.exp(cosine(q, k) / 0.07)
        others = sum(math.exp(cosine(q, other) / 0.07) for other in queue)
        want -= math.log(own / (own + others)) / 4
    ours = losses.info_nce_loss(
        *(jnp.asarray(x, jnp.float32) for x in (query, key, queue)), temperature=0.07
    )
    np.testing.assert_allclose(ours, want, rtol=1e-5)


def test_cross_entropy_by_hand():
    """Odds of 1 to 3 and of 2 to 1; a class that is ruled out takes no part."""
    logits = jnp.log(jnp.asarray([[1.0, 3.0, 0.0], [2.0, 1.0, 0.0]]))
    ours = losses.cross_entropy(logits, jnp.asarray([1, 0]))
    np.testing.assert_allclose(
        ours, -(math.log(3 / 4) + math.log(2 / 3)) / 2, rtol=1e-6
    )


class TestBinaryFocalLoss:
    def test_by_hand(self):
        # Log-odds of 0 and of 3 to 1: probabilities 1/2 and 3/4.
        logits, targets = (
            jnp.array([0.0, math.log(3), math.log(3)]),
            jnp.array([0, 1, 0]),
        )
        for gamma in (0.0, 2.0):
            losses_of = (
                0.5**gamma * math.log(2),
                0.25**gamma * math.log(4 / 3),
                0.75**gamma * math.log(4),
            )
            found = losses.binary_focal_loss(logits, targets, gamma=gamma)
            assert float(found) == pytest.approx(sum(losses_of) / 3, rel=1e-6)

    def test_gamma_zero_is_the_cross_entropy_of_two_logits(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=9), jnp.float32)
        targets = jnp.arange(9) % 2
        pairs = jnp.stack([jnp.zeros(9), x], 1)
        np.testing.assert_allclose(
            losses.binary_focal_loss(x, targets, gamma=0.0),
            losses.cross_entropy(pairs, targets),
            rtol=1e-6,
        )

    @pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
    def test_what_is_certain_has_a_finite_gradient(self, gamma):
        logits, targets = jnp.array([200.0, -200.0] * 2), jnp.array([1, 0, 0, 1])
        loss, gradient = jax.value_and_grad(losses.binary_focal_loss)(
            logits, targets, gamma=gamma
        )
        # The right ones cost nothing, the wrong ones their whole margin.
        assert float(loss) == pytest.approx(100)
        np.testing.assert_allclose(gradient, [0, 0, 0.25, -0.25], atol=1e-6)
