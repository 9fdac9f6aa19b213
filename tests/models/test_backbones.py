import flax
import flax.linen as nn
import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import models
from jaxad.errors import InputError
from jaxad.models import densenet, efficientnet, resnet, vit

TINY = [name for name in goldens.REFERENCES if name.startswith("tiny")]


@pytest.fixture(scope="module")
def networks():
    """Seeded networks by name, each made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = goldens.load(name)
        return made[name]

    return get


@pytest.mark.parametrize("name", [*TINY, "efficientnet_lite0"])
def test_every_tap_is_the_reference_s_at_a_non_square_size(networks, name):
    size = goldens.sizes(name)[1]
    found = goldens.differences(name, *networks(name), size)
    assert max(found.values()) < goldens.TOLERANCE, found


@pytest.mark.parametrize("name", models.names())
def test_every_backbone_has_the_reference_s_parameters_and_its_default_taps(name):
    # Values of the large ones are for `goldens.py check`; shapes are cheap.
    spec = models.spec(name)
    network, images = spec.module(), jnp.zeros((1, *spec.image_size, 3))
    (_, taps), variables = jax.eval_shape(
        network.init_with_output, jax.random.key(0), images
    )
    assert set(spec.taps) <= set(taps)
    count = sum(
        np.prod(shape, dtype=int)
        for parameter, shape in goldens.shapes(name).items()
        if "num_batches" not in parameter and "mask_token" not in parameter
    )
    # Keys have no bias in DINOv3's files; here it is zero.
    keys = network.width * network.depth if "dinov3" in name else 0
    # The class token's own position is added to it.
    own = network.width if "dinov2" in name else 0
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count + keys - own


@pytest.mark.parametrize("name", ["tiny_resnext", "tiny_densenet"])
def test_frozen_equals_the_module(networks, name):
    module, variables = networks(name)
    images = goldens.seeded("image", (2, 64, 96, 3))
    features = models.extractor(module, ("layer2", "layer3"))
    params = models.fold(module, variables)
    assert params.keys() == {"params"}
    got = jax.jit(features)(params, images)
    _, want = jax.jit(module.apply)(variables, images)
    assert tuple(got) == ("layer2", "layer3")
    for tap, value in got.items():
        scale = np.abs(want[tap]).max()
        np.testing.assert_allclose(value / scale, want[tap] / scale, atol=5e-6)


def test_fold_by_hand():
    # W = 2, scale 3, variance 4 - epsilon, mean 5, bias 7: x -> (2x - 5) * 3 / 2 + 7.
    module = resnet.ResNet((1, 1, 1, 1))
    vector = lambda value: np.array([value], np.float32)  # noqa: E731
    variables = {
        "params": {
            "c": {
                "kernel": np.full((1, 1, 1, 1), 2.0, np.float32),
                "norm": {"scale": vector(3.0), "bias": vector(7.0)},
            },
            "fc": {"kernel": np.ones((1, 1), np.float32)},
            "n": {"scale": vector(3.0), "bias": vector(7.0)},
        },
        "batch_stats": {
            "c": {"norm": {"mean": vector(5.0), "var": vector(4 - module.epsilon)}},
            "n": {"mean": vector(5.0), "var": vector(4 - module.epsilon)},
        },
    }
    folded = models.fold(module, variables)["params"]
    assert folded.keys() == {"c", "fc", "n"}
    np.testing.assert_allclose(folded["c"]["kernel"].ravel(), [3.0], rtol=1e-6)
    np.testing.assert_allclose(folded["c"]["bias"], [-0.5], rtol=1e-6)
    np.testing.assert_allclose(folded["n"]["scale"], [1.5], rtol=1e-6)
    np.testing.assert_allclose(folded["n"]["bias"], [-0.5], rtol=1e-6)


def test_without_statistics_there_is_nothing_to_fold():
    params = {"conv": {"kernel": np.ones((1, 1, 1, 1), np.float32)}}
    # Neither has an `epsilon`.
    assert models.fold(nn.Conv(1, (1, 1)), {"params": params}) == {"params": params}
    assert models.fold(nn.Sequential([]), {}) == {"params": {}}


def test_nothing_behind_the_deepest_tap_is_computed(networks):
    module, variables = networks("tiny_basic")
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)

    def flops(*taps):
        features = models.extractor(module, taps)
        params = models.fold(module, variables)
        compiled = jax.jit(features).lower(params, images).compile()
        return compiled.cost_analysis()["flops"]

    def between(less, more, operations):
        # XLA leaves out the products with padding and counts the element-wise rest.
        assert 0.8 * operations < more - less < 1.1 * operations

    stem, layer1, layer2 = flops("stem"), flops("layer1"), flops("layer2")
    between(0, stem, 2 * 49 * 3 * 64 * 32 * 32)
    # At stride 1 Winograd's 4 products a result stand for the 9 of a 3x3 kernel.
    between(stem, layer1, 2 * 2 * 4 * 64 * 64 * 16 * 16)
    # 64 to 128 channels in 3x3, 128 to 128 in 3x3, and the shortcut.
    between(layer1, layer2, 2 * (18 + 16 + 2) * 64 * 64 * 8 * 8)


def test_a_folded_backbone_does_not_train(networks):
    module, variables = networks("tiny_basic")
    params = models.fold(module, variables)
    with pytest.raises(ValueError, match="no training mode"):
        module.apply(params, jnp.zeros((1, 32, 32, 3)), train=True)


def test_frozen_names_an_unknown_tap(networks):
    module, variables = networks("tiny_basic")
    features = models.extractor(module, ["layer5"])
    params = models.fold(module, variables)
    with pytest.raises(InputError, match="no tap 'layer5'; it has stem"):
        jax.eval_shape(features, params, jnp.zeros((1, 32, 32, 3)))


def test_nodes_of_torchvision_are_aliases(networks):
    for name, aliases in {
        "tiny_basic": {"layer1.0.relu_1": "layer1", "relu": "stem"},
        "tiny_resnext": {"layer4.1.relu_2": "layer4"},
        "tiny_densenet": {
            "features.denseblock2": "layer2",
            "features.denseblock2.cat": "layer2",
            "features.relu0": "stem",
        },
    }.items():
        module, variables = networks(name)
        _, taps = jax.eval_shape(module.apply, variables, jnp.zeros((1, 64, 64, 3)))
        for alias, tap in aliases.items():
            assert taps[alias].shape == taps[tap].shape, alias


def test_gradients_flow_through_the_unfolded_module(networks):
    module, variables = networks("tiny_basic")
    images = goldens.seeded("image", (2, 32, 32, 3))

    @jax.jit
    @jax.grad
    def gradient(params):
        (_, taps), _ = module.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.sin(taps["layer2"]))

    flat = flax.traverse_util.flatten_dict(gradient(variables["params"]), sep="/")
    for key, value in flat.items():
        deeper = key.startswith(("layer3", "layer4", "fc"))
        assert np.any(value != 0) != deeper, key


def test_images_that_do_not_divide_into_patches(networks):
    module, variables = networks("tiny_dinov2")
    with pytest.raises(
        InputError, match="70x64 pixels do not divide into patches of 14"
    ):
        module.apply(variables, jnp.zeros((1, 70, 64, 3)))


# --- names of other libraries ---


@pytest.mark.parametrize(
    "rename, name, path",
    (
        (
            resnet.rename,
            "layer3.22.bn2.running_var",
            "layer3_22.conv2.norm.running_var",
        ),
        (resnet.rename, "layer1.0.downsample.0.weight", "layer1_0.downsample.weight"),
        (resnet.rename, "bn1.bias", "conv1.norm.bias"),
        (
            resnet.rename,
            "resnet.encoder.stages.3.layers.2.layer.1.convolution.weight",
            "layer4_2.conv2.weight",
        ),
        (
            resnet.rename,
            "resnet.encoder.stages.0.layers.0.shortcut.normalization.weight",
            "layer1_0.downsample.norm.weight",
        ),
        (
            resnet.rename,
            "resnet.embedder.embedder.normalization.running_mean",
            "conv1.norm.running_mean",
        ),
        (resnet.rename, "classifier.1.bias", "fc.bias"),
        (
            densenet.rename,
            "features.denseblock3.denselayer17.norm.2.weight",
            "block3_17.conv1.norm.weight",
        ),
        (
            efficientnet.rename,
            "_blocks.15._bn2.weight",
            "blocks_6_0_project.norm.weight",
        ),
        (efficientnet.rename, "blocks.0.0.bn1.bias", "blocks_0_0_depthwise.norm.bias"),
        (efficientnet.rename, "blocks.6.0.bn3.bias", "blocks_6_0_project.norm.bias"),
        (vit.rename, "blocks.3.gamma_2", "blocks_3.ls2"),
        (vit.rename, "blocks.11.attn.proj.bias", "blocks_11.proj.bias"),
        (
            vit.rename,
            "encoder.layer.7.attention.attention.query.weight",
            "blocks_7.q.weight",
        ),
        (
            vit.rename,
            "encoder.layer.7.attention.output.dense.bias",
            "blocks_7.proj.bias",
        ),
        (vit.rename, "encoder.layer.0.layer_scale1.lambda1", "blocks_0.ls1"),
        (vit.rename, "storage_tokens", "register_tokens"),
    ),
)
def test_names_of_other_libraries(rename, name, path):
    assert rename(name) == path


@pytest.mark.parametrize("form", ("timm", "original", "transformers 4"))
def test_dinov2_in_its_other_forms_gives_the_same_variables(networks, form):
    module, want = networks("tiny_dinov2_reg")
    shapes = goldens.shapes("tiny_dinov2_reg")
    state = {}
    for name, array in goldens.seeded_state(shapes).items():
        if form == "transformers 4":
            for part, old in (("q", "query"), ("k", "key"), ("v", "value")):
                name = name.replace(f".{part}_proj.", f".attention.{old}.")
            state[name.replace(".o_proj.", ".output.dense.")] = array
            continue
        name = name.replace("encoder.layer.", "blocks.").replace("attention", "attn")
        name = name.replace("layer_scale", "ls").replace("lambda1", "gamma")
        name = name.replace("o_proj", "proj").replace("layernorm", "norm")
        name = name.replace(
            "embeddings.patch_embeddings.projection", "patch_embed.proj"
        )
        name = name.replace("embeddings.position_embeddings", "pos_embed")
        state[name.replace("embeddings.", "")] = array
    if form != "transformers 4":
        for i in range(module.depth):
            for leaf in ("weight", "bias"):
                parts = [state.pop(f"blocks.{i}.attn.{p}_proj.{leaf}") for p in "qkv"]
                state[f"blocks.{i}.attn.qkv.{leaf}"] = np.concatenate(parts)
    if form == "timm":
        state["reg_token"] = state.pop("register_tokens")
        position = state.pop("pos_embed")
        state["cls_token"] = state["cls_token"] + position[:, :1]
        state["pos_embed"] = position[:, 1:]
        del state["mask_token"]
    got = goldens.assign(state, "tiny_dinov2_reg")
    assert models.fingerprint(got) == models.fingerprint(want)


def test_dinov3_of_its_authors_masks_the_bias_of_the_keys(networks):
    module, want = networks("tiny_dinov3")
    state = vit.prepare(goldens.seeded_state(goldens.shapes("tiny_dinov3")))
    state = {name.replace("blocks_", "blocks."): array for name, array in state.items()}
    for i in range(module.depth):
        bias = state[f"blocks.{i}.qkv.bias"].copy()
        width = len(bias) // 3
        np.testing.assert_array_equal(bias[width : 2 * width], 0.0)
        bias[width : 2 * width] = np.nan
        state[f"blocks.{i}.qkv.bias"] = bias
        state[f"blocks.{i}.qkv.bias_mask"] = np.ones_like(bias)
    state["storage_tokens"] = state.pop("register_tokens")
    state["rope_embed.periods"] = np.ones(16, np.float32)
    got = goldens.assign(state, "tiny_dinov3")
    assert models.fingerprint(got) == models.fingerprint(want)


def test_bicubic_by_hand():
    # Enlarging by two, a = -0.75: between samples i and i+1 at a quarter.
    at_quarter = [-0.10546875, 0.87890625, 0.26171875, -0.03515625]
    matrix = vit.bicubic(6, 12, antialias=False)
    np.testing.assert_allclose(matrix[5, 1:5], at_quarter, atol=1e-7)
    np.testing.assert_array_equal(vit.bicubic(5, 5, False), np.eye(5))
    np.testing.assert_array_equal(vit.bicubic(5, 5, True), np.eye(5))
    # JAX's antialiased cubic resize is PyTorch's.
    x = np.random.RandomState(0).randn(9, 1).astype(np.float32)
    for size in (5, 16):
        want = jax.image.resize(x, (size, 1), "cubic", antialias=True)
        np.testing.assert_allclose(vit.bicubic(9, size, True) @ x, want, atol=1e-5)


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov3_vits16"])
def test_load_takes_a_transformer_s_file_as_the_libraries_write_it(name, tmp_path):
    state = goldens.seeded_state(goldens.shapes(name))
    np.savez(tmp_path / "weights.npz", **state)
    _, variables = models.load(name, str(tmp_path / "weights.npz"))
    expected = goldens.load(name)[1]
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
