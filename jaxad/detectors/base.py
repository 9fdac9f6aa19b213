"""What a detector is: how patches are scored, and all that a prediction takes.

A scorer is one file of this folder, or a module outside that `config.detector.name`
names with dots. It defines `build(config) -> Scorer`, and a `Scorer` is a few pure
functions on the patch descriptors of normal images. What it fits is a dictionary of
arrays, which is all that is saved of it. A fitted `Detector` is a pytree that holds
these arrays, the representation's, and how both are applied.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax

from jaxad import scores
from jaxad.devices import sharding
from jaxad.devices.programs import Program
from jaxad.devices.rows import Stack
from jaxad.errors import InputError
from jaxad.methods.base import Backbone, Method, Params, identity

# Names of the programs behind `features` and `describe`.
FEATURES = ("features", "features, mapped")

State = dict[str, Any]
Report = dict[str, float]


class Scored(NamedTuple):
    """Scores of `patches`, [b, h, w], and of whole `images`, [b]."""

    patches: jax.Array
    images: jax.Array


@dataclasses.dataclass(frozen=True)
class Normal:
    """What a scorer is fitted on: the patch descriptors of normal images.

    Attributes:
      rows: float32 [n * h * w, d], image by image and row by row of its grid, wherever
        they lie.
      grid: (h, w), patches of an image.
      mesh: the devices of the run; None for one.
      keep: where a long fit keeps what it has found, a `run.passes.Pass`.
      progress: `(total=, unit=) -> a progress bar`, a context manager.
      start: of a fit that begins somewhere, in which of several places; 0 is the usual.
    """

    rows: Stack
    grid: tuple[int, int]
    mesh: sharding.Mesh | None
    keep: Any
    progress: Callable[..., Any]
    start: int = 0

    @property
    def images(self) -> int:
        """How many there are."""
        return len(self.rows) // (self.grid[0] * self.grid[1])


def everywhere(state: State, mesh: sharding.Mesh | None) -> State:
    """`Scorer.place` of what lies whole on every device."""
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, state)
    return jax.tree.map(lambda x: sharding.replicate(x, mesh), state)


def on_host(state: State) -> State:
    """The whole of every array, on the host of every process."""
    return jax.tree.map(sharding.fetch, state)


class Scorer(NamedTuple):
    """How patches are scored.

    Attributes:
      fit: `Normal -> (state, report)`: the arrays it scores with, by name, and numbers
        that say how well it fits, which go into the results. None where the method has
        learnt all there is; the threshold then comes from images that it has not seen.
      score: `(state, described [b, h, w, d]) -> Scored`, pure; may be called under
        `jit`.
      check: `(images, grid, width) -> None`. Raises InputError where so many normal
        images with a grid (h, w) of descriptors of that width are too few, or of no
        use; called before anything is trained.
      place: `(state, mesh) -> state`, brings arrays of the host to where `score` wants
        them.
      left_out: `(state, described [b, h, w, d], images int32 [b]) -> Scored`: images
        that it was fitted on, by their place among them, each scored without what it
        has added. Raises InputError where nothing is left. None where that is not
        known; the threshold then comes from fits on parts of the images.
      extend: `Extension -> (state, report)`: more images for a fitted one. None where
        all have to be fitted anew.
      starts: whether fits that begin elsewhere differ, as memory banks do.
      recall: `(state, described) -> bool [b, h, w]`, where an approximate search has
        found what an exact one finds; None where `score` is exact.
      unit: what a score is.
      programs: `Shapes -> list`, what a fit and a score compile.
    """

    fit: Callable[[Normal], tuple[State, Report]] | None
    score: Callable[[State, jax.Array], Scored]
    check: Callable[[int, tuple[int, int], int], None]
    place: Callable[[State, sharding.Mesh | None], State] = everywhere
    left_out: Callable[[State, jax.Array, jax.Array], Scored] | None = None
    extend: "Callable[[Extension], tuple[State, Report]] | None" = None
    recall: Callable[[State, jax.Array], jax.Array] | None = None
    unit: str = "a distance in descriptor space"
    programs: "Callable[[Shapes], list[Program]]" = lambda shapes: []
    starts: bool = False


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What a scorer is fitted on, and scores, before there is any of it.

    Attributes:
      images: normal ones, that it is fitted on.
      batch: images that are scored by one call.
      grid: (h, w), patches of an image.
      width: of their descriptors, after the learnt map.
      mesh: the devices of the run; None for one.
    """

    images: int
    batch: int
    grid: tuple[int, int]
    width: int
    mesh: sharding.Mesh | None

    @property
    def rows(self) -> int:
        """Patches of the normal images, each device's filled up to as many images."""
        devices = self.mesh.size if self.mesh else 1
        return -(-self.images // devices) * devices * self.grid[0] * self.grid[1]

    @property
    def described(self) -> jax.ShapeDtypeStruct:
        """Of the images of a call."""
        shape = jax.ShapeDtypeStruct((self.batch, *self.grid, self.width), "float32")
        return sharding.spread_shapes(shape, self.mesh)


@dataclasses.dataclass(frozen=True)
class Extension:
    """What a fitted scorer is extended by.

    Attributes:
      state, report: of the fit so far.
      new: the new images.
      images: how many it has learnt from so far.
      old: gives those images' descriptors, in parts; None where they are not at hand.
      fast: whether to keep all that was learnt, and add to it from the new images
        alone; otherwise it becomes what a fit on old and new images would give, for
        which `old` is there.
    """

    state: State
    report: Report
    new: Normal
    images: int
    old: Callable[[], Stack] | None
    fast: bool


@flax.struct.dataclass
class Detector:
    """A fitted detector.

    Attributes:
      params: what the method's `features` and `project` read.
      state: the scorer's arrays.
      method, backbone, scorer, options: static; `options` are the fields of
        `config.detector`.
      spread: of the scores of normal patches; a member of an ensemble has one.
      report: what the scorer says of its fit.
    """

    params: Params
    state: State
    method: Method = flax.struct.field(pytree_node=False)
    backbone: Backbone = flax.struct.field(pytree_node=False)
    scorer: Scorer = flax.struct.field(pytree_node=False)
    options: tuple[tuple[str, object], ...] = flax.struct.field(pytree_node=False)
    spread: scores.Spread | None = None
    report: Report = flax.struct.field(default_factory=dict)

    def __reduce__(self):
        raise TypeError(
            "a Detector holds functions and cannot be pickled; its jaxad.Predictor has "
            "save(folder), and jaxad.load(folder) gives it back"
        )


Detectors = Detector | Sequence[Detector]


def predict(detector: Detectors, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scores images.

    Args:
      detector: as fitted; several are an ensemble, whose patches score the mean of the
        members' modified z-scores (ReConPatch, eq. 11).
      images: [b, H, W, 3] in [0, 1].

    Returns:
      (image scores [b], anomaly maps [b, H, W]), in the scorer's `unit`: distances in
      descriptor space, or logits; z-scores of an ensemble.

    Raises:
      InputError: images of another shape, or an ensemble whose members have different
        patch grids.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise InputError(
            f"images have shape {images.shape}; predict takes [b, H, W, 3]"
        )
    return predict_each([members_of(detector)], images)[0]


def predict_each(
    banks: Sequence[Sequence[Detector]], images: jax.Array
) -> list[tuple[jax.Array, jax.Array]]:
    """What `predict` says by each of several detectors that describe images alike.

    Args:
      banks: the members of each; those of the first one describe the images for all.
      images: as for `predict`.
    """
    described = [describe_with(member, images) for member in banks[0]]
    predicted = []
    for members in banks:
        found = [
            member.scorer.score(member.state, one)
            for member, one in zip(members, described, strict=True)
        ]
        whole = combined(members, found)
        maps = anomaly_map(members[0], whole.patches, images.shape[1:3])
        predicted.append((whole.images, maps))
    return predicted


def members_of(detector: Detectors) -> tuple[Detector, ...]:
    return (detector,) if isinstance(detector, Detector) else tuple(detector)


def combined(members: Sequence[Detector], found: Sequence[Scored]) -> Scored:
    """One member's scores as they are, or those of an ensemble."""
    if len(members) == 1 and members[0].spread is None:
        return found[0]
    patches = scores.ensemble(
        [one.patches for one in found], [member.spread for member in members]
    )
    return Scored(patches, image_score(dict(members[0].options), patches))


def image_score(options: dict, patch_scores: jax.Array) -> jax.Array:
    """What `config.detector.image_score` makes of patch scores alone, [b]."""
    if options["image_score"] == "top_fraction":
        return scores.top_fraction(patch_scores, fraction=options["top_fraction"])
    if options["image_score"] == "mean":
        return scores.mean(patch_scores)
    return scores.maximum(patch_scores)


def anomaly_map(detector: Detector, patch_scores: jax.Array, size) -> jax.Array:
    """Anomaly maps [b, H, W] of patch scores [b, h, w], `size` is (H, W)."""
    return _map(patch_scores, tuple(size), dict(detector.options)["blur_sigma"])


_map = jax.jit(
    lambda patch_scores, size, sigma: scores.anomaly_map(
        patch_scores, size, sigma=sigma
    ),
    static_argnums=(1, 2),
)


def describe_with(detector: Detector, images: jax.Array) -> jax.Array:
    """`describe` with a detector's own representation."""
    return describe(detector.method, detector.backbone, detector.params, images)


def describe(method: Method, backbone: Backbone, params: Params, images: jax.Array):
    """Projected patch descriptors of images.

    Args:
      method, backbone, params: as in `Detector`.
      images: [b, H, W, 3] in [0, 1]. Where their rows are spread over devices, every
        device describes its own with one and the same program, so that an image's
        descriptors are the same bits on any number of devices.

    Returns:
      [b, h, w, d], spread as the images are.
    """
    if method.project is identity:
        return features(method, backbone, params, images)  # one program for both
    return program(_describe, method, backbone, sharding.mesh_of(images))(
        params, images
    )


def features(method: Method, backbone: Backbone, params: Params, images: jax.Array):
    """As `describe`, before the method's learnt map: [b, h, w, c]."""
    return program(_features, method, backbone, sharding.mesh_of(images))(
        params, images
    )


def programs(
    method: Method,
    backbone: Backbone,
    params: Params,
    image: tuple[int, ...],
    batch: int,
    mesh,
) -> list[Program]:
    """What `features`, and where a map is learnt `describe`, compile.

    Args:
      params: shapes of them.
      image: (H, W, 3).
      batch: images of a call.
      mesh: the devices; None for one.
    """
    images = jax.ShapeDtypeStruct((batch, *image), "float32")
    arguments = params, sharding.spread_shapes(images, mesh)
    functions = [_features] if method.project is identity else [_features, _describe]
    return [
        Program(
            name,
            program(function, method, backbone, mesh),
            arguments,
            scores=function is _describe,
            lower="config.batch_size",
        )
        for name, function in zip(FEATURES, functions, strict=False)
    ]


def map_program(detector_options, shapes: Shapes, size: tuple[int, int]) -> Program:
    """What `anomaly_map` compiles."""
    patches = jax.ShapeDtypeStruct((shapes.batch, *shapes.grid), "float32")
    patches = sharding.spread_shapes(patches, shapes.mesh)
    arguments = patches, tuple(size), dict(detector_options)["blur_sigma"]
    return Program("anomaly maps", _map, arguments, scores=True)


def _describe(method, backbone, params, images):
    return method.project(params, _features(method, backbone, params, images))


def _features(method, backbone, params, images):
    described = method.features(params, backbone.normalise(images))
    return described.astype(jax.numpy.float32)  # distances are float32's


@functools.lru_cache(maxsize=16)
def program(function, method, backbone, mesh):
    apply = functools.partial(function, method, backbone)
    if mesh is not None:
        apply = sharding.per_device(
            apply, mesh, (sharding.REPLICATED, sharding.ROWS), sharding.ROWS
        )
    return jax.jit(apply)
