"""ResNet, Wide ResNet and ResNeXt, in torchvision's layout.

References:
  He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv:1512.03385),
    with the stride in the 3x3 convolution of a bottleneck.
  Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016 (arXiv:1605.07146).
  Xie et al., Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017
    (arXiv:1611.05431).
"""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxad.models.layers import ConvNorm, Dense, max_pool


class Block(nn.Module):
    """A residual block, [b, h, w, c] to [b, h / strides, w / strides, features].

    Attributes:
      planes: channels of the first convolution of a basic block; a bottleneck's
        come from `groups` and `group_width` and its result has four times as many.
      bottleneck: 1x1, 3x3 and 1x1 convolutions, else two 3x3.
    """

    planes: int
    strides: int
    bottleneck: bool
    groups: int
    group_width: int
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        conv_norm = functools.partial(ConvNorm, epsilon=self.epsilon, dtype=self.dtype)
        features = self.planes * (4 if self.bottleneck else 1)
        shortcut = x
        if self.strides > 1 or x.shape[-1] != features:
            shortcut = conv_norm(features, 1, self.strides, name="downsample")(
                x, train=train
            )
        if self.bottleneck:
            width = self.planes * self.group_width // 64 * self.groups
            x = nn.relu(conv_norm(width, name="conv1")(x, train=train))
            conv2 = conv_norm(width, 3, self.strides, 1, self.groups, name="conv2")
            x = nn.relu(conv2(x, train=train))
            x = conv_norm(features, name="conv3")(x, train=train)
        else:
            conv1 = conv_norm(features, 3, self.strides, 1, name="conv1")
            x = nn.relu(conv1(x, train=train))
            x = conv_norm(features, 3, 1, 1, name="conv2")(x, train=train)
        return nn.relu(x + shortcut)


class ResNet(nn.Module):
    """A residual network.

    Taps: `stem` (the first ReLU, stride 2) and `layer1` to `layer4` (stride 4, 8, 16,
    32). torchvision's node names are understood too: `relu`, `maxpool`, and the last
    ReLU of every block, such as `layer2.3.relu_2`.

    Attributes:
      depths: blocks in each of the four layers.
      bottleneck: see `Block`.
      groups, group_width: of the 3x3 convolution in a bottleneck; (1, 128) is a Wide
        ResNet of factor 2, (32, 8) is a ResNeXt 32x8d.
      num_classes: width of the classifier.
      dtype: of the computation and of what comes out; parameters are float32.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    group_width: int = 64
    width: int = 64
    num_classes: int = 1000
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images [b, H, W, 3], normalised, to logits [b, classes] and feature maps."""
        conv1 = ConvNorm(
            self.width, 7, 2, 3, epsilon=self.epsilon, dtype=self.dtype, name="conv1"
        )
        x = nn.relu(conv1(images, train=train))
        taps = {"stem": x, "relu": x}
        taps["maxpool"] = x = max_pool(x)
        last_relu = "relu_2" if self.bottleneck else "relu_1"
        for i, depth in enumerate(self.depths, start=1):
            for j in range(depth):
                block = Block(
                    planes=self.width * 2 ** (i - 1),
                    strides=2 if i > 1 and j == 0 else 1,
                    bottleneck=self.bottleneck,
                    groups=self.groups,
                    group_width=self.group_width,
                    epsilon=self.epsilon,
                    dtype=self.dtype,
                    name=f"layer{i}_{j}",
                )
                taps[f"layer{i}.{j}.{last_relu}"] = x = block(x, train)
            taps[f"layer{i}"] = x
        return Dense(self.num_classes, self.dtype, name="fc")(jnp.mean(x, (1, 2))), taps


def zero_residuals(params: dict) -> dict:
    """Parameters with which every block gives its shortcut, and no more.

    The last normalisation of each has scale 0 (Goyal et al., Accurate, Large Minibatch
    SGD, 2017, arXiv:1706.02677, section 5.1).
    """
    changed = dict(params)
    for name, block in params.items():
        last = "conv3" if "conv3" in block else "conv2"
        if last in block:
            norm = block[last]["norm"]
            norm = norm | {"scale": jnp.zeros_like(norm["scale"])}
            changed[name] = block | {last: block[last] | {"norm": norm}}
    return changed


_RENAMES = (
    # transformers
    (r"^(resnet\.)?embedder\.embedder\.", "conv1."),
    (r"^(resnet\.)?encoder\.stages\.", "stages."),
    (r"^stages\.(\d+)\.layers\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}_{m[2]}."),
    (r"\.layer\.(\d)\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.shortcut\.", ".downsample."),
    (r"\.convolution\.", "."),
    (r"\.normalization\.", ".norm."),
    (r"^classifier\.1\.", "fc."),
    # torchvision and timm
    (r"^layer(\d)\.(\d+)\.", r"layer\1_\2."),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"\.downsample\.0\.", ".downsample."),
    (r"\.downsample\.1\.", ".downsample.norm."),
)


def rename(name: str) -> str:
    """A parameter's path here from its name in torchvision, timm or transformers."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
