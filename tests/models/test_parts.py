import jax
import jax.numpy as jnp
from plugins.levels import Tiny

from jaxad.models import parts


def shapes(module):
    images = jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(module.init, jax.random.key(0), images)


def whole(part):
    """Names of the layers of which all weights are of the part, or none."""
    found = {name: set(jax.tree.leaves(layer)) for name, layer in part.items()}
    assert all(len(each) == 1 for each in found.values())
    return [name for name, each in found.items() if each == {True}]


def test_scales_and_shifts():
    part = parts.normalisations(shapes(Tiny())["params"])
    for layer in part.values():
        assert layer == {"kernel": False, "norm": {"scale": True, "bias": True}}


def test_what_lies_between_levels():
    module = Tiny()
    levels = module.names

    def between(*taps):
        return whole(parts.between(module, shapes(module), (32, 32, 3), taps, levels))

    assert between("layer2", "layer3") == ["conv2", "conv3"]  # not layer1's
    assert between("layer1", "layer2") == ["conv1", "conv2"]  # from the image on
    assert between("layer4") == ["conv4"]
