"""Memory bank: which patch descriptors to keep, and the nearest ones to a query.

Both functions are exact, and fast for the same reason. The product form of a squared
distance, |x|² + |c|² - 2 x·c, is one matrix product but loses digits; direct
differences, sum (x - c)², keep them but cost a pass over the data. So the product only
narrows the field, with an error bound, and direct differences decide among the few
that are left. What the product rounds to can then not change a result.

The bound: with coordinates taken from a row of the data, float32 products of rows of
length d are off by less than `_slack(d) * (|x|² + |c|²)`. That is four times the worst
case of Higham, Accuracy and Stability of Numerical Algorithms, eq. 3.5, which covers
the shift, the norms and products that a device splits into parts.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.errors import InputError

_ROWS = 8192  # rows of the data that a pass works on at a time
_CENTRES = 128  # centres that a pass works on at a time
_CANDIDATES = 2048  # rows that a coreset round looks at
_PICKS = 1024  # most picks of a round
_NEAR = 4  # centres a candidate is compared with before all of them
_QUERIES = 1024  # queries a search works on at a time
_SPARE = 7  # rows a search keeps beyond k, to decide among
_GROUP = 64  # values of which a search first looks at the minimum only
_LIMIT = 1e16  # squared distances of larger values could overflow float32


def greedy_coreset(
    features: jax.Array | np.ndarray,
    size: int,
    *,
    start: int = 0,
    projection_dim: int | None = None,
    key: jax.Array | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Greedy k-centre: again and again the row farthest from the rows chosen so far.

    The sequence is that of the textbook: the arg-max of the running minimum of
    squared distances, each the float64 sum of squared differences of float32 rows, ties
    to the lowest index. Once every row coincides with a chosen one all distances are
    zero, and that index is 0.

    It is found in rounds. Distances only ever fall, so among the rows with the largest
    upper bounds the greedy picks are the overall ones for as long as they lie farther
    than anything outside can. A round picks as many as it can on the host, then the
    device lowers all bounds by all new centres in one matrix product.

    Args:
      features: rows [n, d], taken as float32.
      size: how many rows to choose, 1 to n.
      start: index of the first centre.
      projection_dim: measures distances after a Gaussian random projection to this
        many dimensions, which costs exactness and saves time.
      key: of the projection; needed with `projection_dim`.
      progress: called after each round with (chosen, size).

    Returns:
      Indices of the chosen rows, int32 [size], in the order of selection.

    Raises:
      InputError: size or start out of range; rows that are not finite.

    References:
      Gonzalez, Clustering to minimize the maximum intercluster distance, 1985;
      Roth et al., PatchCore, CVPR 2022 (arXiv:2106.08265), algorithm 1.
    """
    features = _rows("features", features)
    n, d = features.shape
    if not 1 <= size <= n:
        raise InputError(
            f"a coreset of size={size} cannot be taken from features of shape "
            f"{(n, d)}; choose a size from 1 to {n}"
        )
    if not 0 <= start < n:
        raise InputError(f"start={start} is not the index of one of the {n} features")
    if projection_dim is not None:
        features = _project(features, projection_dim, key)
        d = features.shape[1]

    origin = features[start]
    upper = jnp.full((n,), jnp.inf, jnp.float32)
    centres = jnp.zeros((size + _PICKS, d), jnp.float32)  # on the device
    rows = np.zeros((size, d), np.float32)  # the same on the host
    chosen = np.zeros(size, np.int32)
    done, width, direct = 0, _CANDIDATES, False
    picks, picked = np.array([start]), np.asarray(origin)[None]
    while True:
        first, done = done, done + len(picks)
        chosen[first:done], rows[first:done] = picks, picked
        block = np.zeros((_PICKS, d), np.float32)
        block[: len(picks)] = picked
        centres = _write(centres, block, first)
        upper = _cover(upper, features, origin, centres, first, done, direct=direct)
        if progress is not None:
            progress(done, size)
        picks = []
        while not picks:
            if done == size:
                return chosen
            index, bound, floor = _farthest(upper, width)
            if bound.max() == 0:
                return chosen  # only rows equal to chosen ones are left: index 0
            candidates = features[index]
            lower, near = _shortlist(candidates, centres, origin, done, _NEAR)
            candidates = np.asarray(candidates)
            picks = _pick(
                candidates,
                bound,
                floor,
                rows[:done],
                np.asarray(near),
                np.asarray(lower[:, -1]),
                min(_PICKS, size - done),
            )
            if picks:
                picks, picked = index[picks].tolist(), candidates[picks]
            elif direct:
                width *= 2  # more equal distances than candidates
            else:
                # The clusters have become tighter than the product form can see.
                direct = True
                upper = jnp.full((n,), jnp.inf, jnp.float32)
                upper = _cover(upper, features, origin, centres, 0, done, direct=True)


