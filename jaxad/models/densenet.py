"""DenseNet, in torchvision's layout.

Reference:
  Huang et al., Densely Connected Convolutional Networks, CVPR 2017 (arXiv:1608.06993).
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxad.models.layers import BatchNorm, Conv, ConvNorm, Dense, max_pool


class DenseLayer(nn.Module):
    """What one layer adds to its block: [b, h, w, c] to [b, h, w, growth]."""

    growth: int
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        options = dict(epsilon=self.epsilon, dtype=self.dtype)
        x = nn.relu(BatchNorm(**options, name="norm1")(x, train=train))
        conv1 = ConvNorm(4 * self.growth, **options, name="conv1")
        x = nn.relu(conv1(x, train=train))
        return Conv(self.growth, 3, 1, 1, dtype=self.dtype, name="conv2")(x)


class DenseNet(nn.Module):
    """A densely connected network.

    Taps: `stem` (the first ReLU, stride 2), `layer1` to `layer4` (the dense blocks,
    stride 4, 8, 16, 32), and `features.norm5`. torchvision's node names are understood
    too: `features.relu0`, `features.pool0`, `features.denseblock1` (and its node
    `features.denseblock1.cat`) to 4, `features.transition1` (`.pool`) to 3.

    Attributes:
      depths: layers in each of the four blocks.
      growth: channels that a layer adds.
      num_classes: width of the classifier.
      dtype: of the computation and of what comes out; parameters are float32.
    """

    depths: tuple[int, int, int, int]
    growth: int = 32
    num_classes: int = 1000
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images [b, H, W, 3], normalised, to logits [b, classes] and feature maps."""
        options = dict(epsilon=self.epsilon, dtype=self.dtype)
        conv0 = ConvNorm(2 * self.growth, 7, 2, 3, **options, name="conv0")
        x = nn.relu(conv0(images, train=train))
        taps = {"stem": x, "features.relu0": x}
        taps["features.pool0"] = x = max_pool(x)
        for i, depth in enumerate(self.depths, start=1):
            for j in range(1, depth + 1):
                layer = DenseLayer(self.growth, **options, name=f"block{i}_{j}")
                x = jnp.concatenate([x, layer(x, train)], axis=-1)
            taps[f"layer{i}"] = x
            taps[f"features.denseblock{i}"] = x
            taps[f"features.denseblock{i}.cat"] = x
            if i < len(self.depths):
                norm = BatchNorm(**options, name=f"transition{i}_norm")
                x = nn.relu(norm(x, train=train))
                x = Conv(x.shape[-1] // 2, dtype=self.dtype, name=f"transition{i}")(x)
                x = nn.avg_pool(x, (2, 2), (2, 2))
                taps[f"features.transition{i}"] = x
                taps[f"features.transition{i}.pool"] = x
        x = BatchNorm(**options, name="norm5")(x, train=train)
        taps["features.norm5"] = x
        x = jnp.mean(nn.relu(x), (1, 2))
        return Dense(self.num_classes, self.dtype, name="classifier")(x), taps


_RENAMES = (
    (r"^features\.", ""),
    (r"^denseblock(\d)\.denselayer(\d+)\.", r"block\1_\2."),
    # torchvision's first files write norm.1 for norm1.
    (r"\.(norm|conv)\.([12])\.", r".\1\2."),
    (r"\.norm2\.", ".conv1.norm."),
    (r"^norm0\.", "conv0.norm."),
    (r"^transition(\d)\.norm\.", r"transition\1_norm."),
    (r"^transition(\d)\.conv\.", r"transition\1."),
)


def rename(name: str) -> str:
    """A parameter's path here from its name in torchvision or timm."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
