"""What a paper hands to the shared machinery: pure functions, and nothing else.

A method is one file, here or anywhere that `config.method.name` names by a dotted path.
It defines

  build(config, backbone) -> Method
      Of a whole config, completed, and a `Backbone`. It checks `config.method`, raises
      InputError for a field that cannot work, and computes nothing.

and, where it has use for them,

  fields() -> ConfigDict
      `config.method` with the method's defaults, which config files start from; `name`
      is one of them.
  FIELDS
      The table (`jaxad.fields`) that `fields` gives the defaults of and `build` checks,
      `defaults(FIELDS)` and `check(FIELDS, config.method, "method")`. With it `--help`
      lists the fields, and `Field(under=...)` says what one acts under. Of ours they
      lie in `<name>_fields`, which needs no JAX, beside `check(config)`.
  complete(options, *, textures) -> None
      Fills in, before `build`, what `config.method` leaves to the data that are there.
  of_category(options, category) -> options
      Options as a category has them, for the stages alone; the same object where that
      is no other.
  pasted(options) -> str | None
      What synthetic anomalies are made of; None where there are none.
  learns_from(options) -> str
      "labels" where it learns from normal and anomalous images, "masks" where also from
      the masks of these; without it, or "normal", from normal images alone. Batches
      of images hold `label` and `mask` of each.
  LEAVES
      "backbone" where a run leaves that, to be the weights of other runs, and no
      detector; `Method.product` is then what the run goes by. The stages train on a
      corpus (`data.corpus`), and `config.method.classes`, if there is such a field, is
      how many classes it has.

`params` is the dictionary that travels through a run. It starts as
`{"backbone": variables}`; every stage adds to it or replaces a part, and what the last
stage leaves is what the detector keeps.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxad.errors import InputError

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
        """Images [..., 3] in [0, 1] by `mean` and `std`.

        Those that the backbone was trained with, but for EfficientNet-Lite0: that one
        has seen (255 image - 127) / 128, and gets ImageNet's mean and deviation (ours).
        """
        shape = (1,) * (images.ndim - 1) + (3,)
        mean = jnp.asarray(self.mean, images.dtype).reshape(shape)
        std = jnp.asarray(self.std, images.dtype).reshape(shape)
        return (images - mean) / std

    def shapes(
        self, image_size: tuple[int, int], levels: Sequence[str]
    ) -> list[jax.ShapeDtypeStruct]:
        """Of an image's feature maps [1, h, w, c]; computes none.

        Raises:
          InputError: there is no such level.
        """

        def run():
            image = jnp.zeros((1, *image_size, 3))
            return self.module.init_with_output(jax.random.key(0), image)[0][1]

        shapes = jax.eval_shape(run)
        for level in levels:
            if level not in shapes:
                raise InputError(
                    f"config.backbone.name={self.name} has no level {level!r}, only "
                    f"{', '.join(shapes)}; layer1 to layer4 are those of convolutional "
                    "backbones"
                )
        return [shapes[level] for level in levels]


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
      init: `(key, params, item) -> state`, a pytree of arrays; `item` is the shape of
        what the stage trains on, (c,) of a patch or (H, W, 3) of an image.
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
      stop: `(metrics, progress) -> str | None`, of a line of the curves: why it is of
        no use to go on, in one sentence, which ends the run.
    """

    name: str
    inputs: Literal["images", "patches"]
    batch_size: int
    num_steps: Callable[[int], int]
    init: Callable[[jax.Array, Params, tuple[int, ...]], State]
    step: Callable[[State, dict[str, jax.Array], jax.Array], tuple[State, Metrics]]
    finish: Callable[[State, Params], Params]
    textures: bool = False
    tunes: bool = False
    fields: tuple[str, ...] = ()
    together: int = 1
    stop: Callable[[dict[str, float], float], str | None] = lambda metrics, progress: (
        None
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """A pre-trained backbone, which a method leaves in place of a detector.

    Attributes:
      embed: `(variables, images [b, H, W, 3] in [0, 1]) -> float32 [b, d]`, what probes
        look at, in inference mode.
      compare: `(variables, batch, key) -> {name: float32 [b]}`, numbers of each image,
        whose means the results have before and after.
      held_out: the share of the corpus that is for the probes alone.
      card: what the backbone's card says of how it was trained, plain JSON.
      test: `(params, batch) -> {name: float32 [b]}`, numbers of each picture by what
        the last stage hands on, whose means the results have; None for no such numbers.
    """

    embed: Callable[[Any, jax.Array], jax.Array]
    compare: Callable[[Any, dict[str, jax.Array], jax.Array], Metrics]
    held_out: float
    card: dict[str, Any]
    test: Callable[[Params, dict[str, jax.Array]], Metrics] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """A paper: how its representation is learnt, and how it is applied.

    Two are equal where they are the same object: jitted functions take one as a static
    argument.

    Attributes:
      features: `(params, images [b, H, W, 3] normalised) -> [b, h, w, c]`, the patch
        descriptors that the backbone gives.
      project: `(params, [..., c]) -> [..., d]`, the learnt map on descriptors; the
        identity for most papers.
      make_stages: gives the stages, in the order they are trained in; none for a method
        that learns nothing. What they need is made here, and what cannot work raises
        InputError: a fitted detector never asks.
      check: `(shape) -> None`, of an image's descriptors, (h, w, c). Raises InputError
        where they cannot work, before anything is trained.
      grid: gives (h, w, c) of an image's descriptors, where `features` reads more than
        the backbone. Raises InputError for a level that the backbone does not have.
      product: of a method whose runs leave a backbone and no detector.
      log_odds: whether the last channel of descriptors is the log-odds of an anomaly,
        which the scores of all others are averaged with (`detectors.averaged`).
    """

    features: Callable[[Params, jax.Array], jax.Array]
    project: Callable[[Params, jax.Array], jax.Array]
    make_stages: Callable[[], tuple[Stage, ...]] = tuple
    check: Callable[[tuple[int, int, int]], None] = lambda shape: None
    product: Product | None = None
    grid: Callable[[], tuple[int, int, int]] | None = None
    log_odds: bool = False

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Made when they are first asked for."""
        return self.make_stages()

    def at(self, precision: str) -> "Method":
        """The method with products of `config.precision` where they name no other."""

        def at_it(function):
            @functools.wraps(function)
            def traced(*arguments, **options):
                with jax.default_matmul_precision(precision):
                    return function(*arguments, **options)

            return traced

        def stages():
            return tuple(
                dataclasses.replace(one, init=at_it(one.init), step=at_it(one.step))
                for one in self.make_stages()
            )

        product = self.product and dataclasses.replace(
            self.product,
            embed=at_it(self.product.embed),
            compare=at_it(self.product.compare),
            test=self.product.test and at_it(self.product.test),
        )
        is_learnt = self.project is not identity
        return dataclasses.replace(
            self,
            features=at_it(self.features),
            project=at_it(self.project) if is_learnt else identity,
            make_stages=stages,
            product=product,
        )


def identity(params: Params, patches: jax.Array) -> jax.Array:
    """`Method.project` of a method whose descriptors are the backbone's."""
    del params
    return patches