def nearest(
    queries: jax.Array | np.ndarray, bank: jax.Array | np.ndarray, k: int
) -> tuple[jax.Array, jax.Array]:
    """The k nearest rows of the bank, exact, in bounded memory.

    Distances are Euclidean, from float32 direct differences; neighbours are in order of
    that distance, equal ones in order of their index. May be called under `jit`, where
    values are not checked.

    Args:
      queries: rows [m, d], taken as float32.
      bank: rows [n, d], taken as float32.
      k: how many neighbours, 1 to n.

    Returns:
      Distances float32 [m, k], ascending, and indices int32 [m, k].

    Raises:
      InputError: widths that differ, k out of range, rows that are not finite.
    """
    queries, bank = _rows("queries", queries), _rows("bank", bank)
    if queries.shape[1] != bank.shape[1]:
        raise InputError(
            f"queries of shape {queries.shape} and a bank of shape {bank.shape} must "
            "have the same number of columns"
        )
    if not 1 <= k <= bank.shape[0]:
        raise InputError(
            f"k={k} neighbours cannot be found in a bank of shape {bank.shape}; choose "
            f"a k from 1 to {bank.shape[0]}"
        )
    return _nearest(queries, bank, k)


def _rows(name: str, x) -> jax.Array:
    """x as float32 [n, d], checked as far as it can be."""
    x = jnp.asarray(x, jnp.float32)
    if x.ndim != 2 or x.shape[1] == 0:
        raise InputError(f"{name} must have the shape [n, d], not {x.shape}")
    if x.shape[0] and not isinstance(x, jax.core.Tracer):
        bad = int(_first_bad(x))
        if bad < x.shape[0]:
            raise InputError(
                f"{name} of shape {x.shape}: row {bad} holds NaN, infinity or a value "
                f"beyond {_LIMIT:g}; look for the image or the layer that it comes from"
            )
    return x


@jax.jit
def _first_bad(x: jax.Array) -> jax.Array:
    good = (jnp.abs(x) <= _LIMIT).all(1)  # false for NaN
    return jnp.where(good.all(), x.shape[0], jnp.argmin(good))


def _project(features: jax.Array, dim: int, key: jax.Array | None) -> jax.Array:
    if key is None or dim < 1:
        raise InputError(
            f"projection_dim={dim} needs a positive number and the key of a random "
            "stream"
        )
    matrix = jax.random.normal(key, (features.shape[1], dim)) / np.sqrt(dim)
    return jnp.dot(features, matrix, precision=jax.lax.Precision.HIGHEST)


def _slack(d: int) -> float:
    """The error of the product form relative to |x|² + |c|²: 4 (d + 8) 2^-24."""
    return (d + 8) * 2.0**-22


def _product(x: jax.Array, c: jax.Array, sign: int) -> jax.Array:
    """Bounds on the squared distances of rows: [a, d], [b, d] -> [a, b].

    Upper bounds for sign=1, lower bounds for sign=-1.
    """
    scale = 1 + sign * _slack(x.shape[1])
    xc = jax.lax.dot_general(
        x, c, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST
    )
    squares = scale * (x * x).sum(1)[:, None] + scale * (c * c).sum(1)[None]
    return squares - 2 * xc


