import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxad import scores

pytestmark = pytest.mark.isa


def test_maximum_mean_and_top_fraction_by_hand():
    patch_scores = jnp.array([[[1.0, 2.0], [3.0, 10.0]], [[5.0, 5.0], [5.0, 1.0]]])
    np.testing.assert_array_equal(scores.maximum(patch_scores), [10.0, 5.0])
    np.testing.assert_array_equal(scores.mean(patch_scores), [4.0, 4.0])
    np.testing.assert_allclose(
        scores.top_fraction(patch_scores, fraction=0.5), [6.5, 5.0]
    )


def test_top_fraction_takes_at_least_one_patch():
    patch_scores = jnp.array([[[1.0, 2.0], [3.0, 10.0]]])
    np.testing.assert_array_equal(
        scores.top_fraction(patch_scores, fraction=0.01), [10.0]
    )


def test_reweighted_by_hand():
    # Two equal distances: each has half of the softmax, so half of the score is left.
    np.testing.assert_allclose(
        scores.reweighted(jnp.array([4.0]), jnp.array([[4.0, 4.0]])), [2.0]
    )
    # exp(1) / (exp(1) + 2 exp(2)) = 0.155362
    np.testing.assert_allclose(
        scores.reweighted(jnp.array([1.0]), jnp.array([[1.0, 2.0, 2.0]])),
        [1 - 0.15536240],
        rtol=1e-6,
    )


def test_reweighted_stays_finite_for_large_distances():
    got = scores.reweighted(jnp.array([1e3]), jnp.array([[1e3, 2e3]]))
    np.testing.assert_allclose(got, [1e3])


def test_anomaly_map_bilinear_by_hand():
    patch_scores = jnp.array([[[0.0, 4.0]]])
    got = scores.anomaly_map(patch_scores, (1, 4), sigma=0.0)
    np.testing.assert_allclose(got[0, 0], [0.0, 1.0, 3.0, 4.0])


@pytest.mark.parametrize("size", [(24, 30), (15, 16)])
def test_anomaly_map_blur_is_scipys(size):
    patch_scores = np.random.default_rng(0).random((2, 5, 6)).astype(np.float32)
    plain = scores.anomaly_map(jnp.asarray(patch_scores), size, sigma=0.0)
    expected = np.stack([scipy.ndimage.gaussian_filter(m, 4.0) for m in plain])
    got = scores.anomaly_map(jnp.asarray(patch_scores), size, sigma=4.0)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_anomaly_map_of_a_constant_is_the_constant():
    got = scores.anomaly_map(jnp.full((1, 3, 3), 2.5), (20, 17), sigma=4.0)
    np.testing.assert_allclose(got, np.full((1, 20, 17), 2.5), rtol=1e-6)


def test_anomaly_map_of_a_single_patch():
    got = scores.anomaly_map(jnp.full((1, 1, 1), 3.0), (4, 4), sigma=0.0)
    np.testing.assert_array_equal(got, np.full((1, 4, 4), 3.0))
