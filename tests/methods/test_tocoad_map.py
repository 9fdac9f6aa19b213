"""ToCoAD's map on descriptors: whitening and ranking."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.methods import tocoad, tocoad_map

CHANNEL = np.array([0.0, 0.5, 0.0], np.float32).reshape(1, 1, 1, 3)
NOISE = np.array([1.0, 0.1, 1.0], np.float32).reshape(1, 1, 1, 3)


def test_merged_is_the_covariance_of_all_rows():
    rows = np.random.default_rng(0).normal(1000.0, [1.0, 2.0, 0.5], (96, 3))
    rows = rows.astype(np.float32)
    zeros = {"mean": jnp.zeros(3), "scatter": jnp.zeros((3, 3))}
    state = {"count": jnp.float32(0), **zeros}
    for part in np.split(rows, 3):
        state = tocoad_map.merged(state, jnp.asarray(part))
    want = np.cov(rows.astype(np.float64).T, bias=True)
    np.testing.assert_allclose(state["scatter"] / state["count"], want, atol=1e-3)


def test_whitener_by_hand():
    """Variances 1 and 3 are 0.5 and 1.5 of their mean, along the diagonals."""
    covariance = jnp.asarray([[2.0, 1.0], [1.0, 2.0]])
    a, b = 1.5**-0.5, 0.5**-0.5
    want = 0.5 * np.array([[a + b, a - b], [a - b, a + b]])
    found = tocoad_map.whitener(covariance, shrinkage=0.0)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    # A large one leaves all directions as they are.
    found = tocoad_map.whitener(covariance, shrinkage=1e6)
    np.testing.assert_allclose(1e3 * found, np.eye(2), atol=1e-5)
    # A direction without any variance is no direction of infinite weight.
    found = tocoad_map.whitener(jnp.diag(jnp.asarray([2.0, 0.0])), shrinkage=0.01)
    np.testing.assert_allclose(found, np.diag([2.01**-0.5, 10.0]), rtol=1e-5)


def test_the_log_odds_have_a_share_of_the_variance():
    """Two channels of variances 1 and 3 come out with 2 each; the third gets a quarter
    of these 4, whatever it has in common with the others."""
    covariance = jnp.asarray([[1.0, 0.0, 0.3], [0.0, 3.0, 0.0], [0.3, 0.0, 0.25]])
    whiten = functools.partial(tocoad_map.whitener, shrinkage=0.0)
    found = tocoad_map.beside(whiten, covariance, share=0.25)
    np.testing.assert_allclose(found, np.diag([2**0.5, (2 / 3) ** 0.5, 2]), atol=1e-6)


def test_distances_are_to_other_images():
    bank = jnp.asarray([[[0.0, 0.0], [1.0, 0.0]], [[5.0, 0.0], [9.0, 0.0]]])
    x = jnp.asarray([[[0.0, 0.0], [1.0, 3.0]], [[4.0, 4.0], [0.5, 0.0]]])
    found = jnp.exp(tocoad_map.log_distance(x, bank))
    np.testing.assert_allclose(found, [[5.0, 5.0], [5.0, 0.5]], rtol=1e-5)


def test_the_gradient_of_a_distance_is_the_nearest_one_s():
    generator = np.random.default_rng(0)
    x, bank = (generator.normal(size=(3, 4, 5)).astype(np.float32) for _ in range(2))

    def naive(x):
        total = 0.0
        for i in range(3):
            others = np.concatenate([bank[j] for j in range(3) if j != i])
            gaps = jnp.sqrt(((x[i][:, None] - others[None]) ** 2).sum(-1))
            total += jnp.log(gaps.min(1)).sum()
        return total

    ours = jax.grad(lambda x: tocoad_map.log_distance(x, bank).sum())(x)
    np.testing.assert_allclose(ours, jax.grad(naive)(x), rtol=2e-4, atol=1e-5)
    # A patch that another image has as well: finite.
    both = jnp.ones((2, 1, 3))
    assert jnp.isfinite(
        jax.grad(lambda x: tocoad_map.log_distance(x, x).sum())(both)
    ).all()


def test_ranking_finds_the_channel_that_defects_show_in():
    """In two channels noise is ten times as large; defects show in the third."""
    options = tocoad.fields()
    options.ranking.update(steps=60, learning_rate=0.03, patches=16)

    def generate(key, batch):
        mask = jnp.zeros(batch["image"].shape[:3]).at[:, :2, :2].set(1.0)
        return batch["image"] + mask[..., None] * CHANNEL, mask

    stage = tocoad_map.ranking(
        options, lambda params, x: x, lambda x: x, generate, textures=False
    )
    assert stage.num_steps(1) == stage.num_steps(1000) == 60
    state = stage.init(jax.random.key(0), {"backbone": {}}, (4, 4, 3))
    step, history = jax.jit(stage.step), []
    for i in range(60):
        noise = jax.random.normal(jax.random.key(i), (4, 4, 4, 3))
        batch = {
            "image": noise * NOISE,
            "index": jnp.arange(4),
            "progress": jnp.float32(i / 60),
        }
        state, metrics = step(state, batch, jax.random.key(i))
        history.append(float(metrics["loss"]))
    assert np.mean(history[-10:]) < 0.7 * np.mean(history[:10])
    learnt = stage.finish(state, {"backbone": {}, "map": None})["map"]
    gains = np.linalg.norm(learnt, axis=1)
    assert gains[1] > 1.5 * gains[0] and gains[1] > 1.5 * gains[2]


def test_a_map_begins_where_the_one_before_has_ended():
    options = tocoad.fields()
    stage = tocoad_map.ranking(
        options, lambda params, x: x, lambda x: x, None, textures=False
    )
    given = {"backbone": {}, "map": jnp.diag(jnp.asarray([1.0, 2.0, 3.0]))}
    state = stage.init(jax.random.key(0), given, (4, 4, 3))
    np.testing.assert_array_equal(stage.finish(state, given)["map"], given["map"])


def test_whitening_gives_the_last_channel_its_share():
    options = tocoad.fields()
    options.whitening.update(batch_size=32, log_odds=0.5)
    stage = tocoad_map.whitening(options)
    x = np.random.default_rng(0).normal(size=(64, 4)) @ np.diag([1.0, 2.0, 3.0, 9.0])
    state, x = stage.init(None, {}, (4,)), jnp.asarray(x, jnp.float32)
    for part in x.reshape(2, 32, 4):
        state, _ = stage.step(state, {"patches": part}, None)
    variances = tocoad_map.project(stage.finish(state, {}), x).var(0)
    np.testing.assert_allclose(variances[3], 0.5 * variances[:3].sum(), rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
def test_whitening_as_a_stage(rows):
    options = tocoad.fields()
    options.whitening.update(batch_size=32 // rows, shrinkage=0.0)
    stage = tocoad_map.whitening(options)
    x = np.random.default_rng(0).normal(size=(96, 4)) @ np.diag([1.0, 2.0, 3.0, 4.0])
    x = jnp.asarray(x[: 96 // (32 // rows) * (32 // rows)], jnp.float32)
    assert stage.num_steps(96) == 96 // (32 // rows)
    state = stage.init(jax.random.key(0), {}, (4,))
    for part in x.reshape(-1, 32 // rows, 4):
        state, metrics = stage.step(state, {"patches": part}, None)
    projected = tocoad_map.project(stage.finish(state, {}), x)
    covariance = np.cov(projected.T, bias=True)
    np.testing.assert_allclose(covariance / covariance[0, 0], np.eye(4), atol=1e-3)
    assert 1 < metrics["rank"] < 4  # before it
    np.testing.assert_array_equal(tocoad_map.project({}, x), x)
