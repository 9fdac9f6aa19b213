"""Gaussians at every position, against numpy's in float64."""

import contextlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import arrays, scores
from jaxad import config as config_lib
from jaxad.detectors import base, padim
from jaxad.devices import sharding
from jaxad.devices.rows import Sharded, Stack
from jaxad.errors import InputError
from jaxad.methods import patchcore
from jaxad.methods.base import Backbone


def mesh(devices):
    return sharding.make_mesh(jax.devices()[:devices]) if devices else None


@contextlib.contextmanager
def silent(total, unit):
    yield types.SimpleNamespace(update=lambda count: None)


def build(**options):
    config = config_lib.base()
    config.detector.dim = 0
    config.detector.update(options)
    return padim.build(config)


def fit(x, devices=None, parts=None, **options):
    """A scorer and its state for descriptors [n, h, w, c]."""
    scorer = build(**options)
    rows = Stack(parts or [x.reshape(-1, x.shape[3])])
    normal = base.Normal(rows, x.shape[1:3], mesh(devices), None, silent)
    state, report = scorer.fit(normal)
    return scorer, scorer.place(state, mesh(devices)), report


def descriptors(n, c, grid=(5, 3), scale=1.0, seed=0):
    """Correlated channels, with a mean of its own at every position."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(c, c)) / np.sqrt(np.arange(1, c + 1))[:, None]
    mean = np.random.default_rng(1).normal(size=(*grid, c))
    return (scale * (rng.normal(size=(n, *grid, c)) @ mix + mean)).astype(np.float32)


def naive(x, new, regularisation=0.01):
    """Distances [b, h, w] in float64, one by one."""
    x, new = x.astype(np.float64), new.astype(np.float64)
    out = np.empty(new.shape[:3])
    for b, i, j in np.ndindex(out.shape):
        covariance = np.atleast_2d(np.cov(x[:, i, j].T))
        inverse = np.linalg.inv(covariance + regularisation * np.eye(x.shape[3]))
        r = new[b, i, j] - x[:, i, j].mean(0)
        out[b, i, j] = np.sqrt(r @ inverse @ r)
    return out


def at_one_position(*rows):
    return np.float32(rows)[:, None, None]


# Few images, whose Gaussians are kept in as many dimensions, and many.
BOTH = pytest.mark.parametrize(("n", "c"), [(23, 70), (90, 70)])


def test_by_hand():
    x = at_one_position([0, 0], [2, 0], [0, 2], [2, 2])
    scorer, state, _ = fit(x, regularisation=2 / 3)
    assert "whitening" in state
    # The covariance is 4/3 on the diagonal, and with the regularisation 2.
    found = scorer.score(state, at_one_position([1, 1], [1, 5], [4, -3]))
    want = [0, np.sqrt(8), 5 / np.sqrt(2)]
    np.testing.assert_allclose(found.patches[:, 0, 0], want, rtol=1e-6)
    np.testing.assert_allclose(found.images, want, rtol=1e-6)


def test_few_images_by_hand():
    x = at_one_position([2, 0, 0, 0], [0, 0, 0, 0])
    scorer, state, report = fit(x, regularisation=2.0)
    assert "basis" in state and report == {}
    # The variances are 2, 0, 0 and 0, and with the regularisation 4, 2, 2 and 2.
    found = scorer.score(state, at_one_position([3, 0, 0, 2], [1, 0, 0, 0]))
    np.testing.assert_allclose(found.images, [np.sqrt(3), 0], rtol=1e-6)


def test_left_out_by_hand():
    x = at_one_position([0], [2], [6])
    scorer, state, report = fit(x, regularisation=2.0)
    found = scorer.left_out(state, x[:2], np.array([2, 1]))
    # 6 is 5 from the mean of 0 and 2, whose variance is 2; 2 is 1 from that of 0 and 6,
    # whose variance is 18.
    np.testing.assert_allclose(found.images, [5 / 2, 1 / np.sqrt(20)], rtol=1e-6)
    mean = (5 / 2 + 1 / np.sqrt(20) + 4 / np.sqrt(10)) / 3
    np.testing.assert_allclose(report["left_out"], mean, rtol=1e-6)


@pytest.mark.isa
@BOTH
def test_distances_are_those_of_float64(n, c):
    x = descriptors(n, c)
    new = np.concatenate([descriptors(4, c, seed=2), x[:2], 3 * x[:1]])
    scorer, state, _ = fit(x)
    found = scorer.score(state, new)
    np.testing.assert_allclose(found.patches, naive(x, new), rtol=1e-5)
    np.testing.assert_array_equal(found.images, found.patches.max((1, 2)))


@pytest.mark.isa
@BOTH
def test_left_out_is_a_fit_on_the_others(n, c):
    x, images = descriptors(n, c), np.array([3, 0, n - 1])
    scorer, state, _ = fit(x)
    found = scorer.left_out(state, x[images], images)
    want = [naive(np.delete(x, i, 0), x[i : i + 1])[0] for i in images]
    np.testing.assert_allclose(found.patches, want, rtol=1e-5)
    np.testing.assert_array_equal(found.images, found.patches.max((1, 2)))


@pytest.mark.isa
@pytest.mark.parametrize("scale", [0.01, 1, 3])
@pytest.mark.parametrize(("n", "c"), [(20, 60), (50, 60), (80, 60)])
def test_no_digits_are_lost(n, c, scale):
    """Where squared norms are up to a hundred thousand times the regularisation."""
    x = descriptors(n, c, (2, 1), scale)
    new = np.concatenate([x, descriptors(5, c, (2, 1), scale, seed=2)])
    scorer, state, _ = fit(x)
    found = scorer.score(state, new).patches
    np.testing.assert_allclose(found, naive(x, new), rtol=1e-5)


@pytest.mark.parametrize(("n", "few"), [(6, True), (7, False)])
def test_the_smaller_form_is_kept(n, few):
    _, state, _ = fit(descriptors(n, 10))
    small = {"basis", "inverse"} if few else {"whitening"}
    assert set(state) == {"mean", "left_out", "channels", "positions"} | small
    numbers = sum(state[name][0].size for name in small)
    assert numbers == (6 * 6 + 6 * 10 if few else 10 * 10)


def test_channels_are_drawn():
    x, new = descriptors(30, 40), descriptors(2, 40, seed=2)
    scorer, state, _ = fit(x, dim=7)
    channels = np.asarray(state["channels"])
    assert len(channels) == 7 and (np.diff(channels) > 0).all() and channels[-1] < 40
    want = naive(x[..., channels], new[..., channels])
    np.testing.assert_allclose(scorer.score(state, new).patches, want, rtol=1e-5)
    config = config_lib.base()
    drawn = []
    for config.seed in (0, 1):
        config.detector.dim = 7
        drawn.append(padim._channels(config, 40))
    np.testing.assert_array_equal(drawn[0], channels)
    assert not np.array_equal(drawn[1], channels)


def test_a_channel_that_never_changes():
    x, new = descriptors(30, 5), descriptors(2, 5, seed=2)
    x[..., 2] = new[..., 2] = 0
    scorer, state, _ = fit(x)
    np.testing.assert_allclose(
        scorer.score(state, new).patches, naive(x, new), rtol=1e-5
    )


@BOTH
def test_order_of_images_and_of_positions(n, c):
    x, new = descriptors(n, c), descriptors(2, c, seed=2)
    scorer, state, _ = fit(x)
    want = scorer.score(state, new).patches
    order = np.random.default_rng(3).permutation(n)
    _, shuffled, _ = fit(x[order])
    np.testing.assert_allclose(scorer.score(shuffled, new).patches, want, rtol=1e-5)
    np.testing.assert_allclose(
        shuffled["left_out"], np.asarray(state["left_out"])[:, order], rtol=1e-5
    )
    # A position knows of no other one.
    _, flipped, _ = fit(x[:, ::-1])
    found = scorer.score(flipped, new[:, ::-1]).patches
    np.testing.assert_array_equal(found[:, ::-1], want)


@pytest.mark.native
@BOTH
def test_same_bits_on_any_number_of_devices(n, c, tmp_path):
    x, new = descriptors(n, c, (7, 5)), descriptors(8, c, (7, 5), seed=2)
    options = dict(dim=c - 3, image_score="top_fraction", top_fraction=0.3)
    scorer, alone, report = fit(x, **options)
    want = scorer.score(alone, new), scorer.left_out(alone, x[:8], np.arange(8))
    for devices in (1, 8):
        _, state, found = fit(x, devices, **options)
        assert found == report
        spread = state["mean"].addressable_shards
        assert len({shard.device for shard in spread}) == devices
        arrays.save(tmp_path / str(devices), {"state": state})
    for devices in (None, 1, 3, 8):
        for path in tmp_path.iterdir():
            saved = arrays.restore(path)["state"]
            state = scorer.place(saved, mesh(devices))
            for images in (new, jnp.asarray(new), spread_over(new, devices)):
                got = scorer.score(state, images)
                np.testing.assert_array_equal(got.patches, want[0].patches)
                np.testing.assert_array_equal(got.images, want[0].images)
            got = scorer.left_out(state, x[:8], np.arange(8))
            np.testing.assert_array_equal(got.patches, want[1].patches)
            np.testing.assert_array_equal(got.images, want[1].images)


def spread_over(images, devices):
    if devices in (None, 3):
        return images
    return sharding.spread(images, mesh(devices))


@BOTH
@pytest.mark.parametrize("devices", [None, 8])
def test_jit_and_eager(n, c, devices):
    x, new = descriptors(n, c), descriptors(2, c, seed=2)
    scorer, state, _ = fit(x, devices)
    want = scorer.score(state, new)
    got = jax.jit(lambda images: scorer.score(state, images))(new)
    np.testing.assert_allclose(got.patches, want.patches, rtol=1e-6)
    np.testing.assert_allclose(got.images, want.images, rtol=1e-6)
    got = jax.jit(scorer.score)(state, new)
    np.testing.assert_allclose(got.patches, want.patches, rtol=1e-6)


def test_wherever_the_rows_lie(tmp_path):
    x = descriptors(24, 20)
    rows = x.reshape(-1, 20)
    np.save(tmp_path / "x.npy", rows)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    on_devices = Sharded.of(sharding.split_rows(rows[: 8 * 15], mesh(4)))
    scorer, want, _ = fit(x)
    for parts in (
        [mapped],
        [jnp.asarray(rows)],
        [on_devices, mapped[8 * 15 : 20 * 15], jnp.asarray(rows[20 * 15 :])],
    ):
        for devices in (None, 4):
            _, state, _ = fit(x, devices, parts)
            for name, expected in want.items():
                found = np.asarray(state[name])[: len(expected)]
                np.testing.assert_array_equal(found, expected)


def test_predict():
    """On a backbone whose features are the pixels."""
    config = config_lib.base()
    config.patches.neighbourhood = 1
    config.detector.update(dim=2, blur_sigma=2.0)
    pixels = Backbone(
        name="pixels",
        module=None,
        taps=("pixels",),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        levels=lambda variables, images: [images],
    )
    images = jax.random.uniform(jax.random.key(0), (6, 8, 4, 3))
    scorer, state, _ = fit(np.asarray(images), dim=2)
    detector = base.Detector(
        params={"backbone": {}},
        state=state,
        method=patchcore.build(config, pixels),
        backbone=pixels,
        scorer=scorer,
        options=tuple(config.detector.to_dict().items()),
    )
    score, heat = base.predict(detector, images[:2])
    channels = np.asarray(state["channels"])
    distances = naive(*(np.asarray(x)[..., channels] for x in (images, images[:2])))
    np.testing.assert_allclose(score, distances.max((1, 2)), rtol=1e-5)
    want = scores.anomaly_map(np.float32(distances), (8, 4), sigma=2.0)
    np.testing.assert_allclose(heat, want, rtol=1e-4)


# ---- What cannot work


def test_reweighting_has_no_meaning():
    with pytest.raises(InputError, match="image_score=reweighted needs the memory"):
        build(image_score="reweighted")


def test_too_few_images():
    with pytest.raises(InputError, match="at least 2 normal images, and there is 1"):
        build().check(1, (2, 2), 4)
    build().check(2, (2, 2), 4)
    x = descriptors(2, 3)
    scorer, state, _ = fit(x)
    with pytest.raises(InputError, match="give it at least 3"):
        scorer.left_out(state, x, np.arange(2))


def test_more_channels_than_there_are():
    build(dim=8).check(5, (2, 2), 8)
    with pytest.raises(InputError, match=r"config\.detector\.dim=9 .* the 8 channels"):
        build(dim=9).check(5, (2, 2), 8)
    with pytest.raises(InputError, match=r"config\.detector\.dim=9 .* the 8 channels"):
        fit(descriptors(5, 8), dim=9)


def test_images_of_another_size():
    x = descriptors(5, 4, (4, 2))
    scorer, state, _ = fit(x)
    for call in (
        lambda: scorer.score(state, descriptors(1, 4, (2, 4))),
        lambda: scorer.left_out(state, descriptors(1, 4, (2, 2)), np.arange(1)),
    ):
        with pytest.raises(InputError, match=r"grid of \(4, 2\) patches"):
            call()


def test_too_little_regularisation():
    x = descriptors(30, 8, scale=100.0)
    x[..., 1] = x[..., 0]
    with pytest.raises(InputError, match=r"config\.detector\.regularisation=1e-12"):
        fit(x, regularisation=1e-12)
