"""What a paper hands to the shared machinery: pure functions, and nothing else.

`params` is the dictionary that travels through a run. It starts as
`{"backbone": variables}`; every stage adds to it or replaces a part, and what the last
stage leaves is what the detector keeps.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

Params = dict[str, Any]
State = Any
Metrics = dict[str, jax.Array]


class Backbone(NamedTuple):
    """A pretrained network as a method sees it.

    Attributes:
      name: its name in `jaxad.models`.
      module: the Flax module; `module.apply(variables, images)` gives
        `(logits, {tap: feature map})`. For methods that fine-tune.
      taps: names of the feature maps that patches are made of.
      mean, std: of the normalisation `(image - mean) / std`, each three floats.
      levels: `(variables, images [b, H, W, 3] normalised) -> [feature map per tap]`,
        in inference mode.
    """

    name: str
    module: Any
    taps: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    levels: Callable[[Any, jax.Array], list[jax.Array]]

    def normalise(self, images: jax.Array) -> jax.Array:
        """Images [..., 3] in [0, 1] to what the backbone was trained on."""
        shape = (1,) * (images.ndim - 1) + (3,)
        mean = jnp.asarray(self.mean, images.dtype).reshape(shape)
        std = jnp.asarray(self.std, images.dtype).reshape(shape)
        return (images - mean) / std


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training stage.

    Attributes:
      name: names the stage's folder, random stream and curves.
      inputs: what a batch holds. "images": the dictionary of `data.train_batches`.
        "patches": `{"patches": float32 [b, c], "index": int32 [b]}`, rows of the
        descriptors that `Method.features` gives for all training images. Either way
        the loop adds `progress`, float32 in [0, 1): the share of the stage's steps that
        are done, which is what schedules are functions of.
      batch_size: items in the global batch, whatever the device count.
      num_steps: training steps, from the number of training items.
      init: `(key, params) -> state`, a pytree of arrays.
      step: `(state, batch, key) -> (state, metrics)`, pure; the loop jits, shards and
        donates it. Metrics are scalars; training stops where one is not finite.
      finish: `(state, params) -> params`, what the stage hands on.
      textures: whether a batch of images also holds `texture` [b, H, W, 3], pictures of
        the texture source `config.dataset.textures`.
      tunes: whether it trains the backbone, whose variables are then not folded.
      fields: of `config.method`, all that a first stage's outcome depends on. A stage
        that names them is kept for every run that has them the same.
      together: runs of a first stage on patches, of other categories or seeds, that
        one program may train; 1 is each alone, 0 all.
    """

    name: str
    inputs: Literal["images", "patches"]
    batch_size: int
    num_steps: Callable[[int], int]
    init: Callable[[jax.Array, Params], State]
    step: Callable[[State, dict[str, jax.Array], jax.Array], tuple[State, Metrics]]
    finish: Callable[[State, Params], Params]
    textures: bool = False
    tunes: bool = False
    fields: tuple[str, ...] = ()
    together: int = 1


class Method(NamedTuple):
    """A paper: how its representation is learnt, and how it is applied.

    Attributes:
      stages: trained in this order; empty for a method that learns nothing.
      features: `(params, images [b, H, W, 3] normalised) -> [b, h, w, c]`, the patch
        descriptors that the backbone gives.
      project: `(params, [..., c]) -> [..., d]`, the learnt map on descriptors; the
        identity for most papers.
    """

    stages: tuple[Stage, ...]
    features: Callable[[Params, jax.Array], jax.Array]
    project: Callable[[Params, jax.Array], jax.Array]


def identity(params: Params, patches: jax.Array) -> jax.Array:
    """`Method.project` of a method whose descriptors are the backbone's."""
    del params
    return patches
