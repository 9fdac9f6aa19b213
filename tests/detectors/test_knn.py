"""The detector on a backbone whose features are the pixels themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import config as config_lib
from jaxad import scores
from jaxad.detectors import base, knn
from jaxad.devices import processes
from jaxad.devices.rows import Stack
from jaxad.errors import InputError
from jaxad.methods import patchcore
from jaxad.methods.base import Backbone
from jaxad.run import passes

PIXELS = Backbone(
    name="pixels",
    module=None,
    taps=("pixels",),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    levels=lambda variables, images: [images],
)


def detector(bank, backbone=PIXELS, **options):
    config = config_lib.base()
    config.patches.neighbourhood = 1
    config.detector.blur_sigma = 0.0
    config.detector.update(options)
    scorer = knn.build(config)
    return base.Detector(
        params={"backbone": {}},
        state={"memory_bank": jnp.asarray(bank), "owners": np.arange(len(bank))},
        method=patchcore.build(config, backbone),
        backbone=backbone,
        scorer=scorer,
        options=tuple(config.detector.to_dict().items()),
    )


def image(*pixels):
    """[1, 2, 2, 3] from four grey levels."""
    return jnp.asarray(pixels, jnp.float32).reshape(1, 2, 2, 1) * jnp.ones((1, 1, 1, 3))


BLACK_AND_WHITE = np.array([[0, 0, 0], [1, 1, 1]], np.float32)


def test_max_and_map_by_hand():
    score, heat = base.predict(detector(BLACK_AND_WHITE), image(0.0, 1.0, 0.5, 0.9))
    # Grey 0.5 is half a diagonal of the unit cube from either memory.
    np.testing.assert_allclose(score, [np.sqrt(0.75)], rtol=1e-6)
    expected = np.sqrt(3) * np.array([[0.0, 0.0], [0.5, 0.1]])
    np.testing.assert_allclose(heat[0], expected, rtol=1e-5, atol=1e-7)


def test_recall_by_hand(monkeypatch):
    """A search that only ever finds the first entry."""

    def first(operand, k, *, recall_target):
        return operand[:, :1].repeat(k, 1), jnp.zeros((len(operand), k), jnp.int32)

    def as_on_a_tpu(*operands, cpu, default):
        return default(*operands)

    monkeypatch.setattr(jax.lax, "approx_min_k", first)
    monkeypatch.setattr(jax.lax, "platform_dependent", as_on_a_tpu)
    blind = detector(BLACK_AND_WHITE, search="approximate", recall_target=0.7)
    pixels = image(0.0, 1.0, 0.5, 0.9)
    # Grey 0.5 is as near to the one as to the other.
    described = base.describe_with(blind, pixels)
    found = blind.scorer.recall(blind.state, described)
    np.testing.assert_array_equal(found, [[[True, False], [True, False]]])
    assert detector(BLACK_AND_WHITE).scorer.recall is None


def test_top_fraction_by_hand():
    fitted = detector(BLACK_AND_WHITE, image_score="top_fraction", top_fraction=0.5)
    score, _ = base.predict(fitted, image(0.0, 1.0, 0.5, 0.9))
    np.testing.assert_allclose(score, [np.sqrt(3) * 0.3], rtol=1e-6)


def test_reweighted_by_hand():
    fitted = detector(BLACK_AND_WHITE, image_score="reweighted", reweight_neighbours=2)
    score, _ = base.predict(fitted, image(0.0, 1.0, 0.25, 1.0))
    s, far = np.sqrt(3) * 0.25, np.sqrt(3) * 0.75
    expected = (1 - np.exp(s) / (np.exp(s) + np.exp(far))) * s
    np.testing.assert_allclose(score, [expected], rtol=1e-6)


def test_reweighted_with_duplicates_in_the_bank():
    """The nearest entry and its twin: s and s again, so half of s is left."""
    bank = np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0]], np.float32)
    fitted = detector(bank, image_score="reweighted", reweight_neighbours=2)
    score, _ = base.predict(fitted, image(0.0, 0.25, 0.0, 0.0))
    np.testing.assert_allclose(score, [np.sqrt(3) * 0.125], rtol=1e-6)


def test_ensemble_averages_modified_z_scores():
    """A patch at the first member's median, and two deviations above the second's."""
    first = detector(BLACK_AND_WHITE)
    first = first.replace(spread=scores.Spread(jnp.sqrt(0.75), jnp.float32(1.0)))
    second = detector(BLACK_AND_WHITE[:1])  # knows black only
    second = second.replace(
        spread=scores.Spread(jnp.sqrt(3.0) * 0.25, jnp.sqrt(3.0) * 0.125)
    )
    score, heat = base.predict((first, second), image(0.0, 0.0, 0.5, 0.0))
    np.testing.assert_allclose(score, [(0.0 + 2.0 / 1.4826) / 2], rtol=1e-5)
    assert heat.shape == (1, 2, 2)


def test_ensemble_refuses_members_with_different_grids():
    spread = scores.Spread(jnp.float32(0.0), jnp.float32(1.0))
    halved = PIXELS._replace(levels=lambda variables, images: [images[:, ::2, ::2]])
    first, second = detector(BLACK_AND_WHITE), detector(BLACK_AND_WHITE, halved)
    members = first.replace(spread=spread), second.replace(spread=spread)
    with pytest.raises(InputError, match="patch grids"):
        base.predict(members, image(0.0, 0.0, 0.5, 0.0))


@pytest.mark.isa
def test_an_image_scores_the_same_wherever_it_lies_in_the_batch():
    images = jnp.concatenate([image(0.1, 0.2, 0.3, 0.4), image(0.9, 0.8, 0.6, 0.5)])
    fitted = detector(BLACK_AND_WHITE)
    score, heat = base.predict(fitted, images)
    swapped_score, swapped_heat = base.predict(fitted, images[::-1])
    np.testing.assert_array_equal(score, swapped_score[::-1])
    np.testing.assert_array_equal(heat, swapped_heat[::-1])


def test_images_of_another_shape():
    with pytest.raises(InputError, match=r"shape \(2, 2, 3\); predict takes"):
        base.predict(detector(BLACK_AND_WHITE), image(0.0, 0.0, 0.0, 0.0)[0])


def test_more_neighbours_than_memories():
    config = config_lib.base()
    config.detector.update(image_score="reweighted", reweight_neighbours=9)
    scorer = knn.build(config)
    scorer.check(10, (10, 9), 4)  # 1 % of 900 patches
    with pytest.raises(InputError, match="reweight_neighbours=9 is more than the 8"):
        scorer.check(10, (9, 9), 4)


@pytest.mark.isa
def test_an_image_is_scored_without_its_own_memories():
    """Black is of image 0, white of image 1: each is left with the other's."""
    pixels = jnp.concatenate([image(0.0, 0.25, 0.0, 0.0), image(1.0, 1.0, 0.5, 1.0)])
    fitted = detector(BLACK_AND_WHITE)
    found = fitted.scorer.left_out(fitted.state, pixels, np.array([0, 1]))
    np.testing.assert_allclose(found.images, np.sqrt([3, 3]), rtol=1e-6)
    expected = np.sqrt(3) * np.array([[1, 0.75, 1, 1], [1, 1, 0.5, 1]])
    np.testing.assert_allclose(found.patches.reshape(2, 4), expected, rtol=1e-6)
    # A third image owns nothing, so it is scored as by the whole bank.
    found = fitted.scorer.left_out(fitted.state, pixels[:1], np.array([2]))
    whole = fitted.scorer.score(fitted.state, pixels[:1])
    np.testing.assert_array_equal(found.patches, whole.patches)


