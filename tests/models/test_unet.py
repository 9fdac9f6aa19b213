"""U-Net's decoder beside that of segmentation_models.pytorch."""

import json
import pathlib

import goldens
import jax
import jax.numpy as jnp
import make_fixtures
import numpy as np
import pytest

from jaxad import models
from jaxad.errors import InputError
from jaxad.models import pretrained, unet

FIXTURE = pathlib.Path(__file__).parent / "fixtures/unet_logits.npz"
NARROW = unet.Decoder(make_fixtures._DECODER)


def shapes_of(network, levels, size):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), levels, size))


@pytest.fixture(scope="module")
def golden():
    with np.load(FIXTURE) as file:
        return dict(file)


@pytest.fixture(scope="module")
def variables(golden):
    state = goldens.seeded_state(json.loads(str(golden["shapes"])))
    size = make_fixtures.UNET_SIZES[0]
    wanted = shapes_of(NARROW, make_fixtures.unet_levels(size), size)
    return pretrained.assign("unet.npz", state, wanted, unet.rename)


@pytest.mark.parametrize("size", make_fixtures.UNET_SIZES, ids=str)
def test_logits_are_those_of_segmentation_models(size, golden, variables):
    levels, expected = make_fixtures.unet_levels(size), golden["{}x{}".format(*size)]
    folded = models.fold(NARROW, variables)
    for form in (variables, folded):
        apply = jax.jit(lambda form: NARROW.apply(form, levels, size))
        found = np.asarray(apply(form))
        assert found.shape == (1, *size, 1) and found.dtype == np.float32
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)


def test_on_resnet50_it_has_as_many_parameters():
    """segmentation_models.pytorch 0.6.0: 32,521,105 with the encoder."""
    size, module = (64, 64), models.spec("resnet50").module()
    images = jnp.zeros((1, *size, 3))
    encoder, maps = jax.eval_shape(
        lambda: (
            module.init(jax.random.key(0), images),
            module.init_with_output(jax.random.key(0), images)[0][1],
        )
    )
    levels = [maps[level] for level in unet.LEVELS]
    assert [level.shape[3] for level in levels] == [64, 256, 512, 1024, 2048]
    zeros = [jnp.zeros(level.shape) for level in levels]
    decoder = shapes_of(unet.Decoder(), zeros, size)["params"]
    encoder = {name: x for name, x in encoder["params"].items() if name != "fc"}
    count = sum(x.size for x in jax.tree.leaves((encoder, decoder)))
    assert count == 32_521_105
    skips = [decoder[f"block{i}_conv1"]["kernel"].shape[2] for i in range(5)]
    assert skips == [2048 + 1024, 256 + 512, 128 + 256, 64 + 64, 32]
    assert decoder["head"]["kernel"].shape == (3, 3, 16, 1)


def test_levels_that_do_not_halve_are_refused():
    def levels(*sides):
        return [jax.ShapeDtypeStruct((1, side, side, 4), jnp.float32) for side in sides]

    unet.check(levels(16, 8, 4, 2, 1), (31, 31), "a")
    with pytest.raises(InputError, match="halve .*name=a are 32 x 32, 16 x 16, 16 x"):
        unet.check(levels(16, 16, 8, 4, 2), (32, 32), "a")
