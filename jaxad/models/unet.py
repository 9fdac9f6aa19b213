"""U-Net's decoder: from a backbone's feature maps to a logit a pixel.

References:
  Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation,
  MICCAI 2015 (arXiv:1505.04597); with the layout of segmentation_models.pytorch, which
  SPot-the-Difference (arXiv:2207.14315) uses.
"""

import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxad.errors import InputError
from jaxad.models.layers import Conv, ConvNorm

# Of the encoder, shallowest first, under the names that every backbone knows.
LEVELS = ("stem", "layer1", "layer2", "layer3", "layer4")


class Decoder(nn.Module):
    """Doubles the resolution five times, from stride 32 to pixels.

    A block takes the nearest neighbour of each new pixel, stacks the encoder's map of
    that resolution on top, where there is one, and goes through two 3x3 convolutions
    with batch normalisation and ReLU. The last block has no map to stack: the image
    itself would be it.

    Attributes:
      widths: channels of the blocks, deepest first.
      dtype: of the computation; parameters are float32.
    """

    widths: Sequence[int] = (256, 128, 64, 32, 16)
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        levels: Sequence[jax.Array],
        size: tuple[int, int],
        *,
        train: bool = False,
    ) -> jax.Array:
        """Feature maps to logits.

        Args:
          levels: of the encoder, [b, h_l, w_l, c_l], at strides 2, 4, 8, 16 and 32.
          size: (H, W) of the image.
          train: whether to normalise with the batch, and to move `batch_stats`.

        Returns:
          [b, H, W, 1], float32.
        """
        *shallower, x = levels
        skips = [None, *shallower]
        for i, width in enumerate(self.widths):
            skip = skips.pop()
            x = _doubled(x, size if skip is None else skip.shape[1:3])
            if skip is not None:
                x = jnp.concatenate([x, skip], -1)
            for j in (1, 2):
                conv = ConvNorm(
                    width,
                    3,
                    1,
                    1,
                    epsilon=self.epsilon,
                    dtype=self.dtype,
                    name=f"block{i}_conv{j}",
                )
                x = nn.relu(conv(x, train=train))
        # Small, so that every pixel begins undecided.
        small = nn.initializers.normal(0.01)
        head = Conv(
            1, 3, 1, 1, use_bias=True, dtype=self.dtype, kernel_init=small, name="head"
        )
        return head(x).astype(jnp.float32)


def check(
    levels: Sequence[jax.ShapeDtypeStruct], size: tuple[int, int], backbone: str
) -> None:
    """Raises InputError unless each level [b, h, w, c] has half the one before."""
    sides = [tuple(size), *(tuple(level.shape[1:3]) for level in levels)]
    for shallow, deep in itertools.pairwise(sides):
        if deep != tuple(-(-side // 2) for side in shallow):
            shown = ", ".join(f"{h} x {w}" for h, w in sides)
            raise InputError(
                "a U-Net needs levels that halve from one to the next, and those of "
                f"config.backbone.name={backbone} are {shown}; choose another backbone"
            )


def _doubled(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[b, h, w, c] at twice the resolution; a side that was odd loses its last."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)[:, : size[0], : size[1]]


def rename(name: str) -> str:
    """A parameter's path here from its name in segmentation_models.pytorch."""
    name = name.removeprefix("decoder.").removeprefix("segmentation_head.")
    if name.startswith("0."):
        return f"head.{name.removeprefix('0.')}"
    _, block, conv, layer, leaf = name.split(".")
    norm = "norm." if layer == "1" else ""
    return f"block{block}_{conv}.{norm}{leaf}"
