"""A backbone of one's own: two convolutions, so that tests compile in no time."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from jaxad import models


class Tiny(nn.Module):
    dtype: object = jnp.float32
    epsilon = 1e-5

    @nn.compact
    def __call__(self, images, train=False):
        conv = functools.partial(nn.Conv, dtype=self.dtype, padding="VALID")
        shallow = nn.relu(conv(4, (4, 4), (4, 4), name="shallow")(images))
        deep = nn.relu(conv(6, (2, 2), (2, 2), name="deep")(shallow))
        return deep.mean((1, 2)), {"layer1": shallow, "layer2": deep}


def spec():
    return models.Spec(
        name=__name__,
        taps=("layer1", "layer2"),
        weights="random",
        module=Tiny,
        rename=str,
        image_size=(32, 32),
    )
