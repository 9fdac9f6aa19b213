import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import names
from jaxad.errors import InputError
from jaxad.models import decoder, heads


def levels(sides=(16, 8, 4, 2), widths=(8, 8, 16, 12)):
    rng = np.random.default_rng(0)
    return [
        jnp.asarray(rng.normal(size=(2, side, side, width)), jnp.float32)
        for side, width in zip(sides, widths, strict=True)
    ]


def drawn(network, maps):
    """Variables of the network; its own initialisers take long to compile."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), maps, (9, 9)))
    return jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0.1, 1, x.shape) / len(x.shape), x.dtype),
        shapes,
    )


def test_up_convolution_equals_laxs_transposed_convolution():
    x = levels()[1]
    layer = decoder.UpConvNorm(5)
    variables = layer.init(jax.random.key(0), x, train=False)
    ours = layer.apply(variables, x, train=False) * jnp.sqrt(1 + 1e-5)
    kernel = variables["params"]["kernel"]
    # lax slides the kernel over the spread-out input, which turns it round.
    theirs = jax.lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), "VALID")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_it_mirrors_wide_resnet50():
    shapes = [
        jax.ShapeDtypeStruct((1, side, side, width), jnp.float32)
        for side, width in ((64, 256), (32, 512), (16, 1024), (8, 2048))
    ]
    network = decoder.build(shapes)
    logits, variables = jax.eval_shape(
        lambda: network.init_with_output(
            jax.random.key(0), [jnp.zeros(s.shape) for s in shapes], (256, 256)
        )
    )
    assert logits.shape == (1, 256, 256, 2)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes["stage2_0"]["conv2"]["kernel"] == (2, 2, 512, 512)
    assert shapes["stage1_0"]["conv1"]["kernel"] == (1, 1, 1024, 256)
    assert shapes["stage0_5"]["conv2"]["kernel"] == (3, 3, 128, 128)
    blocks = [sum(f"stage{i}_" in name for name in shapes) for i in (2, 1, 0)]
    assert blocks == [3, 4, 6]


@pytest.mark.parametrize("skip", names.SKIPS)
def test_only_skips_see_the_shallow_levels(skip):
    maps = levels()
    network = decoder.build(maps, depths=(1, 1, 1), skip=skip)
    variables = drawn(network, maps)

    apply = jax.jit(lambda maps: network.apply(variables, maps, (9, 9)))
    plain, seen = apply(maps), []
    for i in range(4):
        other = [m + (j == i) for j, m in enumerate(maps)]
        seen.append(bool((apply(other) != plain).any()))
    assert seen == [skip == "unet"] * 3 + [True]


def test_levels_of_odd_size():
    maps = levels((15, 8, 4, 2))
    network = decoder.build(maps, depths=(1, 1, 1), skip="unet")
    logits, _ = jax.eval_shape(
        lambda: network.init_with_output(jax.random.key(0), maps, (60, 57))
    )
    assert logits.shape == (2, 60, 57, 2)


@pytest.mark.parametrize("skip", names.SKIPS)
def test_the_map_has_the_shallowest_levels_grid(skip):
    maps = levels((25, 13, 7, 4))
    network = decoder.build(maps, depths=(1, 1, 1), skip=skip)

    def run():
        options = dict(capture_intermediates=lambda m, _: m.name == "logits")
        return network.init_with_output(jax.random.key(0), maps, (100, 100), **options)

    kept = jax.eval_shape(run)[1]["intermediates"]["logits"]["__call__"][0]
    assert kept.shape == (2, 25, 25, 2)


def test_every_pixel_begins_undecided():
    maps = levels()
    network = decoder.build(maps, depths=(1, 1, 1), skip="unet")
    variables = jax.jit(network.init, static_argnums=2)(jax.random.key(0), maps, (9, 9))
    logits, _ = network.apply(variables, maps, (9, 9), train=True, mutable=True)
    margin = logits[..., 1] - logits[..., 0]
    assert 0 < np.abs(margin).max() < 1


def test_levels_that_do_not_halve_are_refused():
    with pytest.raises(InputError, match="halve"):
        decoder.build(levels((16, 16, 4, 2)))


def test_batch_norm_by_hand():
    x = jnp.asarray([[1.0, 2.0], [3.0, 6.0]])
    norm = heads.Norm("batch", affine=False, epsilon=0.0)
    np.testing.assert_allclose(norm.apply({}, x), [[-1, -1], [1, 1]], atol=1e-6)
    both = norm.apply({}, jnp.stack([x, 10 * x[::-1]], 1))  # batches of their own
    np.testing.assert_allclose(both[:, 1], [[1, 1], [-1, -1]], atol=1e-6)
    np.testing.assert_allclose(both[:, 0], [[-1, -1], [1, 1]], atol=1e-6)
    rows = heads.Norm("layer", affine=False, epsilon=0.0)
    np.testing.assert_allclose(rows.apply({}, x), [[-1, 1], [-1, 1]], atol=1e-6)


@pytest.mark.parametrize("norm", names.NORMS)
def test_heads_have_one_projector_and_predictor_a_level(norm):
    pooled = [jnp.ones((4, 6)), jnp.ones((4, 10))]
    module = heads.SimSiamHeads(levels=2, width=16, bottleneck=4, norm=norm)
    variables = module.init(jax.random.key(0), pooled)
    z, p = module.apply(variables, pooled)
    assert [x.shape for x in z + p] == [(4, 16)] * 4
    alone = module.apply(variables, pooled, method=module.project)
    np.testing.assert_array_equal(alone[1], z[1])
    kernels = jax.tree.map(jnp.shape, variables["params"])
    assert kernels["projectors_1"]["layer0"]["kernel"] == (10, 16)
    assert kernels["predictors_0"]["layer0"]["kernel"] == (16, 4)


def test_participation_ratio_by_hand():
    # Variances 4, 1 and 0 along the axes: (4 + 1)^2 / (16 + 1).
    x = np.zeros((4, 3), np.float32)
    x[:, :2] = [[2, 1], [2, -1], [-2, 1], [-2, -1]]
    np.testing.assert_allclose(heads.participation_ratio(x + 5), 25 / 17, rtol=1e-5)
    wide = np.pad(x, ((0, 0), (0, 2)))  # more channels than rows, which are none
    np.testing.assert_allclose(heads.participation_ratio(wide), 25 / 17, rtol=1e-5)
    line = jnp.arange(8.0)[:, None] * jnp.asarray([[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(heads.participation_ratio(line), 1, rtol=1e-5)
    assert heads.participation_ratio(jnp.ones((4, 3))) == 0


def test_collapse_is_zero_for_one_point_and_one_for_a_cloud():
    same = jnp.ones((32, 64))
    assert heads.collapse(same) < 1e-6
    cloud = jnp.asarray(np.random.default_rng(0).normal(size=(512, 256)), jnp.float32)
    np.testing.assert_allclose(heads.collapse(cloud), 1.0, atol=0.02)
