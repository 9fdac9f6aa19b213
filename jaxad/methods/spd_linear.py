"""The linear evaluation of a pre-trained backbone, as the papers of its bases have it.

One linear layer behind the pooled last map learns the classes from crops of all
training pictures. Nothing of the backbone changes, its running statistics included. It
is tested on the middle of each picture.

References:
  Chen et al., MoCo v2, 2020 (arXiv:2003.04297).
  Chen and He, SimSiam, CVPR 2021 (arXiv:2011.10566), appendix A.
  Chen et al., SimCLR, ICML 2020 (arXiv:2002.05709), appendix B.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxad import losses, models, optim, rng
from jaxad.augment import views
from jaxad.methods.base import Backbone, Stage

# What a picture's shorter side is to the square that is cut out of it: 256 to 224.
_MARGIN = 8 / 7


def stage(
    options, backbone: Backbone, embed: Callable, width: int, size: tuple[int, int]
) -> Stage:
    """Trains the layer.

    Args:
      options: `config.method`.
      backbone: which stays as it is.
      embed: `(variables, images) -> [b, width]`, in inference mode.
      size: (height, width) of what it sees.
    """
    fields = options.linear
    optimiser = optim.scale_by(fields.optimiser, betas=(0.9, 0.0), weight_decay=0.0)
    first_rate = fields.learning_rate * fields.batch_size / 256

    def init(key, params, item):
        del item
        kernel = 0.01 * jax.random.normal(key, (width, options.classes))
        layer = {"kernel": kernel, "bias": jnp.zeros(options.classes)}
        frozen = models.fold(backbone.module, params["backbone"])
        return {"layer": layer, "frozen": frozen, "optimiser": optimiser.init(layer)}

    def loss_of(layer, z, labels):
        logits = _logits(layer, z)
        right = (logits.argmax(1) == labels).mean()
        return losses.cross_entropy(logits, labels), right

    def step(state, batch, key):
        keys = rng.per_example(key, batch["index"])
        crops = jax.vmap(_crop, (0, 0, None))(keys, batch["image"], size)
        z, layer = embed(state["frozen"], crops), state["layer"]
        (loss, right), grads = jax.value_and_grad(loss_of, has_aux=True)(
            layer, z, batch["label"]
        )
        direction, moments = optimiser.update(grads, state["optimiser"], layer)
        rate = first_rate * _fall(batch["progress"], tuple(fields.drops))
        layer = jax.tree.map(lambda w, d: w - rate * d, layer, direction)
        state = state | {"layer": layer, "optimiser": moments}
        return state, {"loss": loss, "top1_accuracy": right}

    def finish(state, params):
        return params | {"layer": state["layer"]}

    return Stage(
        "linear",
        "images",
        fields.batch_size,
        lambda images: fields.epochs * (images // fields.batch_size),
        init,
        step,
        finish,
    )


def test(embed: Callable, size: tuple[int, int], params, batch):
    """Of each picture of a batch whether the layer's highest logit is its class."""
    z = embed(params["backbone"], middle(batch["image"], size))
    right = _logits(params["layer"], z).argmax(1) == batch["label"]
    return {"top1_accuracy": right.astype(jnp.float32)}


def _crop(key: jax.Array, image: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Of 8 to 100 % of the area, half of them mirrored."""
    crop_key, flip_key = jax.random.split(key)
    crop = views.random_resized_crop(crop_key, image, scale=(0.08, 1.0), size=size)
    return views.random_flip(flip_key, crop)


def middle(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The middle of images [b, H, W, 3], [b, *size, 3]: 224 of 256 pixels, as they are.

    Larger ones are first brought to 8/7 of the size; smaller ones lose less.
    """
    (h, w), (height, width) = images.shape[1:3], size
    h, w = min(h, round(_MARGIN * height)), min(w, round(_MARGIN * width))
    top, left = (h - height) // 2, (w - width) // 2
    images = resized(images, (h, w))
    return images[:, top : top + height, left : left + width]


def resized(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Images [b, H, W, 3] at a size, smoothed where that is smaller."""
    if images.shape[1:3] == size:
        return images
    return jax.image.resize(images, (len(images), *size, 3), "linear", antialias=True)


def _fall(progress: jax.Array, drops: tuple[float, ...]) -> jax.Array:
    """Of the rate: a tenth after each share of the steps; without any by a cosine."""
    if not drops:
        return optim.cosine(progress)
    return 0.1 ** (progress >= jnp.asarray(drops)).sum()


def _logits(layer, z: jax.Array) -> jax.Array:
    return z @ layer["kernel"] + layer["bias"][None]