@functools.partial(jax.jit, donate_argnums=0)
def _write(centres: jax.Array, block: jax.Array, first: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(centres, block, first, 0)


@functools.partial(jax.jit, static_argnames="direct", donate_argnums=0)
def _cover(upper, features, origin, centres, first, stop, *, direct: bool):
    """Lowers upper bounds [n] on squared distances by the centres [first, stop)."""
    n, d = features.shape
    rows = min(_ROWS, n)
    width = min(_CENTRES, centres.shape[0])

    def block_of_rows(i, upper):
        at = jnp.minimum(
            i * rows, n - rows
        )  # the last block overlaps: min is idempotent
        x = jax.lax.dynamic_slice_in_dim(features, at, rows)

        def block_of_centres(j, least):
            at = jnp.minimum(first + j * width, centres.shape[0] - width)
            c = jax.lax.dynamic_slice_in_dim(centres, at, width)
            if direct:
                bound = ((x[:, None] - c[None]) ** 2).sum(-1) * (1 + _slack(d))
            else:
                bound = _product(x - origin[None], c - origin[None], 1)
            valid = at + jnp.arange(width) < stop
            return jnp.minimum(least, jnp.where(valid[None], bound, jnp.inf).min(1))

        least = jax.lax.dynamic_slice_in_dim(upper, at, rows)
        least = jax.lax.fori_loop(
            0, -(-(stop - first) // width), block_of_centres, least
        )
        return jax.lax.dynamic_update_slice_in_dim(upper, least, at, 0)

    return jax.lax.fori_loop(0, -(-n // rows), block_of_rows, upper)


def _farthest(upper: jax.Array, width: int):
    """The rows with the largest bounds: index, ascending, bound, and what is outside.

    No row outside lies farther than the third value; -1 if there is none.
    """
    n = upper.shape[0]
    bound, index = _top(upper, min(width + 1, n))
    bound, index = np.asarray(bound, np.float64), np.asarray(index)
    floor = -1.0
    if width < n:
        bound, index, floor = bound[:-1], index[:-1], bound[-1]
    order = np.argsort(index)
    return index[order], bound[order], floor


_top = jax.jit(jax.lax.top_k, static_argnums=1)


def _pick(
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

    def distances(j, to):
        return ((to - x[j]) ** 2).sum(1)

    def distance(j):
        if np.isinf(settled[j]):
            settled[j] = distances(j, centres[near[j]]).min()
            if settled[j] > rest[j]:
                settled[j] = distances(j, centres).min()
        value = settled[j]
        if picks:
            lower = norms[j] + norms[picks] - 2 * products[j, picks]
            close = lower - slack * (norms[j] + norms[picks]) < value
            value = min(value, distances(j, x[picks][close]).min(initial=np.inf))
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


@functools.partial(jax.jit, static_argnums=4)
def _shortlist(queries, bank, origin, count, r: int):
    """The r rows among the first `count` of the bank with the smallest lower bounds.

    Returns:
      Lower bounds on squared distances, ascending, and indices, [m, r] each. No row
      left out has a bound below the last; where rows are too few, infinity and 0.
    """
    m, n = queries.shape[0], bank.shape[0]
    rows = min(_ROWS, n)
    x = queries - origin[None]

    def block(i, best):
        at = jnp.minimum(i * rows, n - rows)
        c = jax.lax.dynamic_slice_in_dim(bank, at, rows) - origin[None]
        index = at + jnp.arange(rows, dtype=jnp.int32)
        fresh = (index >= i * rows) & (index < count)  # blocks overlap at the end
        bound = jnp.where(fresh[None], _product(x, c, -1), jnp.inf)
        least, position = _smallest(bound, min(r, rows))
        least = jnp.concatenate([best[0], least], 1)
        index = jnp.concatenate(
            [best[1], jnp.where(least[:, r:] < jnp.inf, at + position, 0)], 1
        )
        least, position = _smallest(least, r)
        return least, jnp.take_along_axis(index, position, 1)

    best = jnp.full((m, r), jnp.inf), jnp.zeros((m, r), jnp.int32)
    return jax.lax.fori_loop(0, -(-count // rows), block, best)


def _smallest(x: jax.Array, r: int) -> tuple[jax.Array, jax.Array]:
    """The r smallest values of each row, ascending, and their positions.

    The r smallest lie in the r groups with the smallest minima. Minima of groups are a
    cheap pass, so the sort sees few values.
    """
    m, n = x.shape
    groups = n // _GROUP
    if n % _GROUP or groups <= r:
        value, position = jax.lax.top_k(-x, r)
        return -value, position
    # A group is a column: neighbours in memory belong to different groups.
    x = x.reshape(m, _GROUP, groups)
    _, column = jax.lax.top_k(-x.min(1), r)
    members = jnp.take_along_axis(x, column[:, None], 2).reshape(m, _GROUP * r)
    value, at = jax.lax.top_k(-members, r)
    position = at // r * groups + jnp.take_along_axis(column, at % r, 1)
    return -value, position


def _differences(x: jax.Array, bank: jax.Array, index: jax.Array, k: int):
    """The k nearest of the named rows: squared distances and indices, [q, k]."""
    square = ((x[:, None] - bank[index]) ** 2).sum(-1)
    square, index = jax.lax.sort((square, index), num_keys=2)
    return square[:, :k], index[:, :k]


@functools.partial(jax.jit, static_argnums=2)
def _nearest(queries, bank, k: int):
    (m, d), n = queries.shape, bank.shape[0]
    block, r = min(_QUERIES, m), min(k + _SPARE, n)
    if m == 0:
        return jnp.zeros((0, k)), jnp.zeros((0, k), jnp.int32)

    def one(i, result):
        at = jnp.minimum(i * block, m - block)
        x = jax.lax.dynamic_slice_in_dim(queries, at, block)
        lower, index = _shortlist(x, bank, bank[0], n, r)
        square, best = _differences(x, bank, index, k)
        doubtful = (r < n) & (square[:, -1] * (1 + _slack(d)) >= lower[:, -1])

        def search(state):
            # No bound rules out the rest of the bank: compare with every row.
            index, doubtful = state
            q = doubtful.argmax()
            every = ((bank - x[q][None]) ** 2).sum(-1)
            _, closest = jax.lax.top_k(-every, r)
            return index.at[q].set(closest), doubtful.at[q].set(False)

        def again():
            done, _ = jax.lax.while_loop(
                lambda s: s[1].any(), search, (index, doubtful)
            )
            return _differences(x, bank, done, k)

        square, best = jax.lax.cond(doubtful.any(), again, lambda: (square, best))
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(whole, part, at, 0)
            for whole, part in zip(result, (jnp.sqrt(square), best), strict=True)
        )

    result = jnp.zeros((m, k)), jnp.zeros((m, k), jnp.int32)
    return jax.lax.fori_loop(0, -(-m // block), one, result)
