"""Nearest neighbours in a memory bank: the detector of all three papers.

A patch scores its Euclidean distance to the nearest patch of the bank, a coreset of all
normal patches.

References:
  PatchCore (arXiv:2106.08265), sections 3.2 and 3.3; ReConPatch (arXiv:2305.16713),
  equations 9 and 10.
"""

import functools
from collections.abc import Sequence

import flax.struct
import jax

from jaxad import scores
from jaxad.bank import memory_bank
from jaxad.devices import sharding
from jaxad.errors import InputError
from jaxad.methods.base import Backbone, Method, Params


@flax.struct.dataclass
class KNN:
    """A fitted detector: the arrays it scores with, and how.

    Attributes:
      params: what the method's `features` and `project` read.
      bank: the memory bank, float32 [n, d]; on the host under a memory budget.
      spread: of the scores of normal patches; a member of an ensemble has one.
      coverage: distances that say how well the bank covers the normal patches.
        `radius`: the largest of any training patch to the bank; in its place
        `radius_bound`, which no distance exceeds. Of a bank that was extended also
        `radius_before` or `radius_bound_before`, of the bank as it was and its own
        patches; `added_before`, of the added patches to that bank; `added`, to this.
      method, backbone, options: static; `options` are the fields of `config.detector`.
    """

    params: Params
    bank: jax.Array
    method: Method = flax.struct.field(pytree_node=False)
    backbone: Backbone = flax.struct.field(pytree_node=False)
    options: tuple[tuple[str, object], ...] = flax.struct.field(pytree_node=False)
    spread: scores.Spread | None = None
    coverage: dict[str, float] = flax.struct.field(default_factory=dict)


def coreset_size(ratio: float, patches: int) -> int:
    """Patches that the bank keeps: `int(ratio * patches)`, at least one."""
    return max(1, int(ratio * patches))


def fit(config, method: Method, backbone: Backbone, params: Params, bank) -> KNN:
    """The detector on a memory bank [n, d] of projected normal patches.

    Raises:
      InputError: the re-weighting asks for more neighbours than the bank has entries.
    """
    options = config.detector
    check_neighbours(options, len(bank))
    return KNN(params, bank, method, backbone, tuple(options.to_dict().items()))


def check_neighbours(options, size: int) -> None:
    """Raises InputError if the re-weighting wants more entries than a bank has."""
    if options.image_score == "reweighted" and options.reweight_neighbours > size:
        raise InputError(
            f"config.detector.reweight_neighbours={options.reweight_neighbours} is "
            f"more than the {size} patches of the memory bank; lower it, or raise "
            "config.coreset.ratio"
        )


def predict(
    detector: KNN | Sequence[KNN], images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Scores images.

    Args:
      detector: as fitted; several are an ensemble, whose patches score the mean of the
        members' modified z-scores (ReConPatch, eq. 11).
      images: [b, H, W, 3] in [0, 1].

    Returns:
      (image scores [b], anomaly maps [b, H, W]): distances in descriptor space, or
      z-scores of an ensemble.

    Raises:
      InputError: images of another shape, or an ensemble whose members have different
        patch grids.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise InputError(
            f"images have shape {images.shape}; predict takes [b, H, W, 3]"
        )
    if isinstance(detector, KNN):
        described, patch_scores, nearest = _search(detector, images)
        options = dict(detector.options)
    else:
        found = [patch_distances(member, images) for member in detector]
        patch_scores = scores.ensemble(found, [member.spread for member in detector])
        options = dict(detector[0].options)
    if options["image_score"] == "top_fraction":
        score = scores.top_fraction(patch_scores, fraction=options["top_fraction"])
    elif options["image_score"] == "reweighted":
        b, h, w, d = described.shape
        score = _reweight(
            described.reshape(b, h * w, d),
            patch_scores.reshape(b, h * w),
            nearest.reshape(b, h * w),
            detector.bank,
            options["reweight_neighbours"],
            _budget(detector),
        )
    else:
        score = scores.maximum(patch_scores)
    return score, _map(patch_scores, images.shape[1:3], options["blur_sigma"])


def patch_distances(detector: KNN, images: jax.Array) -> jax.Array:
    """Distance of every patch to its nearest memory, [b, h, w] from [b, H, W, 3]."""
    return _search(detector, images)[1]


def finds_nearest(detector: KNN, images: jax.Array) -> jax.Array:
    """Whether the search finds an entry that is as near as any, bool [b, h, w]."""
    exact = detector.replace(options=(*detector.options, ("search", "exact")))
    return patch_distances(detector, images) <= patch_distances(exact, images)


def _budget(detector: KNN) -> int | None:
    return dict(detector.options)["max_device_bytes"] or None


def _search(detector: KNN, images):
    """Descriptors [b, h, w, d], their distances and nearest entries, both [b, h, w]."""
    options = dict(detector.options)
    approximate = options["search"] == "approximate"
    described = describe(detector.method, detector.backbone, detector.params, images)
    rows = described.reshape(-1, described.shape[-1])
    distances, nearest = memory_bank.nearest(
        rows,
        detector.bank,
        1,
        max_device_bytes=_budget(detector),
        recall_target=options["recall_target"] if approximate else None,
    )
    grid = described.shape[:3]
    return described, distances.reshape(grid), nearest.reshape(grid)


def describe(method: Method, backbone: Backbone, params: Params, images: jax.Array):
    """Projected patch descriptors of images.

    Args:
      method, backbone, params: as in `KNN`.
      images: [b, H, W, 3] in [0, 1]. Where their rows are spread over devices, every
        device describes its own with one and the same program, so that an image's
        descriptors are the same bits on any number of devices.

    Returns:
      [b, h, w, d], spread as the images are.
    """
    return _program(_describe, method, backbone, sharding.mesh_of(images))(
        params, images
    )


def features(method: Method, backbone: Backbone, params: Params, images: jax.Array):
    """As `describe`, before the method's learnt map: [b, h, w, c]."""
    return _program(_features, method, backbone, sharding.mesh_of(images))(
        params, images
    )


def _describe(method, backbone, params, images):
    return method.project(params, _features(method, backbone, params, images))


def _features(method, backbone, params, images):
    described = method.features(params, backbone.normalise(images))
    return described.astype(jax.numpy.float32)  # distances are float32's


@functools.lru_cache(maxsize=16)
def _program(function, method, backbone, mesh):
    apply = functools.partial(function, method, backbone)
    if mesh is not None:
        apply = sharding.per_device(
            apply, mesh, (sharding.REPLICATED, sharding.ROWS), sharding.ROWS
        )
    return jax.jit(apply)


_map = jax.jit(
    lambda patch_scores, size, sigma: scores.anomaly_map(
        patch_scores, size, sigma=sigma
    ),
    static_argnums=(1, 2),
)


def _reweight(patches, patch_scores, nearest, bank, neighbours, max_device_bytes):
    """ReConPatch eq. 10 for the most anomalous patch of every image, [b]."""
    rows = jax.numpy.arange(len(patches))
    worst = patch_scores.argmax(-1)
    entry = nearest[rows, worst]
    _, around = memory_bank.nearest(
        bank[entry], bank, neighbours, max_device_bytes=max_device_bytes
    )
    gaps = bank[around] - patches[rows, worst][:, None]
    distances = jax.numpy.sqrt((gaps**2).sum(-1))
    return scores.reweighted(patch_scores[rows, worst], distances)
