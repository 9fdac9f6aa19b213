"""A backbone of one's own: two convolutions, so that tests compile in no time."""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxad import models


def _drawn(key, shape, dtype=jnp.float32):
    """A kernel that depends on its shape alone: JAX's draws take long to compile."""
    drawn = np.random.default_rng(shape).normal(size=shape)
    return jnp.asarray(drawn / np.sqrt(np.prod(shape[:-1])), dtype)


class Tiny(nn.Module):
    dtype: object = jnp.float32
    epsilon = 1e-5

    @nn.compact
    def __call__(self, images, train=False):
        conv = functools.partial(
            nn.Conv, dtype=self.dtype, padding="VALID", kernel_init=_drawn
        )
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