def test_left_out_and_reweighted_by_hand():
    """Of image 0 only its black memory goes; the two that are left are neighbours."""
    bank = np.array([[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]], np.float32)
    fitted = detector(bank, image_score="reweighted", reweight_neighbours=2)
    found = fitted.scorer.left_out(
        fitted.state, image(0.0, 1.0, 1.0, 1.0), np.array([0])
    )
    s, far = np.sqrt(3) * 0.5, np.sqrt(3)
    expected = (1 - np.exp(s) / (np.exp(s) + np.exp(far))) * s
    np.testing.assert_allclose(found.images, [expected], rtol=1e-6)


def test_the_only_image_cannot_be_left_out():
    fitted = detector(BLACK_AND_WHITE[:1])
    with pytest.raises(InputError, match="image 0 owns 1 of the 1 entries"):
        fitted.scorer.left_out(fitted.state, image(0, 0, 0, 0), np.array([0]))


def test_a_detector_works_under_jit_and_in_an_export():
    fitted, pixels = detector(BLACK_AND_WHITE), image(0.0, 1.0, 0.5, 0.9)
    score, heat = base.predict(fitted, pixels)
    jitted = jax.jit(lambda images: base.predict(fitted, images))
    for got in (jitted(pixels), jax.export.export(jitted)(pixels).call(pixels)):
        np.testing.assert_allclose(got[0], score, rtol=1e-6)
        np.testing.assert_allclose(got[1], heat, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("ratio", "told"), [(0.01, True), (0.1, False)])
def test_a_bank_of_one_patch_is_told(ratio, told, caplog):
    """Three small images are enough for it; all that is scored then is one distance."""
    config = config_lib.base()
    config.coreset.ratio = ratio
    rows = np.random.default_rng(0).normal(size=(3 * 16, 3)).astype(np.float32)
    keep = passes.unkept()
    bar = functools.partial(processes.progress, desc="fit")
    normal = base.Normal(Stack([rows]), (4, 4), None, keep, bar)
    state, report = knn.build(config).fit(normal)
    assert len(state["memory_bank"]) == report["bank_patches"] == (1 if told else 4)
    assert ("raise config.coreset.ratio=0.01" in caplog.text) == told


@pytest.mark.parametrize(
    ("ratio", "patches", "size"), [(0.01, 275_968, 2759), (0.01, 50, 1), (1.0, 7, 7)]
)
def test_coreset_size(ratio, patches, size):
    assert knn.coreset_size(ratio, patches) == size
