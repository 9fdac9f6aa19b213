"""Nearest neighbours in a memory bank: the detector of all three papers.

A patch scores its Euclidean distance to the nearest patch of the bank, a coreset of all
normal patches.

References:
  PatchCore (arXiv:2106.08265), sections 3.2 and 3.3; ReConPatch (arXiv:2305.16713),
  equations 9 and 10.
"""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np

from jaxad import rng, scores
from jaxad.bank import memory_bank
from jaxad.bank import programs as bank_programs
from jaxad.detectors.base import (
    Extension,
    Normal,
    Report,
    Scored,
    Scorer,
    Shapes,
    State,
    everywhere,
    image_score,
)
from jaxad.devices.programs import Program
from jaxad.devices.rows import Stack
from jaxad.errors import InputError

_LOG = logging.getLogger(__name__)

_RADII = ("radius", "radius_bound")  # a bank has one of them


def build(config) -> Scorer:
    """The memory bank that `config.coreset` and `config.detector` describe.

    Its state: `memory_bank` float32 [n, d], on the host under a memory budget, and
    `owners` int32 [n], the place of each entry's image among the training images. Its
    report: `bank_patches`, and how well they cover the normal patches. `radius` is the
    largest distance of any training patch to the bank; in its place `radius_bound`,
    which no distance exceeds. Of a bank that was extended also `radius_before` or
    `radius_bound_before`, of the bank as it was and its own patches; `added_before`, of
    the added patches to that bank; `added`, to this.
    """
    budget = config.detector.max_device_bytes or None
    options = config.detector.to_dict()
    approximate = options["search"] == "approximate"
    search = functools.partial(
        _search,
        options=options,
        budget=budget,
        recall_target=options["recall_target"] if approximate else None,
    )

    def place(state: State, mesh) -> State:
        return state if budget else everywhere(state, mesh)

    def recall(state: State, described: jax.Array) -> jax.Array:
        exact = functools.partial(_search, options=options, budget=budget)
        found, best = search(state, described), exact(state, described)
        return found.patches <= best.patches

    return Scorer(
        fit=functools.partial(_fit, config),
        score=search,
        check=functools.partial(_check, config),
        place=place,
        left_out=functools.partial(_left_out, options, budget),
        extend=functools.partial(_extend, config),
        recall=recall if approximate else None,
        programs=functools.partial(_programs, config),
        starts=True,
    )


def coreset_size(ratio: float, patches: int) -> int:
    """Patches that the bank keeps: `int(ratio * patches)`, at least one."""
    return max(1, int(ratio * patches))


def _programs(config, shapes: Shapes) -> list[Program]:
    """Of the whole search on every device: a budget passes parts of it through."""
    patches = shapes.images * shapes.grid[0] * shapes.grid[1]
    size, options = coreset_size(config.coreset.ratio, patches), config.detector
    search = functools.partial(
        bank_programs.search,
        shapes.batch * shapes.grid[0] * shapes.grid[1],
        size,
        shapes.width,
        mesh=shapes.mesh,
    )
    if options.search == "approximate":
        search = functools.partial(search, recall_target=options.recall_target)
    return [
        *bank_programs.choosing(
            shapes.rows,
            shapes.width,
            size,
            mesh=shapes.mesh,
            projection_dim=config.coreset.projection_dim or None,
        ),
        search(),
    ]


def _check(config, images: int, grid: tuple[int, int], width: int) -> None:
    del width
    options, patches = config.detector, images * grid[0] * grid[1]
    size = coreset_size(config.coreset.ratio, patches)
    if config.bank_starts > patches:
        raise InputError(
            f"config.bank_starts={config.bank_starts} is more than the {patches} "
            "patches to begin at; lower it"
        )
    if options.image_score == "reweighted" and options.reweight_neighbours > size:
        raise InputError(
            f"config.detector.reweight_neighbours={options.reweight_neighbours} is "
            f"more than the {size} patches of the memory bank; lower it, or raise "
            "config.coreset.ratio"
        )


def _fit(config, normal: Normal) -> tuple[State, Report]:
    """Chooses the bank from the rows."""
    size = coreset_size(config.coreset.ratio, len(normal.rows))
    if size == 1 < len(normal.rows):
        _LOG.warning(
            "the memory bank keeps one patch of %d, and everything is scored by its "
            "distance to that one; raise config.coreset.ratio=%g",
            len(normal.rows),
            config.coreset.ratio,
        )
    chosen, radius = _coreset(config, normal, size)
    return _state(normal.rows, chosen, chosen // _patches(normal)), {
        "bank_patches": len(chosen),
        "radius": radius,
    }


def _state(rows: Stack, chosen: np.ndarray, owners: np.ndarray) -> State:
    return {"memory_bank": rows.take(chosen), "owners": owners.astype(np.int32)}


def _patches(normal: Normal) -> int:
    return normal.grid[0] * normal.grid[1]


def _coreset(
    config, normal: Normal, size: int, kept: int = 0
) -> tuple[np.ndarray, float]:
    """The chosen rows, and the covering radius.

    Args:
      kept: so many of the first rows are in the bank from the start.
    """
    keep = normal.keep
    before = [found["chosen"] for _, _, found in keep.resume()]
    start = range(kept) if kept else _start(config.seed, normal)

    def save(chosen):
        keep.reached(
            len(chosen), lambda first, stop: {"chosen": chosen[first:stop].copy()}
        )

    with normal.progress(total=size, unit="pick") as bar:
        chosen, radius = memory_bank.covered_coreset(
            normal.rows,
            size,
            start=np.concatenate(before) if before else start,
            projection_dim=config.coreset.projection_dim or None,
            key=rng.stream(config.seed, "coreset"),
            progress=lambda done, _: bar.update(min(done, size) - bar.n),
            each_round=save,
            mesh=normal.mesh,
            max_device_bytes=config.detector.max_device_bytes or None,
        )
    # Once every row is covered there is nothing left to choose but the first one.
    repeated = (chosen == 0) & (np.arange(size) >= max(kept, 1))
    return chosen[~repeated], radius


