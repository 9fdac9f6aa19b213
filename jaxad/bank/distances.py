"""Squared distances between rows: products bound them, differences decide.

The product form |x|² + |c|² - 2 x·c is one matrix product but loses digits; the direct
form, sum (x - c)², keeps them but is slow. So the product only narrows the field, with
an error bound, and direct differences decide among the few that are left. What the
product rounds to, and in which order a device sums it, can then not change a result.

With coordinates taken from any one point, the product form is off by less than
`slack(d) * (|x|² + |c|²)`, which is the less the nearer that point is to the data. In
float32 that is four times the worst case of Higham, Accuracy and Stability of Numerical
Algorithms, eq. 3.5, which covers the shift, the norms and products that a device splits
into parts. What rounding x to x' and c to c' in bfloat16 adds is known from the rows
themselves,

  |2 x·c - 2 x'·c'| <= 2 |x - x'| |c| + 2 |x'| |c - c'|
                    <= |x - x'|²/t + t |x'|² + |c - c'|²/t + t |c|²    for any t > 0,

and less than half of the worst case, to which only a row of equal numbers comes close.

All functions here work on the arrays of one device and may be called under `jit`.
"""

import jax
import jax.numpy as jnp

ROWS = 8192  # rows that a pass works on at a time
_NUMBERS = 2**22  # of those rows at most, so that caches hold them
_CENTRES = 64  # centres that a pass works on at a time
QUERIES = 1024  # queries that a search works on at a time
_GROUP = 16  # values of which a search first looks at the smallest only
_LANES = 16  # sums that run side by side in a distance
_DECIDE = 256  # queries whose neighbours are decided at a time
_DOUBTFUL = 128  # doubtful queries that are searched again at a time
_SPARE = 11  # rows beyond k that a search keeps, to decide among
_T = 2.0**-9  # t above; the best is |x - x'| / |x|, which is 0.85 of this on average

_HIGHEST = jax.lax.Precision.HIGHEST

Pairs = tuple[jax.Array, jax.Array]


def slack(d: int) -> float:
    """Error of the product form of rows of length d, relative to |x|² + |c|²."""
    return (d + 8) * 2.0**-22


