import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import scores
from jaxad.errors import InputError


def test_spread_by_hand():
    """Median 4; deviations 3, 2, 0, 1, 96 have median 2 and mean 20.4."""
    normal = np.array([1.0, 2.0, 4.0, 5.0, 100.0])
    assert scores.spread(normal).median == 4.0
    assert scores.spread(normal).deviation == 2.0
    mean = scores.spread(normal, mean_deviation=True).deviation
    np.testing.assert_allclose(mean, 20.4)


def test_modified_z_score_by_hand():
    spread = scores.Spread(jnp.float32(4.0), jnp.float32(2.0))
    got = scores.modified_z_score(jnp.array([4.0, 6.0, 1.0]), spread)
    np.testing.assert_allclose(got, [0, 2 / 2.9652, -3 / 2.9652], rtol=1e-6)


def test_gaussian_scores_become_standard():
    normal = np.random.default_rng(0).normal(5.0, 0.25, size=200_000)
    z = scores.modified_z_score(normal, scores.spread(normal))
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=0.01)


def test_ensemble_does_not_care_about_a_member_s_units():
    random = np.random.default_rng(1)
    normal = random.gamma(2.0, size=(2, 400))
    test = jnp.asarray(random.gamma(2.0, size=(2, 3, 4, 5)), jnp.float32)

    @jax.jit
    def together(test, spreads):
        return scores.ensemble(list(test), spreads)

    want = together(test, [scores.spread(row) for row in normal])
    assert want.shape == (3, 4, 5)
    scaled = [scores.spread(normal[0]), scores.spread(10 * normal[1] + 3)]
    got = together(test.at[1].set(10 * test[1] + 3), scaled)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_members_with_different_grids():
    spread = scores.spread(np.arange(5.0))
    with pytest.raises(InputError, match=r"grids \[\(1, 2, 2\), \(1, 4, 4\)\]"):
        scores.ensemble([jnp.ones((1, 4, 4)), jnp.ones((1, 2, 2))], [spread, spread])


@pytest.mark.parametrize("normal", [[1.0, 1.0, 1.0, 9.0], [1.0, np.nan]])
def test_scores_without_spread(normal):
    with pytest.raises(InputError, match="absolute deviation of"):
        scores.spread(np.array(normal))
