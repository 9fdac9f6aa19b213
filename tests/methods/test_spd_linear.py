"""The linear evaluation of a backbone: its steps, its crops, and what it tests on."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plugins import levels

from jaxad.methods import spd, spd_linear

# Three pictures of 4 x 4, of one colour each: their features are that colour.
COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0.5, 0, 1]], np.float32)
BATCH = {
    "image": jnp.tile(COLOURS[:, None, None], (1, 4, 4, 1)),
    "index": jnp.arange(3, dtype=jnp.int32),
    "label": jnp.array([0, 1, 1], jnp.int32),
}


def embed(variables, images):
    return images.mean((1, 2)) + variables["params"]["offset"]


@pytest.fixture
def make_stage(monkeypatch):
    def make(**changes):
        options = spd.fields()
        options.classes = 2
        options.linear.update(batch_size=128, learning_rate=8.0, epochs=2, **changes)
        backbone = types.SimpleNamespace(module=levels.Tiny())
        return spd_linear.stage(options, backbone, embed, 3, (2, 2))

    # Nothing to fold in a backbone that is an offset; crops have a test of their own.
    monkeypatch.setattr(spd_linear.models, "fold", lambda module, variables: variables)
    monkeypatch.setattr(spd_linear, "_crop", lambda key, image, size: image)
    return make


PARAMS = {"backbone": {"params": {"offset": jnp.zeros((1, 3))}}}


def by_hand(kernel, bias, rates, scale=lambda kernel, gradient: 1.0):
    """Momentum of 0.9 on the cross-entropy of all three, a rate a step."""
    truth, momentum = np.eye(2)[[0, 1, 1]], [0.0, 0.0]
    for rate in rates:
        p = np.exp(COLOURS @ kernel + bias)
        wrong = (p / p.sum(1, keepdims=True) - truth) / 3
        gradient = COLOURS.T @ wrong
        momentum[0] = 0.9 * momentum[0] + scale(kernel, gradient) * gradient
        momentum[1] = 0.9 * momentum[1] + wrong.sum(0)
        kernel, bias = kernel - rate * momentum[0], bias - rate * momentum[1]
    return kernel, bias


def lars(kernel, gradient):
    return 1e-3 * np.linalg.norm(kernel) / np.linalg.norm(gradient)


@pytest.mark.parametrize(
    ("changes", "rates", "scale"),
    [
        # A rate of 8 for 256 is 4 for 128: half way down the cosine it is 2.
        (dict(optimiser="sgd"), (4.0, 2.0), lambda kernel, gradient: 1.0),
        (dict(optimiser="lars"), (4.0, 2.0), lars),
        # A tenth after 30 %, a hundredth after half of the steps.
        (dict(optimiser="sgd", drops=(0.3, 0.5)), (4.0, 0.04), lambda k, g: 1.0),
    ],
    ids=["sgd", "lars", "drops"],
)
def test_steps_one_by_one(make_stage, changes, rates, scale):
    stage = make_stage(**changes)
    state = stage.init(jax.random.key(0), PARAMS, (4, 4, 3))
    kernel = np.asarray(state["layer"]["kernel"], np.float64)
    assert kernel.shape == (3, 2) and 0 < np.abs(kernel).max() < 0.05
    want = by_hand(kernel, np.zeros(2), rates, scale)
    step = jax.jit(stage.step)
    for progress in (0.0, 0.5):
        batch = BATCH | {"progress": jnp.float32(progress)}
        state, curves = step(state, batch, jax.random.key(1))
    handed_on = stage.finish(state, PARAMS)
    layer = handed_on.pop("layer")
    assert handed_on == PARAMS and not stage.tunes  # nothing of the backbone changes
    np.testing.assert_allclose(layer["kernel"], want[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer["bias"], want[1], rtol=1e-4, atol=1e-6)
    # The curve is of the layer before the step.
    first = by_hand(kernel, np.zeros(2), rates[:1], scale)
    right = (COLOURS @ first[0] + first[1]).argmax(1) == [0, 1, 1]
    np.testing.assert_allclose(curves["top1_accuracy"], right.mean(), rtol=1e-6)
    assert stage.num_steps(300) == 4  # two whole batches, twice


def test_top1_by_hand():
    """The first colour for class 0, the third for 1; the second is the first's."""
    kernel = jnp.array([[1.0, 0.0], [0.1, 0.0], [0.0, 2.0]])
    params = PARAMS | {"layer": {"kernel": kernel, "bias": jnp.zeros(2)}}
    found = spd_linear.test(embed, (4, 4), params, BATCH)
    np.testing.assert_array_equal(found["top1_accuracy"], [1.0, 0.0, 1.0])


def test_the_middle_of_a_picture():
    """14 of 16 pixels as they are; of 32 the same, brought to 16 first."""
    x = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    middle = spd_linear.middle(jnp.asarray(x), (14, 14))
    np.testing.assert_array_equal(middle, x[:, 1:15, 1:15])
    np.testing.assert_array_equal(spd_linear.middle(x, (16, 16)), x)
    np.testing.assert_array_equal(
        spd_linear.middle(x[:, :15], (14, 14)), x[:, :14, 1:15]
    )
    large = jnp.asarray(x).repeat(2, 1).repeat(2, 2)
    shrunk = spd_linear.middle(large, (14, 14))
    want = spd_linear.resized(large, (16, 16))[:, 1:15, 1:15]
    np.testing.assert_array_equal(shrunk, want)


def test_crops_are_of_the_middle_too_and_half_are_mirrored():
    """A ramp from left to right falls in a mirrored crop, and rises in any other."""
    ramp = jnp.tile(jnp.linspace(0, 1, 16)[None, :, None], (16, 1, 3))
    crop = jax.jit(jax.vmap(lambda key: spd_linear._crop(key, ramp, (8, 8))))
    crops = np.asarray(crop(jax.random.split(jax.random.key(0), 200)))
    assert crops.shape == (200, 8, 8, 3)
    slopes = crops[:, 0, -1, 0] - crops[:, 0, 0, 0]
    assert 70 < (slopes > 0).sum() < 130 and (slopes != 0).all()
    widths = np.abs(slopes)
    assert widths.min() < 0.35 and widths.max() > 0.8
