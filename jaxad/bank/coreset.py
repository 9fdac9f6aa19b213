"""The two halves of a greedy coreset: bounds on the devices, picks on the host.

The devices keep an upper bound on every row's squared distance to the chosen ones; the
host picks among the rows with the largest bounds, in float64.
"""

import functools

import jax
import numpy as np
from jax.sharding import Mesh

from jaxad.bank import distances
from jaxad.devices import sharding
from jaxad.devices.rows import Placed
from jaxad.devices.sharding import REPLICATED as SAME
from jaxad.devices.sharding import ROWS

PICKS = 1024  # most picks of a round
_NEAR = 4  # centres a candidate is compared with before all of them


class Bounds:
    """Upper bounds on every row's squared distance to the centres, on the devices."""

    def __init__(self, data: Placed, size: int, origin: np.ndarray):
        self.data, self.mesh = data, data.mesh
        self.origin = sharding.replicate(origin, self.mesh)
        empty = np.zeros((size + PICKS, len(origin)), np.float32)
        self.centres = sharding.replicate(empty, self.mesh)
        self.count = 0
        self.direct = False
        self._reset()

    def _reset(self) -> None:
        self.upper = []
        for _, count, size in self.data.spans:
            upper = np.full(size, -np.inf, np.float32)  # which padding keeps
            upper[:count] = np.inf
            self.upper.append(sharding.split_rows(upper, self.mesh))

    def lower(self, centres: np.ndarray) -> None:
        """Takes in new centres [c, d]."""
        for at in range(0, len(centres), PICKS):
            block = np.zeros((PICKS, centres.shape[1]), np.float32)
            new = centres[at : at + PICKS]
            block[: len(new)] = new
            self.centres = _write(self.centres, block, self.count + at)
        self._cover(self.count, self.count + len(centres))
        self.count += len(centres)

    def look_closely(self) -> None:
        """From now on by direct differences, which see the tightest clusters."""
        self.direct = True
        self._reset()
        self._cover(0, self.count)

    def _cover(self, first: int, stop: int) -> None:
        span, uppers = np.array([first, stop], np.int32), iter(self.upper)

        def part(_first, _count, rows):
            return lower_bounds(
                next(uppers),
                rows,
                self.origin,
                self.centres,
                span,
                mesh=self.mesh,
                direct=self.direct,
            )

        self.upper = self.data.map(part)

    def farthest(self, width: int) -> tuple[np.ndarray, np.ndarray, float]:
        """The rows with the largest bounds.

        Returns:
          Index, ascending, [width]; bounds, float64 [width]; and a bound for all rows
          outside, -1 if there are none.
        """
        tops = [largest(upper, width + 1, mesh=self.mesh) for upper in self.upper]
        starts = [first for first, _, _ in self.data.spans]
        upper = np.concatenate([np.asarray(top, np.float64) for top, _ in tops])
        index = np.concatenate(
            [
                np.asarray(at) + first
                for (_, at), first in zip(tops, starts, strict=True)
            ]
        )
        order = np.argsort(-upper, kind="stable")
        order = order[upper[order] >= 0][: width + 1]  # padding is below zero
        floor = -1.0
        if len(order) > width:
            order, floor = order[:-1], upper[order[-1]]
        order = order[np.argsort(index[order])]
        return index[order], upper[order], floor

    def near(self, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Likely nearest centres [b, r], and lower bounds for all the others, [b]."""
        b = len(candidates)
        candidates = sharding.split_rows(candidates, self.mesh)
        lower, index = nearest_centres(
            candidates, self.centres, self.origin, self.count, mesh=self.mesh
        )
        return np.asarray(index)[:b], np.asarray(lower)[:b, -1]


def pick(
    candidates: np.ndarray,
    upper: np.ndarray,
    floor: float,
    centres: np.ndarray,
    near: np.ndarray,
    rest: np.ndarray,
    most: int,
) -> list[int]:
    """Greedy picks among the candidates while they lie farther than all else can.

    A candidate's squared distance to the chosen rows is known between bounds, and
    worked out only when the candidate comes first.

    Args:
      candidates: [b, d] in order of their index.
      upper: bounds on their squared distances to the centres, float64 [b].
      floor: bound for all other rows.
      centres: the rows chosen so far, [t, d].
      near: centres that are likely the nearest to each candidate, [b, r].
      rest: bounds from below on the distances to all other centres, [b].
      most: how many to pick at most.

    Returns:
      Positions among the candidates, in the order of selection.
    """
    b, d = candidates.shape
    x = candidates.astype(np.float64)
    shifted = x - x[0]
    norms = (shifted**2).sum(1)
    products = shifted @ shifted.T
    slack = (d + 8) * 2.0**-50
    settled = np.full(b, np.inf)  # exact, to the centres
    exact = np.zeros(b, bool)  # is `upper` the distance itself?
    picks = []

    def distance(j):
        if np.isinf(settled[j]):
            settled[j] = _to_centres(x[j], centres, near[j], rest[j])
        value = settled[j]
        if picks:
            lower = norms[j] + norms[picks] - 2 * products[j, picks]
            close = lower - slack * (norms[j] + norms[picks]) < value
            value = min(value, _squares(x[picks][close], x[j]).min(initial=np.inf))
        return value

    while len(picks) < most:
        j = int(upper.argmax())
        if not exact[j]:
            upper[j], exact[j] = distance(j), True
            continue
        if upper[j] <= floor:
            break
        picks.append(j)
        squares = norms + norms[j]
        bound = squares - 2 * products[j]
        error = slack * squares
        exact &= bound - error >= upper
        upper = np.minimum(upper, bound + error)
    return picks


def farthest_of(
    candidates: np.ndarray, centres: np.ndarray, near: np.ndarray, rest: np.ndarray
) -> tuple[int, float]:
    """The candidate farthest from the centres, the first of equal ones.

    Args:
      candidates, centres, near, rest: as `pick` takes them.

    Returns:
      (its position, its squared distance).
    """
    found = [
        _to_centres(x, centres, *places)
        for x, *places in zip(candidates.astype(np.float64), near, rest, strict=True)
    ]
    return int(np.argmax(found)), max(found)


def _to_centres(x, centres, near, rest) -> float:
    """Squared distance of a candidate, float64 [d], to the nearest centre."""
    value = _squares(centres[near], x).min()
    return value if value <= rest else _squares(centres, x).min()


def _squares(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    return ((rows - x) ** 2).sum(1)


@functools.partial(jax.jit, donate_argnums=0)
def _write(centres: jax.Array, block: jax.Array, first: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(centres, block, first, 0)


@functools.partial(jax.jit, static_argnames=("mesh", "direct"), donate_argnums=0)
def lower_bounds(upper, rows, origin, centres, span, *, mesh: Mesh, direct: bool):
    def local(upper, rows, origin, centres, span):
        return distances.cover(
            upper, rows, origin, centres, span[0], span[1], direct=direct
        )

    specs = ROWS, ROWS, SAME, SAME, SAME
    return sharding.per_device(local, mesh, specs, ROWS)(
        upper, rows, origin, centres, span
    )


@functools.partial(jax.jit, static_argnames=("width", "mesh"))
def largest(upper, width: int, *, mesh: Mesh):
    """Each device's largest bounds and their positions, one after the other."""

    def local(upper):
        value, index = jax.lax.top_k(upper, min(width, len(upper)))
        first = jax.lax.axis_index(sharding.AXIS) * len(upper)
        return sharding.gather(value), sharding.gather(index + first)

    return sharding.per_device(local, mesh, ROWS, SAME)(upper)


@functools.partial(jax.jit, static_argnames="mesh")
def nearest_centres(candidates, centres, origin, count, *, mesh: Mesh):
    def local(candidates, centres, origin, count):
        found = distances.shortlist(
            candidates, centres, origin, count, _NEAR, chunk=PICKS
        )
        return tuple(sharding.gather(part) for part in found)

    specs = ROWS, SAME, SAME, SAME
    return sharding.per_device(local, mesh, specs, SAME)(
        candidates, centres, origin, count
    )
