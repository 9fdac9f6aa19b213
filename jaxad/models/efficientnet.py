"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6.

References:
  Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks,
    ICML 2019 (arXiv:1905.11946), table 1.
  github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxad.models.layers import ConvNorm, Dense

# One row a stage: kernel size, blocks, stride of the first, expansion, channels.
_STAGES = (
    (3, 1, 1, 1, 16),
    (3, 2, 2, 6, 24),
    (5, 2, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (5, 3, 1, 6, 112),
    (5, 4, 2, 6, 192),
    (3, 1, 1, 6, 320),
)
# The last stage at each stride.
ALIASES = {
    "layer1": "blocks.1",
    "layer2": "blocks.2",
    "layer3": "blocks.4",
    "layer4": "blocks.6",
}
TAPS = ("stem", *(f"blocks.{i}" for i in range(len(_STAGES))))


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0.

    Taps: `stem` (32 channels at stride 2), `blocks.0` to `blocks.6` (16, 24, 40, 80,
    112, 192, 320 channels at stride 2, 4, 8, 16, 16, 32, 32).

    Attributes:
      num_classes: width of the classifier.
      dtype: of the computation and of what comes out; parameters are float32.
    """

    num_classes: int = 1000
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-3

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images [b, H, W, 3], normalised, to logits [b, classes] and feature maps."""

        def conv_norm(name, features, size=1, strides=1, groups=1):
            return ConvNorm(
                features, size, strides, "SAME", groups, self.epsilon, 0.01,
                self.dtype, name=name,
            )  # fmt: skip

        taps = {}
        x = conv_norm("conv_stem", 32, 3, 2)(images, train=train)
        taps["stem"] = x = nn.relu6(x)
        for i, (size, depth, strides, expansion, features) in enumerate(_STAGES):
            for j in range(depth):
                block, inputs, width = f"blocks_{i}_{j}", x, x.shape[-1] * expansion
                if expansion > 1:
                    x = conv_norm(f"{block}_expand", width)(x, train=train)
                    x = nn.relu6(x)
                x = conv_norm(
                    f"{block}_depthwise", width, size, 1 if j else strides, width
                )(x, train=train)
                x = nn.relu6(x)
                x = conv_norm(f"{block}_project", features)(x, train=train)
                if x.shape == inputs.shape:
                    x = x + inputs
            taps[f"blocks.{i}"] = x
        x = nn.relu6(conv_norm("conv_head", 1280)(x, train=train))
        x = jnp.mean(x, (1, 2))
        logits = Dense(self.num_classes, self.dtype, name="classifier")(x)
        return logits, taps | {alias: taps[tap] for alias, tap in ALIASES.items()}


def rename(name: str) -> str:
    """A parameter's path here from its name in PyTorch.

    Understands the names of the package efficientnet_lite_pytorch (`_blocks.3._bn1`)
    and timm's (`blocks.2.0.bn1`).
    """
    match = re.match(r"_blocks\.(\d+)\.(.*)", name)
    if match:
        i, j = _position(int(match[1]))
        name = f"blocks_{i}_{j}_{match[2]}"
        first = (i, j) == (0, 0)
        for ours, convolution, norm in (
            ("expand", "_expand_conv", "_bn0"),
            ("depthwise", "_depthwise_conv", "_bn1"),
            ("project", "_project_conv", "_bn2"),
        ):
            name = re.sub(rf"_{convolution}\.", f"_{ours}.", name)
            name = re.sub(rf"_{norm}\.", f"_{ours}.norm.", name)
        return name
    match = re.match(r"blocks\.(\d+)\.(\d+)\.(.*)", name)
    if match:
        first = match[1] == "0"
        names = (
            {"conv_dw": "depthwise", "bn1": "depthwise.norm"}
            | {"conv_pw": "project", "bn2": "project.norm"}
            if first
            else {"conv_pw": "expand", "bn1": "expand.norm"}
            | {"conv_dw": "depthwise", "bn2": "depthwise.norm"}
            | {"conv_pwl": "project", "bn3": "project.norm"}
        )
        layer, _, leaf = match[3].partition(".")
        return f"blocks_{match[1]}_{match[2]}_{names.get(layer, layer)}.{leaf}"
    name = re.sub(r"^_?conv_(stem|head)\.", r"conv_\1.", name)
    # timm counts the outer normalisations from 1, the package from 0.
    name = re.sub(r"^_bn0\.", "conv_stem.norm.", name)
    name = re.sub(r"^_bn1\.|^bn2\.", "conv_head.norm.", name)
    name = re.sub(r"^bn1\.", "conv_stem.norm.", name)
    return re.sub(r"^_fc\.", "classifier.", name)


def _position(block: int) -> tuple[int, int]:
    """Stage, and place in it, of a block counted from the first of the network."""
    for i, (_, depth, *_) in enumerate(_STAGES):
        if block < depth:
            return i, block
        block -= depth
    return len(_STAGES), block
