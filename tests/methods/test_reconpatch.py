import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import config as config_lib
from jaxad import losses, methods, rng
from jaxad.errors import InputError
from jaxad.methods import reconpatch
from jaxad.methods.base import Backbone
from jaxad.training import loop

WIDTH = 6


def backbone():
    """Two levels of a stride-4 and a stride-8 grid, by averaging."""

    def levels(variables, images):
        def pool(side):
            b, h, w, _ = images.shape
            blocks = images.reshape(b, h // side, side, w // side, side, 3)
            return blocks.mean((2, 4)) * variables["scale"]

        return [pool(4), pool(8)]

    mean = (0.0, 0.0, 0.0)
    return Backbone("toy", None, ("a", "b"), mean, (1.0, 1.0, 1.0), levels)


def make(**changed):
    config = config_lib.base()
    config.dataset.image_size = (16, 16)
    config.method = reconpatch.fields()
    config.method.update({"dim": 4, "projection_dim": 3, "batch_size": 8, "k": 3})
    config.method.update(changed)
    return config, methods.build(config, backbone())


def params():
    return {"backbone": {"scale": jnp.ones(())}}


def start(method):
    init = jax.jit(method.stages[0].init, static_argnums=2)
    return init(jax.random.key(0), params(), (WIDTH,))


pairwise = jax.jit(losses.pairwise_similarity, static_argnames="sigma")
contextual = jax.jit(losses.contextual_similarity, static_argnames="k")


def patches(n=40, seed=0):
    return np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)


def test_starts_orthogonal_and_with_exact_copies():
    _, method = make()
    state = start(method)
    kernel = state["student"]["f"]["kernel"]
    assert kernel.shape == (WIDTH, 4)  # two levels of three channels
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(4), atol=1e-6)
    assert state["student"]["g"]["kernel"].shape == (4, 3)
    assert set(state["student"]["f"]) == set(state["student"]["g"]) == {"kernel"}
    jax.tree.map(np.testing.assert_array_equal, state["student"], state["teacher"])


def test_features_are_patchcore_s():
    """The shared descriptor, of normalised images."""
    _, method = make()
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    out = method.features(params(), images)
    assert out.shape == (2, 4, 4, WIDTH)
    config, _ = make()
    config.method = {"name": "patchcore"}
    same = methods.build(config, backbone()).features(params(), images)
    np.testing.assert_array_equal(out, same)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_soft_labels_mix_the_two_similarities(alpha):
    config, _ = make(alpha=alpha)
    z = patches(9)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    want = alpha * pairwise(unit, sigma=0.5)
    want += (1 - alpha) * contextual(unit, k=3)
    got = jax.jit(functools.partial(reconpatch.soft_labels, config.method))(z)
    np.testing.assert_allclose(got, want, atol=1e-6)
    config, _ = make(alpha=1.0, normalise=False)
    got = jax.jit(functools.partial(reconpatch.soft_labels, config.method))(z)
    np.testing.assert_allclose(got, pairwise(z, sigma=0.5))


def test_a_step_from_the_equations():
    """Labels from the slow copies, the first AdamP step, then eq. 8."""
    config, method = make(ema=0.9, learning_rate=0.01, weight_decay=0.0)
    stage, state = method.stages[0], start(method)
    state["teacher"] = jax.tree.map(lambda x: x * 0.8, state["teacher"])
    x = patches(8)
    batch = {"patches": x, "index": np.arange(8), "progress": jnp.float32(0.5)}
    after, metrics = jax.jit(stage.step)(state, batch, jax.random.key(1))

    @jax.jit
    def equations(student, teacher):
        w = reconpatch.soft_labels(config.method, reconpatch.embed(teacher, x))

        def loss_of(student):
            return losses.relaxed_contrastive_loss(reconpatch.embed(student, x), w)

        return w, *jax.value_and_grad(loss_of)(student)

    w, loss, grads = equations(state["student"], state["teacher"])
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["mean_weight"], w.mean(), rtol=1e-5)
    for name in ("f", "g"):
        # The loss does not see the scale. So AdamP's first step, the gradient's sign,
        # loses its part along the kernel, at half the rate by now.
        kernel = np.asarray(state["student"][name]["kernel"])
        sign = np.sign(grads[name]["kernel"])
        unit = kernel / np.linalg.norm(kernel)
        want = kernel - 0.005 * (sign - unit * (unit * sign).sum())
        got = after["student"][name]["kernel"]
        np.testing.assert_allclose(got, want, atol=1e-5)
    jax.tree.map(
        lambda t, old, new: np.testing.assert_allclose(
            t, 0.9 * old + 0.1 * new, atol=1e-7
        ),
        after["teacher"],
        state["teacher"],
        after["student"],
    )


