"""A backbone of one's own with all that is trained: levels, normalised."""

import flax.linen as nn
import jax.numpy as jnp

from jaxad import models
from jaxad.models.layers import ConvNorm


class Tiny(nn.Module):
    """Levels at strides 2, 4, 8, ..."""

    names: tuple = ("layer1", "layer2", "layer3", "layer4")
    widths: tuple = (4, 8, 8, 12)
    dtype: object = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, images, train=False):
        x, maps = images, {}
        for i, (name, width) in enumerate(zip(self.names, self.widths, strict=True)):
            conv = ConvNorm(width, 3, 2, 1, dtype=self.dtype, name=f"conv{i + 1}")
            x = nn.relu(conv(x, train=train))
            maps[name] = x
        return x.mean((1, 2)), maps


def spec():
    return models.Spec(
        name=__name__,
        taps=("layer1", "layer2"),
        weights="random",
        module=Tiny,
        rename=str,
        image_size=(32, 32),
    )
