"""Self-supervised vision transformers of the DINOv2 and DINOv3 families.

References:
  Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024
    (arXiv:2304.07193).
  Darcet et al., Vision Transformers Need Registers, ICLR 2024 (arXiv:2309.16588).
  Simeoni et al., DINOv3, 2025 (arXiv:2508.10104).
"""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxad.errors import InputError
from jaxad.models.layers import Conv, Dense

_NORMAL = nn.initializers.normal(0.02)


class Block(nn.Module):
    """A pre-norm transformer block with layer scale: [b, t, c] to [b, t, c].

    Attributes:
      heads: of the attention.
      epsilon: of the layer norms.
      dtype: of the computation.
    """

    heads: int
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, rotate=None) -> jax.Array:
        """`rotate` is applied to queries and keys, both [b, t, heads, c / heads]."""
        width = x.shape[-1]

        def layer_norm(name):
            return nn.LayerNorm(
                self.epsilon, self.dtype, use_fast_variance=False, name=name
            )

        def scale(name, y):
            gamma = self.param(name, nn.initializers.ones, (width,))
            return y * gamma.astype(self.dtype).reshape(1, 1, -1)

        y = Dense(3 * width, self.dtype, name="qkv")(layer_norm("norm1")(x))
        q, k, v = jnp.moveaxis(
            y.reshape(*y.shape[:2], 3, self.heads, width // self.heads), 2, 0
        )
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        y = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        x = x + scale("ls1", Dense(width, self.dtype, name="proj")(y))
        y = Dense(4 * width, self.dtype, name="fc1")(layer_norm("norm2")(x))
        y = Dense(width, self.dtype, name="fc2")(nn.gelu(y, approximate=False))
        return x + scale("ls2", y)


class VisionTransformer(nn.Module):
    """DINOv2 (learnt positions) or DINOv3 (rotary positions), with register tokens.

    The height and the width of the images are multiples of `patch`.

    Taps, patch tokens as a grid [b, H / patch, W / patch, width]: `stem` (the patch
    embedding), `blocks.0` to the last block, `norm` (the last block after the final
    layer norm). In place of logits comes the class token after that norm, [b, width].

    Attributes:
      width: channels.
      heads: of the attention.
      depth: number of blocks.
      patch: side of a patch in pixels.
      registers: number of register tokens.
      positions: side of the learnt grid of positions, resized to the image's grid;
        0 is DINOv3's rotary embedding instead.
      antialias: of that resizing; DINOv2 has it since it has registers.
      epsilon: of the layer norms.
      dtype: of the computation and of what comes out; parameters are float32.
    """

    width: int
    heads: int
    depth: int = 12
    patch: int = 14
    registers: int = 0
    positions: int = 37
    antialias: bool = False
    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images [b, H, W, 3], normalised, to (class token, {tap: patch tokens})."""
        del train  # nothing here differs in training
        batch, *size, _ = images.shape
        if any(n % self.patch for n in size):
            raise InputError(
                f"images of {size[0]}x{size[1]} pixels do not divide into patches of "
                f"{self.patch}; choose multiples of {self.patch} for "
                "config.dataset.image_size"
            )
        embed = Conv(self.width, self.patch, self.patch, use_bias=True,
                     dtype=self.dtype, name="patch_embed")  # fmt: skip
        x = embed(images)
        grid, taps = x.shape[1:3], {"stem": x}
        prefix = [self.param("cls_token", _NORMAL, (1, 1, self.width))]
        if self.registers:
            shape = (1, self.registers, self.width)
            prefix.append(self.param("register_tokens", _NORMAL, shape))
        rotate = None
        if self.positions:
            shape = (1, self.positions**2, self.width)
            positions = self.param("pos_embed", _NORMAL, shape)
            x = x + self._resized(positions, grid).astype(self.dtype)
        else:
            rotate = _rotary(grid, self.width // self.heads, 1 + self.registers)
        prefix = jnp.concatenate(prefix, axis=1).astype(self.dtype)
        prefix = jnp.broadcast_to(prefix, (batch, *prefix.shape[1:]))
        x = jnp.concatenate([prefix, x.reshape(batch, -1, self.width)], axis=1)

        def patches(tokens):
            return tokens[:, 1 + self.registers :].reshape(batch, *grid, self.width)

        for i in range(self.depth):
            block = Block(self.heads, self.epsilon, self.dtype, name=f"blocks_{i}")
            x = block(x, rotate)
            taps[f"blocks.{i}"] = patches(x)
        norm = nn.LayerNorm(
            self.epsilon, self.dtype, use_fast_variance=False, name="norm"
        )
        x = norm(x)
        taps["norm"] = patches(x)
        return x[:, 0], taps

    def _resized(self, positions, grid):
        """Learnt positions [1, n * n, c] on another grid, [1, *grid, c]."""
        n = self.positions
        rows, columns = (bicubic(n, size, self.antialias) for size in grid)
        return jnp.einsum(
            "hi,wj,bijc->bhwc", rows, columns, positions.reshape(1, n, n, -1)
        )


def bicubic(n: int, size: int, antialias: bool) -> np.ndarray:
    """PyTorch's bicubic interpolation of n samples to `size`, as a matrix [size, n].

    `F.interpolate(mode="bicubic", align_corners=False)`. With `antialias` the filter
    widens where it shrinks, and is cut off at the border (Keys' a = -0.5); without,
    the border is repeated (a = -0.75).
    """
    a = -0.5 if antialias else -0.75
    scale = max(n / size, 1.0) if antialias else 1.0
    reach = math.ceil(2 * scale) + 1
    centres = (np.arange(size)[:, None] + 0.5) * (n / size) - 0.5
    samples = np.floor(centres).astype(int) + np.arange(-reach, reach + 1)
    t = np.abs(samples - centres) / scale
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    weights = np.where(t < 1, near, np.where(t < 2, far, 0.0))
    if antialias:
        weights = np.where((samples >= 0) & (samples < n), weights, 0.0)
        weights /= weights.sum(1, keepdims=True)
    matrix = np.zeros((size, n))
    np.add.at(matrix, (np.arange(size)[:, None], np.clip(samples, 0, n - 1)), weights)
    return matrix.astype(np.float32)


def _rotary(grid: tuple[int, int], width: int, prefix: int, base: float = 100.0):
    """DINOv3's rotary positions (arXiv:2508.10104, section 3.2).

    The angles of a patch are its centre's coordinates, in [-1, 1] over the image, times
    2 pi over `width / 4` periods from 1 to `base`; prefix tokens are not rotated.
    """
    rows, columns = (np.arange(0.5, n) / n * 2 - 1 for n in grid)
    centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2, 1)
    periods = base ** np.arange(0, 1, 4 / width)
    angles = np.tile((2 * np.pi * centres / periods).reshape(-1, width // 2), 2)
    angles = np.concatenate([np.zeros((prefix, width)), angles])[None, :, None]
    cos, sin = np.cos(angles), np.sin(angles)

    def rotate(x):
        half = jnp.concatenate([-x[..., width // 2 :], x[..., : width // 2]], -1)
        return x * cos.astype(x.dtype) + half * sin.astype(x.dtype)

    return rotate


_RENAMES = (
    # transformers
    (r"^(model\.)?(encoder\.)?layer\.(\d+)\.", r"blocks.\3."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".proj."),
    (r"\.attention\.(attention\.)?(query|q_proj)\.", ".q."),
    (r"\.attention\.(attention\.)?(key|k_proj)\.", ".k."),
    (r"\.attention\.(attention\.)?(value|v_proj)\.", ".v."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1"),
    (r"\.up_proj\.", ".fc1."),
    (r"\.down_proj\.", ".fc2."),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^layernorm\.", "norm."),
    # DINO's own files and timm
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"^(reg_token|storage_tokens)$", "register_tokens"),
    (r"\.(attn|mlp)\.", "."),
    (r"\.ls([12])\.gamma$", r".ls\1"),
    (r"\.gamma_([12])$", r".ls\1"),
    (r"^blocks\.(\d+)\.", r"blocks_\1."),
)
# The masked-image objective's token, and what a rotary embedding recomputes.
IGNORE = (r"(embeddings\.)?mask_token", r"rope_embed\.periods", r".*\.bias_mask")


def rename(name: str) -> str:
    """A parameter's path here from its name in DINO's files, timm or transformers."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def prepare(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Brings a file's arrays to this module's: one qkv, no position of the class token.

    Names come out as `rename` gives them.
    """
    state = {rename(name): array for name, array in state.items()}
    if "register_tokens" in state and state["register_tokens"].shape[1] == 0:
        del state["register_tokens"]
    positions = state.get("pos_embed")
    if (
        positions is not None
        and math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]
    ):
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        state["pos_embed"] = positions[:, 1:]
    for block in sorted({name.split(".")[0] for name in state if "blocks_" in name}):
        _merge_qkv(state, block)
    return state


def _merge_qkv(state, block):
    """One qkv layer from three, with a bias even where the file has none for keys."""
    parts = [f"{block}.{part}" for part in "qkv"]
    if f"{parts[0]}.weight" in state:
        weights = [state.pop(f"{part}.weight") for part in parts]
        state[f"{block}.qkv.weight"] = np.concatenate(weights)
    zeros = np.zeros(len(state[f"{block}.qkv.weight"]) // 3, np.float32)
    if f"{block}.qkv.bias" in state:
        if f"{block}.qkv.bias_mask" in state:
            q, _, v = np.split(state[f"{block}.qkv.bias"], 3)
            state[f"{block}.qkv.bias"] = np.concatenate([q, zeros, v])
        return
    biases = [
        state.pop(f"{part}.bias", state.pop(f"{part}_bias", zeros)) for part in parts
    ]
    state[f"{block}.qkv.bias"] = np.concatenate(biases)