def test_embedding_is_g_after_f():
    random = np.random.default_rng(0)

    def network(inputs, outputs):
        return {"kernel": random.normal(size=(inputs, outputs)).astype(np.float32)}

    networks = {"f": network(WIDTH, 4), "g": network(4, 3)}
    z = reconpatch.embed(networks, patches(9))
    want = patches(9) @ networks["f"]["kernel"] @ networks["g"]["kernel"]
    np.testing.assert_allclose(z, want, rtol=1e-4, atol=1e-5)


def test_no_ema_keeps_no_copy():
    _, method = make(ema=0.0)
    stage, state = method.stages[0], start(method)
    batch = {"patches": patches(8), "progress": jnp.float32(0)}
    state, _ = jax.jit(stage.step)(state, batch, jax.random.key(0))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6),
        state["student"],
        state["teacher"],
    )


def test_collapse_by_hand():
    line = jnp.array([[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]])
    np.testing.assert_allclose(reconpatch.collapse(line)["z_rank"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(reconpatch.collapse(line)["z_variance"], 2 / 3)
    cross = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    np.testing.assert_allclose(reconpatch.collapse(cross)["z_rank"], 3.0, rtol=1e-6)
    point = reconpatch.collapse(jnp.ones((4, 3)))
    assert point["z_rank"] == point["z_variance"] == 0.0


def test_steps_and_what_is_handed_on():
    _, method = make(epochs=3)
    stage = method.stages[0]
    assert stage.num_steps(41) == 15  # five whole batches of eight, three times
    state = stage.init(jax.random.key(0), params(), (WIDTH,))
    out = stage.finish(state, params())
    assert set(out) == {"backbone", "f"}
    projected = method.project(out, patches(10).reshape(2, 5, WIDTH))
    want = patches(10) @ np.asarray(state["student"]["f"]["kernel"])
    np.testing.assert_allclose(projected.reshape(10, 4), want, rtol=1e-5, atol=1e-6)
    # A detector that was fitted when f had a bias, whose memory bank has it, too.
    out["f"]["bias"] = bias = np.arange(4, dtype=np.float32)
    projected = method.project(out, patches(10).reshape(2, 5, WIDTH))
    want = want + bias
    np.testing.assert_allclose(projected.reshape(10, 4), want, rtol=1e-5, atol=1e-6)


def test_loss_falls_while_the_labels_stand_still(tmp_path):
    """Six tight groups; copies this slow never leave their start."""
    x = np.repeat(patches(6, seed=1), 32, axis=0) + 0.3 * patches(192, seed=2)
    _, method = make(batch_size=192, epochs=60, learning_rate=1e-2, ema=0.999999)
    options = loop.Options(log_every=1)
    loop.train(method.stages[0], params(), x, seed=0, workdir=tmp_path, options=options)
    text = (tmp_path / "metrics.jsonl").read_text()
    loss = [json.loads(line)["loss"] for line in text.splitlines()]
    assert len(loss) == 60 and loss[-1] < 0.9 * loss[0]


def test_no_epochs_is_a_random_projection(tmp_path):
    _, method = make(epochs=0)
    stage = method.stages[0]
    out = loop.train(stage, params(), patches(), seed=3, workdir=tmp_path)
    want = stage.init(rng.stream(3, f"{stage.name}.init"), params(), (WIDTH,))
    want = want["student"]["f"]
    jax.tree.map(np.testing.assert_array_equal, out["f"], want)


@pytest.mark.parametrize(
    "field, value",
    [
        ("k", 8),
        ("k", 0),
        ("alpha", 1.5),
        ("ema", 1.0),
        ("sigma", 0.0),
        ("margin", -1.0),
        ("dim", 0),
        ("epochs", -1),
    ],
)
def test_fields_that_cannot_work(field, value):
    with pytest.raises(InputError, match=rf"config.method.{field}={value} must be"):
        make(**{field: value})


def test_fewer_patches_than_the_batch(tmp_path):
    _, method = make()
    with pytest.raises(InputError, match="batches of 8 and .* only 5 patches"):
        loop.train(method.stages[0], params(), patches(5), seed=0, workdir=tmp_path)


def test_divergence_is_caught(tmp_path):
    _, method = make()
    stage = dataclasses.replace(
        method.stages[0],
        init=lambda *args: jax.tree.map(
            lambda x: x * jnp.inf, method.stages[0].init(*args)
        ),
    )
    with pytest.raises(InputError, match="stage 'reconpatch' diverged"):
        loop.train(stage, params(), patches(), seed=0, workdir=tmp_path)