def cover(
    upper: jax.Array,
    rows: jax.Array,
    origin: jax.Array,
    centres: jax.Array,
    first: jax.Array,
    stop: jax.Array,
    *,
    direct: bool,
) -> jax.Array:
    """Lowers upper bounds on the squared distances to the nearest centre.

    Args:
      upper: bounds so far, [n].
      rows: [n, d].
      origin: where products take their coordinates from, [d].
      centres: [c, d], of which [first, stop) are new.
      direct: by direct differences, for clusters tighter than products can see.

    Returns:
      Bounds [n].
    """
    n, d = rows.shape
    height = min(ROWS, max(_NUMBERS // d, 1), n)
    width = min(_CENTRES, centres.shape[0])

    def block(i, upper):
        # The last block overlaps the one before, which a minimum does not mind.
        at = jnp.minimum(i * height, n - height)
        x = jax.lax.dynamic_slice_in_dim(rows, at, height)
        shifted = x - origin[None]
        squares = _squares(shifted)

        def step(j, least):
            at = jnp.minimum(first + j * width, centres.shape[0] - width)
            c = jax.lax.dynamic_slice_in_dim(centres, at, width)
            valid = at + jnp.arange(width) < stop
            if direct:
                bound = ((x[:, None] - c[None]) ** 2).sum(-1)
                bound = jnp.where(valid[None], (1 + slack(d)) * bound, jnp.inf).min(1)
            else:
                c = c - origin[None]
                norms = jnp.where(valid, (1 + slack(d)) * _squares(c), jnp.inf)
                bound = (norms[None] + _product(-2 * shifted, c)).min(1)
                bound = bound + (1 + slack(d)) * squares
            return jnp.minimum(least, bound)

        least = jax.lax.dynamic_slice_in_dim(upper, at, height)
        steps = (stop - first + width - 1) // width
        least = jax.lax.fori_loop(0, steps, step, least)
        return jax.lax.dynamic_update_slice_in_dim(upper, least, at, 0)

    return jax.lax.fori_loop(0, -(-n // height), block, upper)


def shortlist(
    queries: jax.Array,
    bank: jax.Array,
    origin: jax.Array,
    count: jax.Array,
    r: int,
    *,
    chunk: int = ROWS,
    half: bool = False,
    recall_target: float | None = None,
) -> Pairs:
    """The r rows of the bank with the smallest lower bounds on squared distances.

    Args:
      queries: [m, d].
      bank: [n, d], of which the first `count` rows are looked at.
      origin: where products take their coordinates from, [d].
      r: at most n.
      chunk: rows of the bank that are worked on at a time.
      half: products in bfloat16.
      recall_target: as in `approximate_rows`; None misses none.

    Returns:
      (lower bounds, ascending, and indices), [m, r] each. No row that was left out has
      a bound below the last, unless it was missed. Where rows are too few, infinity
      and 0.
    """
    m, n = queries.shape[0], bank.shape[0]
    chunks = -(-n // chunk)
    chunk = -(-n // (chunks * _GROUP)) * _GROUP
    if chunk > n:
        bank = jnp.pad(bank, ((0, chunk - n), (0, 0)))
    last = bank.shape[0] - chunk
    block = min(QUERIES, m)
    dtype = jnp.bfloat16 if half else jnp.float32

    def exactly(product, norms):
        return _smallest(product, norms, r)

    def approximately(product, norms):
        found = jax.lax.approx_min_k(
            product + norms[None], min(r, chunk), recall_target=recall_target
        )
        return tuple(found)

    def smallest(product, norms):
        if recall_target is None:
            return exactly(product, norms)
        # On a CPU XLA would sort everything for an approximate answer.
        return jax.lax.platform_dependent(
            product, norms, cpu=exactly, default=approximately
        )

    def one_chunk(i, best):
        at = jnp.minimum(i * chunk, last)
        c = jax.lax.dynamic_slice_in_dim(bank, at, chunk) - origin[None]
        index = at + jnp.arange(chunk)
        fresh = (index >= i * chunk) & (index < count)  # the last chunk overlaps
        norms = jnp.where(fresh, _lower_squares(c, half), jnp.inf)
        c = c.astype(dtype)

        def one_block(j, merged):
            start = jnp.minimum(j * block, m - block)
            x = jax.lax.dynamic_slice_in_dim(queries, start, block) - origin[None]
            least, position = smallest(_product((-2 * x).astype(dtype), c), norms)
            # Read from the chunk before: the last block overlaps, too.
            old = [jax.lax.dynamic_slice_in_dim(part, start, block) for part in best]
            least = jnp.concatenate([old[0], least], 1)
            index = jnp.concatenate([old[1], at + position], 1)
            least, position = jax.lax.top_k(-least, r)
            new = -least, jnp.take_along_axis(index, position, 1)
            return _put(merged, new, start)

        return jax.lax.fori_loop(0, -(-m // block), one_block, best)

    best = jnp.full((m, r), jnp.inf), jnp.zeros((m, r), jnp.int32)
    least, index = jax.lax.fori_loop(0, (count + chunk - 1) // chunk, one_chunk, best)
    lower = least + _lower_squares(queries - origin[None], half)[:, None]
    return lower, jnp.where(jnp.isfinite(least), index, 0)


def nearest_rows(
    queries: jax.Array, bank: jax.Array, count: jax.Array, k: int, *, half: bool
) -> Pairs:
    """The k nearest among the first `count` rows of the bank, exact.

    Args:
      queries: [m, d]. bank: [n, d].
      half: whether products in bfloat16 are faster than float32 here.

    Returns:
      (squared distances, ascending, and indices, equal distances in order of the
      index), [m, k] each; infinity and `n` where rows are too few.
    """
    (m, d), n = queries.shape, bank.shape[0]
    r = min(k + _SPARE, n)
    found = jnp.full((m, k), jnp.inf), jnp.full((m, k), n, jnp.int32)
    if m == 0:
        return found
    origin = _mean(bank, count)

    def search(x, half):
        lower, index = shortlist(x, bank, origin, count, r, half=half)
        square, index = _decide(x, bank, lower, index, k)
        ruled_out = lower[:, -1]
        sure = jnp.isinf(ruled_out) | (square[:, -1] * (1 + slack(d)) < ruled_out)
        return (square, index), ~sure

    found, doubtful = search(queries, half)

    def again(state):
        found, doubtful, hopeless = state
        chosen, at = jax.lax.top_k(doubtful.astype(jnp.int32), min(_DOUBTFUL, m))
        chosen = chosen > 0
        new, unsure = search(queries[at], half=False)
        found = tuple(
            old.at[at].set(jnp.where(chosen[:, None], part, old[at]))
            for old, part in zip(found, new, strict=True)
        )
        hopeless = hopeless.at[at].set(jnp.where(chosen, unsure, hopeless[at]))
        return found, doubtful.at[at].set(False), hopeless

    def everything(state):
        found, doubtful = state
        at = doubtful.argmax()
        x = queries[at][None]
        height = min(ROWS, n)

        def block(i, square):
            first = jnp.minimum(i * height, n - height)
            part = _direct(x, bank, first + jnp.arange(height)[None])[0]
            return jax.lax.dynamic_update_slice_in_dim(square, part, first, 0)

        square = jax.lax.fori_loop(0, -(-n // height), block, jnp.zeros(n))
        square = jnp.where(jnp.arange(n) < count, square, jnp.inf)
        least, index = jax.lax.top_k(-square, r)
        new = _decide(x, bank, -least[None], index[None], k)
        return _put(found, new, at), doubtful.at[at].set(False)

    if half:
        state = found, doubtful, jnp.zeros((m,), bool)
        found, _, doubtful = jax.lax.while_loop(lambda s: s[1].any(), again, state)
    found, _ = jax.lax.while_loop(lambda s: s[1].any(), everything, (found, doubtful))
    return found


def approximate_rows(
    queries: jax.Array,
    bank: jax.Array,
    count: jax.Array,
    k: int,
    *,
    recall_target: float,
    half: bool,
) -> Pairs:
    """As `nearest_rows`, but neighbours may be missed, and farther ones stand in.

    Distances are those of the rows that are found, from direct differences.

    Args:
      recall_target: the share of them that `jax.lax.approx_min_k` is asked to find.

    References:
      Chern et al., TPU-KNN: K Nearest Neighbor Search at Peak FLOP/s, NeurIPS 2022
      (arXiv:2206.14286).
    """
    m, n = queries.shape[0], bank.shape[0]
    if m == 0:
        return jnp.full((m, k), jnp.inf), jnp.full((m, k), n, jnp.int32)
    lower, index = shortlist(
        queries,
        bank,
        _mean(bank, count),
        count,
        min(k + _SPARE, n),
        half=half,
        recall_target=recall_target,
    )
    return _decide(queries, bank, lower, index, k)


def smallest_pairs(square: jax.Array, index: jax.Array, k: int) -> Pairs:
    """The k smallest, equal ones in order of the index: [m, r] -> [m, k] each."""
    square, index = jax.lax.sort((square, index), num_keys=2)
    return square[:, :k], index[:, :k]


def _direct(x: jax.Array, bank: jax.Array, index: jax.Array) -> jax.Array:
    """sum (x - c)² for rows c of the bank: [m, d], [n, d], [m, r] -> [m, r].

    Equal rows get equal bits in whatever program, place or shape, so that ties are
    ties wherever rows lie: the terms are added one by one in a fixed order, which a
    reduction leaves to the compiler, and cannot be contracted with the products.
    """
    d = x.shape[1]
    lanes = min(_LANES, 2 ** (d.bit_length() - 1))

    def add(i, total):
        # The last terms overlap those before, which count once.
        at = jnp.minimum(i * lanes, d - lanes)
        a = jax.lax.dynamic_slice_in_dim(x, at, lanes, 1)
        c = jax.vmap(jax.vmap(lambda row: _part(bank, row, at, lanes)))(index)
        fresh = at + jnp.arange(lanes) >= i * lanes
        # The minimum changes nothing; it stands between a product and its sum.
        square = jnp.minimum((a[:, None] - c) ** 2, jnp.finfo(jnp.float32).max)
        return total + jnp.where(fresh, square, 0)

    total = jnp.zeros((*index.shape, lanes))
    total = jax.lax.fori_loop(0, -(-d // lanes), add, total, unroll=8)
    while total.shape[-1] > 1:
        half = total.shape[-1] // 2
        total = total[..., :half] + total[..., half:]
    return total[..., 0]


def _part(bank: jax.Array, row: jax.Array, at: jax.Array, lanes: int) -> jax.Array:
    return jax.lax.dynamic_slice(bank, (row, at), (1, lanes))[0]


def _squares(x: jax.Array) -> jax.Array:
    return (x * x).sum(-1)


def _lower_squares(x: jax.Array, half: bool) -> jax.Array:
    """What each row adds to the lower bounds of its squared distances."""
    squares, error = _squares(x), slack(x.shape[-1])
    lower = (1 - error) * squares
    if half:
        # Not two casts: XLA may leave out both.
        lost = _squares(x - jax.lax.reduce_precision(x, 8, 7))
        lower -= (1 + error) * lost / _T + (1 + 2.0**-6) * _T * squares
    return lower


def _mean(x: jax.Array, count: jax.Array) -> jax.Array:
    """Of the first `count` rows, but for rounding."""
    # A product, because a masked sum would copy x first.
    total = jnp.matmul(jnp.arange(x.shape[0]) < count, x, precision=_HIGHEST)
    return total / jnp.maximum(count, 1)


def _product(x: jax.Array, c: jax.Array) -> jax.Array:
    """x cᵀ, [a, d], [b, d] -> float32 [a, b]."""
    precision = _HIGHEST if x.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        x,
        c,
        (((1,), (1,)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def _put(whole: Pairs, part: Pairs, at: jax.Array) -> Pairs:
    return tuple(
        jax.lax.dynamic_update_slice_in_dim(a, b, at, 0)
        for a, b in zip(whole, part, strict=True)
    )


def _smallest(x: jax.Array, offset: jax.Array, r: int) -> Pairs:
    """The r smallest values of `x + offset` in each row, ascending, and where.

    The r smallest lie in the r groups with the smallest minima. Minima of groups are a
    cheap pass, so the sort sees few values.

    Args:
      x: [m, n]; n is a multiple of the group's size.
      offset: [n].
    """
    m, n = x.shape
    groups = n // _GROUP
    if groups <= r:
        value, position = jax.lax.top_k(-(x + offset[None]), min(r, n))
        return -value, position
    # A group is a column: neighbours in memory belong to different groups.
    x, offset = x.reshape(m, _GROUP, groups), offset.reshape(_GROUP, groups)
    _, column = jax.lax.top_k(-(x + offset[None]).min(1), r)
    members = jnp.take_along_axis(x, column[:, None], 2)
    members = members + offset[:, column].transpose(1, 0, 2)
    value, at = jax.lax.top_k(-members.reshape(m, _GROUP * r), r)
    position = at // r * groups + jnp.take_along_axis(column, at % r, 1)
    return -value, position


def _decide(
    queries: jax.Array, bank: jax.Array, lower: jax.Array, index: jax.Array, k: int
) -> Pairs:
    """The k nearest of the listed rows, by direct differences: [m, k] each.

    Args:
      lower: infinity marks what is no row, [m, r].
      index: of rows of the bank, [m, r].
    """
    m, n = queries.shape[0], bank.shape[0]
    block = min(_DECIDE, m)

    def one_block(j, found):
        at = jnp.minimum(j * block, m - block)
        x, low, i = (
            jax.lax.dynamic_slice_in_dim(part, at, block)
            for part in (queries, lower, index)
        )
        square = _direct(x, bank, i)
        none = jnp.isinf(low)
        square, i = jnp.where(none, jnp.inf, square), jnp.where(none, n, i)
        return _put(found, smallest_pairs(square, i, k), at)

    r = min(k, index.shape[1])
    found = jnp.full((m, r), jnp.inf), jnp.full((m, r), n, jnp.int32)
    found = jax.lax.fori_loop(0, -(-m // block), one_block, found)
    pad = ((0, 0), (0, k - r))
    return (
        jnp.pad(found[0], pad, constant_values=jnp.inf),
        jnp.pad(found[1], pad, constant_values=n),
    )
