"""Functions of JAX as ONNX models: the same numbers from onnxruntime."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from jaxad import models, patches
from jaxad.errors import InputError
from jaxad.inference import onnx_graph
from jaxad.models import densenet, layers, resnet, vit


def both(function, arrays, images, kept=frozenset()):
    """(the model's, the function's) results by name."""
    model = onnx_graph.model(function, arrays, images.shape[1:3], images.dtype, kept)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {"images": images})
    return dict(zip(names, found, strict=True)), jax.jit(function)(arrays, images)


def test_operations():
    """Each in a form of its own, on odd sizes."""
    random = np.random.default_rng(0)
    images = random.normal(size=(2, 6, 5, 3)).astype(np.float32)
    table = random.normal(size=(7, 4)).astype(np.float32)
    kernel = random.normal(size=(3, 2, 3, 4)).astype(np.float32)
    grouped = random.normal(size=(2, 2, 1, 6)).astype(np.float32)

    def convolve(x, kernel, **options):
        return jax.lax.conv_general_dilated(
            x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        )

    def pool(x, start, combined):
        sizes, strides = (1, 3, 2, 1), (1, 2, 1, 1)
        padding = ((0, 0), (1, 1), (0, 1), (0, 0))
        return jax.lax.reduce_window(x, start, combined, sizes, strides, padding)

    def function(given, x):
        rows = x.reshape(x.shape[0], -1, 3)
        far = (rows[:, :, None] - given["table"][None, None, :, :3]) ** 2
        nearest = far.sum(-1).argmin(-1)
        return {
            "a": convolve(
                x, given["kernel"], window_strides=(2, 1), padding=((1, 2), (0, 1))
            ),
            "b": convolve(
                x,
                given["grouped"],
                window_strides=(1, 1),
                padding="VALID",
                rhs_dilation=(2, 1),
                feature_group_count=3,
            ),
            "c": pool(x, -jnp.inf, jax.lax.max) + pool(x, 0.0, jax.lax.add),
            "d": jax.nn.softmax(rows @ rows.mT, axis=-1),
            "e": jax.nn.gelu(x, approximate=False),
            "f": jnp.einsum("bhwc,hk->bkwc", x, jnp.arange(12.0).reshape(6, 2)),
            "g": given["table"].at[nearest].get(mode="promise_in_bounds"),
            "h": jnp.pad(x[:, 1::2, :4], ((0, 0), (1, 0), (0, 2), (0, 0))),
            "i": jnp.where((x > 0) & ~(x >= 1), x**3, jax.nn.sigmoid(x)),
            "j": jnp.concatenate([x.mean(3), x.max(3)], 1).transpose(0, 2, 1),
            "k": jax.lax.rsqrt(jnp.abs(x) + 1) / jnp.sqrt(jnp.exp(x)),
            "l": (x[:, :, :, 0] != x[:, :, :, 1]).astype(jnp.int32),
            # What depends on the platform takes its general form.
            "n": layers.conv(x, given["depthwise"], padding=1, groups=3),
            "o": patches.pooled([x, x[:, :3, :4]], level_dim=7, target_dim=5),
            "m": jnp.broadcast_to(x.min(3)[..., None], x.shape) - jnp.tanh(x),
        }

    arrays = {"table": table, "kernel": kernel, "grouped": grouped}
    arrays["depthwise"] = random.normal(size=(3, 3, 1, 3)).astype(np.float32)
    found, want = both(function, arrays, images, kept={"table"})
    assert sorted(found) == sorted(want) == list("abcdefghijklmno")
    for name in want:
        assert found[name].dtype == want[name].dtype, name
        np.testing.assert_allclose(found[name], want[name], 1e-4, 1e-5, err_msg=name)


def filled(shapes):
    """Variables of small weights, without a compilation; variances are positive.

    Weights have a mean of zero: else a token's entries are nearly one number, of which
    layer normalisation leaves the rounding.
    """
    random = np.random.default_rng(0)

    def fill(path, x):
        values = random.normal(0.0, 0.1, x.shape)
        positive = jax.tree_util.keystr(path).endswith("['var']")
        return (np.abs(values) if positive else values).astype(np.float32)

    return jax.tree.map_with_path(fill, shapes)


TINY_VIT = functools.partial(
    vit.VisionTransformer, width=16, heads=2, depth=2, registers=1
)


SHALLOW = dict(depths=(1, 1, 1, 1), num_classes=2)
TINY = {
    "resnet18": models.spec("resnet18").module,
    "resnext": functools.partial(resnet.ResNet, groups=4, group_width=4, **SHALLOW),
    "densenet": functools.partial(densenet.DenseNet, growth=4, **SHALLOW),
    "vit": TINY_VIT,
    # With rotated positions, as DINOv3 has them.
    "dinov3": functools.partial(TINY_VIT, positions=0, epsilon=1e-5),
}


@pytest.mark.parametrize("name", TINY)
def test_backbones(name):
    """What those of each kind are made of."""
    module = TINY[name]()
    size = (28, 42) if name in ("vit", "dinov3") else (64, 32)
    images = np.random.default_rng(0).random((2, *size, 3)).astype(np.float32)
    variables = filled(jax.eval_shape(module.init, jax.random.key(0), images[:1]))
    leaves, tree = jax.tree.flatten(variables)
    arrays = {f"{i:04}": leaf for i, leaf in enumerate(leaves)}

    def function(given, x):
        given = jax.tree.unflatten(tree, [given[n] for n in sorted(given)])
        maps = module.apply(given, x)[1]
        return {f"map {tap}": x / jnp.abs(x).max() for tap, x in maps.items()}

    found, want = both(function, arrays, images)
    assert set(found) == set(want) and want
    for tap in want:
        np.testing.assert_allclose(found[tap], want[tap], 1e-3, 1e-5, err_msg=tap)


def test_an_operation_without_a_node_is_named():
    def function(given, x):
        return {"sorted": jnp.sort(x, 3)}

    with pytest.raises(InputError, match="operation sort of this detector has no ONNX"):
        both(function, {}, np.zeros((1, 2, 2, 3), np.float32))
