"""The inverse of a backbone: from its deepest feature map back to pixels."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxad.errors import InputError
from jaxad.models.layers import BatchNorm, Conv, ConvNorm


class InverseNetwork(nn.Module):
    """Labels every pixel from a backbone's four levels, `layer1` to `layer4`.

    One stage for each of `layer3`, `layer2` and `layer1` doubles the resolution and
    ends in that level's width; a head gives two logits a pixel. On WideResNet-50 that
    is the usual inverse WideResNet-50; on any other backbone it follows that one's
    widths.

    Attributes:
      widths: channels of `layer1`, `layer2` and `layer3`, multiples of 4.
      depths: residual blocks of the three stages, deepest first.
      skip: "none", or "unet": each stage, and the head, also sees the backbone's map
        at its resolution, through a 1x1 convolution of the stack of both.
      head_width: channels of the head.

    References:
      Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding,
      CVPR 2022 (arXiv:2201.10703), section 3.1: the decoder.
    """

    widths: Sequence[int]
    depths: Sequence[int] = (3, 4, 6)
    skip: str = "none"
    head_width: int = 64

    @nn.compact
    def __call__(
        self,
        levels: Sequence[jax.Array],
        size: tuple[int, int],
        *,
        train: bool = False,
    ) -> jax.Array:
        """Levels [b, h_l, w_l, c_l], shallowest first, to logits [b, *size, 2].

        Without skips the others only give the sizes. Training mode normalises with the
        batch and moves the collection `batch_stats`. The collection `intermediates` has
        each stage's map, under the name of the level whose shape it has.
        """
        *shallower, x = levels
        for i in (2, 1, 0):
            for j in range(self.depths[2 - i]):
                block = Bottleneck(self.widths[i] // 4, up=j == 0, name=f"stage{i}_{j}")
                x = block(x, train=train)
            # A level of odd size comes back one pixel larger.
            h, w = shallower[i].shape[1:3]
            x = x[:, :h, :w]
            if self.skip == "unet":
                x = jnp.concatenate([x, shallower[i]], -1)
                x = Conv(self.widths[i], name=f"skip{i}")(x)
            self.sow("intermediates", f"layer{i + 1}", x)
        x = nn.relu(ConvNorm(self.head_width, 3, 1, 1, name="head")(x, train=train))
        # Small, as in the focal loss's paper: every pixel begins undecided. With
        # Kaiming's fan-out of two channels most begin certain, and many of them wrong.
        small = nn.initializers.normal(0.01)
        x = Conv(2, use_bias=True, kernel_init=small, name="logits")(x)
        shape = (x.shape[0], *size, 2)
        return jax.image.resize(x, shape, "bilinear", antialias=False)


class Bottleneck(nn.Module):
    """A residual bottleneck, `4 planes` channels out; doubles the sides if `up`."""

    planes: int
    up: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width, features = 2 * self.planes, 4 * self.planes
        identity = x
        if self.up:
            identity = UpConvNorm(features, name="upsample")(x, train=train)
        x = nn.relu(ConvNorm(width, name="conv1")(x, train=train))
        if self.up:
            x = UpConvNorm(width, name="conv2")(x, train=train)
        else:
            x = ConvNorm(width, 3, 1, 1, name="conv2")(x, train=train)
        x = ConvNorm(features, name="conv3")(nn.relu(x), train=train)
        return nn.relu(x + identity)


class UpConvNorm(nn.Module):
    """2x2 transposed convolution of stride 2, and batch normalisation.

    Windows do not overlap, so each pixel becomes a 2x2 square by one matrix product.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        b, h, w, c = x.shape
        init = nn.initializers.he_normal(in_axis=2, out_axis=(0, 1, 3))
        kernel = self.param("kernel", init, (2, 2, c, self.features))
        x = jnp.einsum("bhwc,ijcd->bhiwjd", x, kernel)
        x = x.reshape(b, 2 * h, 2 * w, self.features)
        return BatchNorm(name="norm")(x, train=train)


def build(
    levels: Sequence[jax.ShapeDtypeStruct],
    *,
    depths: Sequence[int] = (3, 4, 6),
    skip: str = "none",
    head_width: int = 64,
) -> InverseNetwork:
    """The inverse of a backbone with the four `levels` [b, h_l, w_l, c_l].

    Raises:
      InputError: strides that do not double from level to level.
    """
    for shallow, deep in zip(levels[:-1], levels[1:], strict=True):
        halved = tuple(-(-side // 2) for side in shallow.shape[1:3])
        if halved != tuple(deep.shape[1:3]):
            raise InputError(
                "the inverse network needs levels that halve from one to the next, "
                f"not {' to '.join(str(level.shape[1:3]) for level in levels)}; choose "
                "another config.backbone.name"
            )
    widths = tuple(level.shape[3] for level in levels[:3])
    return InverseNetwork(widths, tuple(depths), skip, head_width)
