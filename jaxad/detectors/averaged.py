"""A scorer that a method's own verdict has a say in: ToCoAD's D in the score.

The last channel of the descriptors is the log-odds of an anomaly, and the scorer sees
the others. A patch scores the mean of two z-scores, of the scorer's score and of the
log-odds: each less its mean, by its standard deviation, over the normal patches that
the scorer was fitted on.
"""

import dataclasses

import jax
import numpy as np

from jaxad.detectors.base import (
    Extension,
    Normal,
    Scored,
    Scorer,
    State,
    everywhere,
    image_score,
)
from jaxad.devices.rows import Stack
from jaxad.errors import InputError

_UNITS = "z_scores"  # float32 [2, 2]: mean and deviation of the score, of the log-odds
_IMAGES = 8  # of a call


def with_log_odds(scorer: Scorer, options: dict) -> Scorer:
    """The scorer of descriptors that have one channel more than those of `scorer`.

    Its state is that of `scorer` and one more array.

    Args:
      scorer: of all channels but the last.
      options: the fields of `config.detector`.

    Raises:
      InputError: an image score that is more than one of patch scores.
    """
    if options["image_score"] == "reweighted":
        raise InputError(
            "config.detector.image_score=reweighted weighs distances, and "
            "config.method.in_score averages them with log-odds; choose max, mean or "
            "top_fraction"
        )

    def fit(normal: Normal) -> tuple[State, dict]:
        state, report = scorer.fit(_without(normal))
        return state | _units(scorer, state, normal), report

    def score(state: State, described: jax.Array) -> Scored:
        return both(state, described, scorer.score(_own(state), described[..., :-1]))

    def left_out(state: State, described: jax.Array, images) -> Scored:
        found = scorer.left_out(_own(state), described[..., :-1], images)
        return both(state, described, found)

    def both(state: State, described: jax.Array, found: Scored) -> Scored:
        patches = averaged(state, found.patches, described[..., -1])
        return Scored(patches, image_score(options, patches))

    def recall(state: State, described: jax.Array) -> jax.Array:
        return scorer.recall(_own(state), described[..., :-1])

    def place(state: State, mesh) -> State:
        units = everywhere({_UNITS: state[_UNITS]}, mesh)
        return scorer.place(_own(state), mesh) | units

    def extend(extension: Extension) -> tuple[State, dict]:
        old = extension.old and extension.old()
        own = dataclasses.replace(
            extension,
            state=_own(extension.state),
            new=_without(extension.new),
            old=old and (lambda: old.map(_all_but_last, None)),
        )
        state, report = scorer.extend(own)
        if old is None:  # the units of what is known stay
            return state | {_UNITS: extension.state[_UNITS]}, report
        rows = Stack([old, extension.new.rows])
        everything = dataclasses.replace(extension.new, rows=rows)
        return state | _units(scorer, state, everything), report

    return scorer._replace(
        fit=fit,
        score=score,
        check=lambda images, grid, width: scorer.check(images, grid, width - 1),
        place=place,
        left_out=left_out if scorer.left_out else None,
        extend=extend if scorer.extend else None,
        recall=recall if scorer.recall else None,
        unit="the mean of the z-scores of a distance and of the log-odds of an anomaly",
        programs=lambda shapes: scorer.programs(
            dataclasses.replace(shapes, width=shapes.width - 1)
        ),
    )


def averaged(state: State, patches: jax.Array, log_odds: jax.Array) -> jax.Array:
    """The mean of the z-scores of patch scores and of log-odds, each [b, h, w]."""
    means, deviations = state[_UNITS]
    both = (patches - means[0]) / deviations[0], (log_odds - means[1]) / deviations[1]
    return sum(both) / 2


def _own(state: State) -> State:
    return {name: x for name, x in state.items() if name != _UNITS}


def _all_but_last(_, rows: jax.Array) -> jax.Array:
    return rows[:, :-1]


def _without(normal: Normal) -> Normal:
    """The same descriptors without the log-odds."""
    return dataclasses.replace(normal, rows=normal.rows.map(_all_but_last, None))


def _units(scorer: Scorer, state: State, normal: Normal) -> State:
    """Mean and deviation of both, each image scored without its own where possible."""
    placed = scorer.place(state, normal.mesh)
    (h, w), found = normal.grid, []
    for first in range(0, normal.images, _IMAGES):
        images = np.arange(first, first + _IMAGES).clip(max=normal.images - 1)
        places = images[:, None] * (h * w) + np.arange(h * w)
        described = normal.rows.take(places.ravel()).reshape(_IMAGES, h, w, -1)
        if scorer.left_out is None:
            scored = scorer.score(placed, described[..., :-1])
        else:
            scored = scorer.left_out(placed, described[..., :-1], images)
        both = np.stack([np.asarray(scored.patches), described[..., -1]], -1)
        found.append(both[: normal.images - first])
    both = np.concatenate(found).astype(np.float64)
    units = np.stack([x(both, (0, 1, 2)) for x in (np.mean, np.std)])
    if not (units[1] > 0).all():
        what = "log-odds" if units[1][0] > 0 else "distances"
        raise InputError(
            f"config.method.in_score has nothing to divide by: the {what} of all "
            "training patches are the same; train stage I longer, or leave it out"
        )
    return {_UNITS: units.astype(np.float32)}