def _start(seed: int, normal: Normal) -> int:
    """Where a coreset begins: at the first patch, or at one drawn for this start."""
    if normal.start == 0:
        return 0
    others = np.random.default_rng((seed, 4)).permutation(len(normal.rows) - 1) + 1
    return int(others[normal.start - 1])


def _extend(config, extension: Extension) -> tuple[State, Report]:
    """A bank that covers more images: chosen anew, or with entries of the new ones."""
    new, bank = extension.new, np.asarray(extension.state["memory_bank"])
    places = {
        "mesh": new.mesh,
        "max_device_bytes": config.detector.max_device_bytes or None,
    }
    report = {
        f"{name}_before": radius
        for name, radius in extension.report.items()
        if name in _RADII
    }
    report["added_before"] = memory_bank.covering_radius(new.rows, bank, **places)
    patches = _patches(new) * (extension.images + new.images)
    size = coreset_size(config.coreset.ratio, patches)
    if extension.fast:
        rows = Stack([bank, new.rows])
        size = min(max(size, len(bank)), len(rows))
        grown = dataclasses.replace(new, rows=rows)
        chosen, radius = _coreset(config, grown, size, kept=len(bank))
        added = extension.images + (chosen[len(bank) :] - len(bank)) // _patches(new)
        owners = np.concatenate([extension.state["owners"], added])
        state = _state(rows, chosen, owners)
        report["added"] = radius  # the bank's own entries are covered anyway
        if extension.old is not None:
            of_old = memory_bank.covering_radius(
                extension.old(), state["memory_bank"], **places
            )
            report["radius"] = max(radius, of_old)
        else:
            (of_old,) = (extension.report[r] for r in _RADII if r in extension.report)
            report["radius_bound"] = max(radius, of_old)
    else:
        rows = Stack([extension.old(), new.rows])
        chosen, radius = _coreset(config, dataclasses.replace(new, rows=rows), size)
        state = _state(rows, chosen, chosen // _patches(new))
        report["radius"] = radius
    _LOG.info(
        "%d images added, the bank grows from %d to %d patches; the new ones were at "
        "most %.4g away from it, now %.4g",
        new.images,
        len(bank),
        len(chosen),
        report["added_before"],
        radius,
    )
    return state, {"bank_patches": len(chosen), **report}


# ---- Scoring


def _search(
    state: State, described: jax.Array, *, options, budget, recall_target=None
) -> Scored:
    """Every patch's distance to its nearest memory, and what an image makes of them."""
    distances, nearest = memory_bank.nearest(
        described.reshape(-1, described.shape[-1]),
        state["memory_bank"],
        1,
        max_device_bytes=budget,
        recall_target=recall_target,
    )
    patch_scores = distances.reshape(described.shape[:3])
    if options["image_score"] != "reweighted":
        return Scored(patch_scores, image_score(options, patch_scores))

    def around(entry):
        neighbours = options["reweight_neighbours"]
        bank = state["memory_bank"]
        return memory_bank.nearest(
            bank[entry], bank, neighbours, max_device_bytes=budget
        )[1]

    return Scored(
        patch_scores,
        _reweight(described, patch_scores, nearest, state["memory_bank"], around),
    )


def _left_out(
    options, budget, state: State, described: jax.Array, images: np.ndarray
) -> Scored:
    """As `_search`, every image without the entries that are its own."""
    b, h, w, d = described.shape
    bank, owners = state["memory_bank"], np.asarray(state["owners"])

    def others(queries, query_owners, k):
        return memory_bank.nearest_of_others(
            queries, query_owners, bank, owners, k, max_device_bytes=budget
        )

    distances, nearest = others(
        described.reshape(-1, d), np.repeat(np.asarray(images), h * w), 1
    )
    patch_scores = distances.reshape(b, h, w)
    if options["image_score"] != "reweighted":
        return Scored(patch_scores, image_score(options, patch_scores))

    def around(entry):
        return others(bank[entry], images, options["reweight_neighbours"])[1]

    return Scored(
        patch_scores, _reweight(described, patch_scores, nearest, bank, around)
    )


def _reweight(described, patch_scores, nearest, bank, around):
    """ReConPatch eq. 10 for the most anomalous patch of every image, [b].

    No other patch is re-weighted; `scores.reweighted` says why.

    Args:
      nearest: entries that are nearest to each patch.
      around: from entries [b] to those nearest to each, int32 [b, neighbours].
    """
    b, h, w, d = described.shape
    rows = jnp.arange(b)
    worst = patch_scores.reshape(b, h * w).argmax(-1)
    entry = nearest.reshape(b, h * w)[rows, worst]
    patches = described.reshape(b, h * w, d)[rows, worst]
    gaps = bank[around(entry)] - patches[:, None]
    distances = jnp.sqrt((gaps**2).sum(-1))
    return scores.reweighted(patch_scores.reshape(b, h * w)[rows, worst], distances)
