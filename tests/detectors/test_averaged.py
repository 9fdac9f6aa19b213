"""D in the score: z-scores by hand, and beside the scorer alone."""

import contextlib
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import config as config_lib
from jaxad.detectors import averaged, knn, padim
from jaxad.detectors.base import Extension, Normal, Shapes
from jaxad.devices.rows import Stack
from jaxad.errors import InputError
from jaxad.run import passes

GRID = 2, 3


@contextlib.contextmanager
def silent(total, unit):
    yield types.SimpleNamespace(update=lambda count: None, n=0)


def normal(x):
    rows = Stack([x.reshape(-1, x.shape[3])])
    return Normal(rows, GRID, None, passes.unkept(), silent)


def descriptors(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *GRID, 5)).astype(np.float32)


def scorers(module=knn, **options):
    """(the scorer alone, the one that is averaged with the last channel)."""
    config = config_lib.base()
    config.coreset.ratio = 0.5
    config.detector.update(options)
    alone = module.build(config)
    return alone, averaged.with_log_odds(alone, config.detector.to_dict())


def z(x, units):
    """Of scores, by the mean and deviation of others."""
    return (x - np.mean(units)) / np.std(units)


def test_the_mean_of_two_z_scores_by_hand():
    state = {"z_scores": jnp.asarray([[2.0, -3.0], [4.0, 0.5]])}
    found = averaged.averaged(
        state, jnp.full((1, 1, 1), 10.0), jnp.full((1, 1, 1), -2.0)
    )
    assert found == pytest.approx(((10 - 2) / 4 + (-2 + 3) / 0.5) / 2)


@pytest.mark.parametrize(("module", "images"), [(knn, 9), (padim, 9)])
def test_a_fit_is_the_scorer_s_own_and_its_units(module, images):
    alone, both = scorers(module, dim=0)
    x, new = descriptors(images), descriptors(3, seed=1)
    own, _ = alone.fit(normal(x[..., :-1]))
    state, report = both.fit(normal(x))
    assert set(state) == {*own, "z_scores"}
    for name, value in own.items():
        np.testing.assert_array_equal(state[name], value)
    # An image of the bank is scored without itself, or its distances would be 0.
    places = np.arange(images)
    score = alone.left_out or (lambda state, x, images: alone.score(state, x))
    trained = score(own, x[..., :-1], places).patches
    distances = alone.score(own, new[..., :-1]).patches
    want = (z(distances, trained) + z(new[..., -1], x[..., -1])) / 2
    found = both.score(both.place(state, None), new)
    np.testing.assert_allclose(found.patches, want, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found.images, found.patches.max((1, 2)))
    if alone.left_out:
        want = (z(trained, trained) + z(x[..., -1], x[..., -1])) / 2
        apart = both.left_out(state, x, places).patches
        np.testing.assert_allclose(apart, want, rtol=1e-3, atol=1e-4)


def test_an_exact_extension_is_a_fit_on_all():
    _, both = scorers()
    x = descriptors(8)
    (before, report), (whole, _) = both.fit(normal(x[:5])), both.fit(normal(x))
    old = Stack([x[:5].reshape(-1, 5)])

    def extended(**how):
        given = Extension(before, report, normal(x[5:]), 5, **how)
        return both.extend(given)[0]

    exact = extended(old=lambda: old, fast=False)
    for name, value in whole.items():
        np.testing.assert_allclose(exact[name], value, rtol=1e-6)
    # Without the old images their units stay.
    fast = extended(old=None, fast=True)
    np.testing.assert_array_equal(fast["z_scores"], before["z_scores"])
    assert fast["memory_bank"].shape[1] == 4
    seen = extended(old=lambda: old, fast=True)["z_scores"]
    np.testing.assert_allclose(seen[:, 1], whole["z_scores"][:, 1], rtol=1e-6)


def test_the_scorer_sees_one_channel_less():
    alone, both = scorers()
    shapes = Shapes(images=4, batch=2, grid=GRID, width=5, mesh=None)
    narrow = Shapes(images=4, batch=2, grid=GRID, width=4, mesh=None)
    ours, want = both.programs(shapes), alone.programs(narrow)
    assert [one.name for one in ours] == [one.name for one in want]
    assert [str(x.arguments) for x in ours] == [str(x.arguments) for x in want]


def test_what_cannot_be_averaged():
    with pytest.raises(InputError, match="reweighted weighs distances"):
        scorers(image_score="reweighted")
    _, both = scorers()
    x = descriptors(4)
    x[..., -1] = 1.0
    with pytest.raises(InputError, match="log-odds of all training patches are the sa"):
        both.fit(normal(x))
