"""Memory bank: which patch descriptors to keep, and the nearest ones to a query.

All functions are exact, but where a recall below one is asked for: device programs in
float32 or less rule out what cannot matter (`jaxad.bank.distances`), and direct
differences decide among the rest. Results are therefore the same on one device or
many, with the rows all on the devices or passing through. Float32 sets the limits: rows
are at most 1e16 long, and of rows that are shorter than 1e-15 squares underflow.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxad.bank import coreset, distances
from jaxad.devices import sharding
from jaxad.devices.rows import Placed, Sharded, Stack
from jaxad.devices.sharding import REPLICATED as SAME
from jaxad.devices.sharding import ROWS
from jaxad.errors import InputError

CANDIDATES = 1024  # rows that a coreset round looks at
_BLOCK = 8192  # rows that pass over the host at a time
_AGAIN = 1024  # queries that are searched again at a time, because of own entries
_SCRATCH = 2**28  # bytes that the passes over blocks need on a device
_LIMIT = 1e16  # squared distances of longer rows could overflow float32

Rows = Stack | Sharded | jax.Array | np.ndarray


def greedy_coreset(
    features: Rows,
    size: int,
    *,
    start: int | Sequence[int] = 0,
    projection_dim: int | None = None,
    key: jax.Array | None = None,
    progress: Callable[[int, int], None] | None = None,
    each_round: Callable[[np.ndarray], None] | None = None,
    mesh: Mesh | None = None,
    max_device_bytes: int | None = None,
) -> np.ndarray:
    """Greedy k-centre: again and again the row farthest from the rows chosen so far.

    The sequence is that of the textbook: the arg-max of the running minimum of
    squared distances, each the float64 sum of squared differences of float32 rows, ties
    to the lowest index. Once every row coincides with a chosen one all distances are
    zero, and that index is 0.

    It is found in rounds. Distances only ever fall, so among the rows with the largest
    upper bounds the greedy picks are the overall ones for as long as they lie farther
    than anything outside can. A round picks as many as it can on the host, then the
    devices lower all bounds by all new centres in one matrix product.

    Args:
      features: rows [n, d], taken as float32, in one place or in several.
      size: how many rows to choose, 1 to n.
      start: index of the first centre; or several, which are kept in their order, as
        when a bank is extended.
      projection_dim: measures distances after a Gaussian random projection to this
        many dimensions, which costs exactness and saves time.
      key: of the projection; needed with `projection_dim`.
      progress: called after each round with (chosen, size).
      each_round: called after each round with the indices chosen so far; as `start` of
        another call they go on where this one was left.
      mesh: spreads the rows over its axis `data`. By default they stay where they are,
        spread or on one device.
      max_device_bytes: rows that would take more on a device stay on the host, or in
        the file they are mapped from, and pass through.

    Returns:
      Indices of the chosen rows, int32 [size], in the order of selection.

    Raises:
      InputError: size or start out of range; rows that are not finite; too few bytes.

    References:
      Gonzalez, Clustering to minimize the maximum intercluster distance, 1985;
      Roth et al., PatchCore, CVPR 2022 (arXiv:2106.08265), algorithm 1.
    """
    features = _stack("features", features)
    n, d = shape = features.shape
    starts = np.atleast_1d(np.asarray(start, np.int64))
    if not 1 <= size <= n:
        raise InputError(
            f"a coreset of size={size} cannot be taken from features of shape "
            f"{(n, d)}; choose a size from 1 to {n}"
        )
    if not 0 < len(starts) <= size or starts.min() < 0 or starts.max() >= n:
        raise InputError(
            f"start={start} must name from 1 to size={size} of the {n} features"
        )
    mesh = mesh or _mesh_of(features)
    if projection_dim is not None:
        features = _project(features, projection_dim, key)
        d = projection_dim
    fixed = 4 * (d * (size + coreset.PICKS) + -(-n // mesh.size)) + _SCRATCH
    data = _place("features", features, mesh, max_device_bytes, fixed)

    def check(first, _, part):
        _checked("features", part, shape, first)  # not returned, lest all be held

    data.map(check)
    chosen = np.zeros(size, np.int32)
    rows = np.zeros((size, d), np.float32)
    done, picks, alone = 0, starts, False
    bounds = coreset.Bounds(data, size, origin=data.take(starts[:1])[0])
    while True:
        first, done = done, done + len(picks)
        chosen[first:done], rows[first:done] = picks, data.take(picks)
        bounds.lower(rows[first:done])
        if progress is not None:
            progress(done, size)
        if each_round is not None:
            each_round(chosen[:done])
        if done == size:
            return chosen
        most = min(coreset.PICKS, size - done)
        picks, alone = _picks(data, bounds, rows[:done], most, alone)
        if not len(picks):
            return chosen  # only rows equal to chosen ones are left: index 0


def _picks(
    data: Placed,
    bounds: coreset.Bounds,
    centres: np.ndarray,
    most: int,
    alone: bool,
) -> tuple[np.ndarray, bool]:
    """The next picks of a greedy coreset, none once all rows equal chosen ones.

    Args:
      alone: what the round before said.

    Returns:
      (their indices, whether there is just one since no round could find any).
    """
    while True:
        index, upper, floor = bounds.farthest(CANDIDATES)
        if upper.max() == 0:
            return index[:0], False
        candidates = data.take(index)
        near, rest = bounds.near(candidates)
        picks = coreset.pick(candidates, upper, floor, centres, near, rest, most)
        if picks:
            return index[picks], False
        # More rows than candidates look equally far. If they are equal, one pick
        # settles all; if they lie closer together than products can see, none does.
        if bounds.direct or not alone:
            pick = _farthest(data, bounds, centres)
            if pick is not None:
                return np.array([pick]), True
        bounds.look_closely()


def _farthest(data, bounds, centres) -> int | None:
    """One pick, from all rows that could be the farthest.

    None if they are too many for bounds that could be closer.
    """
    width = CANDIDATES
    while bounds.direct or width <= _BLOCK:
        index, _, floor = bounds.farthest(width)
        pick, best = -1, -1.0
        for at in range(0, len(index), CANDIDATES):
            part = index[at : at + CANDIDATES]
            candidates = data.take(part)
            found, value = coreset.farthest_of(
                candidates, centres, *bounds.near(candidates)
            )
            if value > best:
                pick, best = part[found], value
        if best > floor:
            return pick
        width *= 2
    return None


def covered_coreset(features: Rows, size: int, **options) -> tuple[np.ndarray, float]:
    """A greedy coreset and its covering radius.

    The radius is how far the pick after the last one would lie, so it costs no pass of
    its own; after a projection, which measures other distances, it does.

    Args:
      features, size, options: as `greedy_coreset` takes them.

    Returns:
      (what `greedy_coreset` returns; the largest distance of any row to its nearest
      chosen one).
    """
    features = _stack("features", features)
    chosen = greedy_coreset(features, min(size + 1, len(features)), **options)
    chosen, following = chosen[:size], chosen[size:]
    centres = features.take(chosen)
    if options.get("projection_dim") is not None:
        places = {name: options.get(name) for name in ("mesh", "max_device_bytes")}
        return chosen, covering_radius(features, centres, **places)
    if not len(following):
        return chosen, 0.0
    farthest = features.take(following).astype(np.float64)
    square = min(
        ((centres[at : at + _BLOCK] - farthest) ** 2).sum(1).min()
        for at in range(0, size, _BLOCK)
    )
    return chosen, float(np.sqrt(square))


def covering_radius(
    features: Rows,
    centres: jax.Array | np.ndarray,
    *,
    mesh: Mesh | None = None,
    max_device_bytes: int | None = None,
) -> float:
    """The largest distance of any row [n, d] to its nearest centre [c, d].

    Args:
      features: as `greedy_coreset` takes them.
      centres: rows, as `nearest` takes a bank.
      mesh, max_device_bytes: as `nearest` takes them; by default the devices are those
        that the features are on.
    """
    features = _stack("features", features)
    n, radius, places = len(features), 0.0, mesh or features.mesh
    for first in range(0, n, _BLOCK):
        # The last block overlaps the one before: all have one shape.
        first = max(0, min(first, n - _BLOCK))
        rows = features.take(np.arange(first, min(first + _BLOCK, n)))
        distance, _ = nearest(
            rows, centres, 1, mesh=places, max_device_bytes=max_device_bytes
        )
        radius = max(radius, float(distance.max()))
    return radius


def nearest(
    queries: jax.Array | np.ndarray,
    bank: jax.Array | np.ndarray,
    k: int,
    *,
    mesh: Mesh | None = None,
    max_device_bytes: int | None = None,
    recall_target: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The k nearest rows of the bank, exact, in bounded memory.

    Distances are Euclidean, from float32 direct differences; neighbours are in order of
    that distance, equal ones in order of their index. May be called under `jit`, where
    values are not checked.

    Args:
      queries: rows [m, d], taken as float32.
      bank: rows [n, d], taken as float32.
      k: how many neighbours, 1 to n.
      mesh: spreads the larger of the two over its axis `data`; the other one is copied
        to all devices. By default an array that is spread already stays so.
      max_device_bytes: a bank that would take more on a device stays on the host, or in
        the file it is mapped from, and passes through. Not under `jit`.
      recall_target: share of the neighbours to find, above 0 and at most 1, which a
        device may be faster at; the rest are replaced by farther ones. None is exact.

    Returns:
      Distances float32 [m, k], ascending, and indices int32 [m, k].

    Raises:
      InputError: widths that differ, k out of range, rows that are not finite; too few
        bytes.
    """
    queries, bank = _matrix("queries", queries), _matrix("bank", bank)
    (m, d), n = queries.shape, bank.shape[0]
    if bank.shape[1] != d:
        raise InputError(
            f"queries of shape {queries.shape} and a bank of shape {bank.shape} must "
            "have the same number of columns"
        )
    if not 1 <= k <= n:
        raise InputError(
            f"k={k} neighbours cannot be found in a bank of shape {bank.shape}; choose "
            f"a k from 1 to {n}"
        )
    bank_mesh, query_mesh = sharding.mesh_of(bank), sharding.mesh_of(queries)
    mesh = mesh or bank_mesh or query_mesh
    if recall_target is not None and not 0 < recall_target <= 1:
        raise InputError(
            f"recall_target={recall_target} must be above 0 and at most 1, or None for "
            "an exact search"
        )
    half = sharding.fast_bfloat16(mesh)
    find = functools.partial(find_rows, k=k, half=half, recall_target=recall_target)
    if max_device_bytes is not None:
        bank = _stack("bank", bank)
        mesh = mesh or _mesh_of(bank)
        fixed = _search_bytes(m, n, d, k, mesh.size)
        queries = _checked("queries", sharding.replicate(queries, mesh), queries.shape)
        data = _place("bank", bank, mesh, max_device_bytes, fixed)
        best = None

        def part(first, count, rows):
            nonlocal best
            _checked("bank", rows, bank.shape, first)
            square, index = find(queries, rows, count, mesh=mesh, spread="bank")
            found = square, index + first
            best = found if best is None else _merge(best, found, k)
            jax.block_until_ready(best)  # not returned, lest all be held

        data.map(part)
    else:
        spread = None
        if mesh is not None:
            spread = "bank" if bank_mesh or (n >= m and not query_mesh) else "queries"

        def place(name, x):
            if mesh is None:
                return jnp.asarray(x)
            return (sharding.split_rows if name == spread else sharding.replicate)(
                x, mesh
            )

        queries = _checked("queries", place("queries", queries), queries.shape)
        bank = _checked("bank", place("bank", bank), bank.shape)
        best = [part[:m] for part in find(queries, bank, n, mesh=mesh, spread=spread)]
    return jnp.sqrt(best[0]), best[1]


def nearest_of_others(
    queries: jax.Array | np.ndarray,
    owners: np.ndarray,
    bank: jax.Array | np.ndarray,
    bank_owners: np.ndarray,
    k: int,
    *,
    mesh: Mesh | None = None,
    max_device_bytes: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The k nearest rows of the bank that do not have the query's owner.

    What `nearest` would find in the bank without that owner's entries, bit by bit, with
    indices into the whole bank: so an image that a bank was made from is scored as if
    it had given nothing to it. Which entries the others then gave is left as it is. Not
    under `jit`.

    Args:
      queries, bank, k, mesh, max_device_bytes: as `nearest` takes them.
      owners: the image of every query, integers [m].
      bank_owners: the image of every row of the bank, integers [n].

    Returns:
      Distances float32 [m, k], ascending, and indices int32 [m, k].

    Raises:
      InputError: as `nearest`; owners of another number; a query's owner has all of the
        bank, or leaves less than k rows.
    """
    queries, bank = _matrix("queries", queries), _matrix("bank", bank)
    owners, bank_owners = np.asarray(owners), np.asarray(bank_owners)
    for name, rows, given in (
        ("queries", queries, owners),
        ("bank", bank, bank_owners),
    ):
        if given.shape != (len(rows),):
            raise InputError(
                f"owners of shape {given.shape} do not fit {name} of shape "
                f"{rows.shape}; give one for every row"
            )
    images, counts = np.unique(bank_owners, return_counts=True)
    asked = np.isin(images, owners)
    n, most = len(bank), counts.max(where=asked, initial=0)
    if n - most < k <= n:
        worst = images[np.argmax(np.where(asked, counts, 0))]
        raise InputError(
            f"image {worst} owns {most} of the {n} entries of the bank, and without "
            f"them {n - most} are left where k={k} are needed; make the bank of more "
            "images, or larger"
        )
    spread = sharding.mesh_of(queries)
    find = functools.partial(
        nearest,
        bank=bank,
        mesh=mesh or sharding.mesh_of(bank) or spread,
        max_device_bytes=max_device_bytes,
    )
    distance, index = (np.array(sharding.fetch(x)) for x in find(queries, k=k))
    own = bank_owners[index] == owners[:, None]
    # Among the k + c nearest, of which at most c are the owner's, are k others. One
    # width and one height for all, so that one program serves all.
    wider = min(k + counts.max(initial=0), n)
    height = min(_AGAIN, len(queries))
    again = np.flatnonzero(own.any(1))
    for first in range(0, len(again), _AGAIN):
        rows = again[first : first + _AGAIN]
        part = sharding.fetch(queries[np.resize(rows, height)])
        if spread:
            part = sharding.split_rows(part, spread)
        found = [sharding.fetch(x)[: len(rows)] for x in find(part, k=int(wider))]
        own = bank_owners[found[1]] == owners[rows, None]
        others = np.argsort(own, axis=1, kind="stable")[:, :k]
        distance[rows], index[rows] = (
            np.take_along_axis(x, others, axis=1) for x in found
        )
    return jnp.asarray(distance), jnp.asarray(index)


def _search_bytes(m: int, n: int, d: int, k: int, devices: int) -> int:
    """What a search needs on a device beside its bank."""
    # Queries as they are, from the origin, and in bfloat16; a block of rows likewise.
    rows = 10 * m + 6 * min(distances.ROWS, n)
    # Found here, so far, and on all devices, as they come and in order.
    found = 16 * (k + 16) + (16 * k * devices if devices > 1 else 0)
    return rows * d + found * m + _SCRATCH


def _matrix(name: str, x) -> jax.Array | np.ndarray:
    """x as float32 [n, d], where it is."""
    if isinstance(x, jax.Array):
        x = x.astype(jnp.float32)
    else:
        x = np.asanyarray(x).astype(np.float32, copy=False)
    if x.ndim != 2 or x.shape[1] == 0:
        raise InputError(f"{name} must have the shape [n, d], not {x.shape}")
    return x


def _stack(name: str, x) -> Stack:
    """x as float32 [n, d] in parts, where it is."""
    if isinstance(x, Sharded):
        return Stack([x])
    return x if isinstance(x, Stack) else Stack([_matrix(name, x)])


def _mesh_of(x: Stack) -> Mesh:
    """Where x lies, or the first device for what is on the host."""
    return x.mesh or sharding.make_mesh(jax.local_devices()[:1])


def _place(name: str, x: Stack, mesh: Mesh, max_bytes: int | None, fixed: int):
    """x on the devices, in as many parts as keep within the bytes."""
    n, d = x.shape
    if max_bytes is None or fixed + 4 * d * x.height(mesh) <= max_bytes:
        return Placed(x, mesh)
    # One part is worked on while the next is on its way.
    length = (max_bytes - fixed) // (8 * d) * mesh.size
    if length < 1:
        raise InputError(
            f"max_device_bytes={max_bytes} is too little for {name} of shape {x.shape}:"
            f" {fixed + 8 * d} is the least"
        )
    return Placed(x, mesh, min(length, n))


def _checked(name: str, x: jax.Array, shape: tuple[int, ...], first: int = 0):
    """x, rows of a matrix of that shape from the first-th on, if they are finite."""
    if not isinstance(x, jax.core.Tracer) and x.shape[0]:
        # What a function under `jit` closes over has its values.
        with jax.ensure_compile_time_eval():
            if bool(are_good(x)):
                return x
            bad = first + int(sharding.fetch(_good(x)).argmin())
        raise InputError(
            f"{name} of shape {shape}: row {bad} holds NaN, infinity or is longer than "
            f"{_LIMIT:g}; look for the image or the layer that it comes from"
        )
    return x


@jax.jit
def _good(x: jax.Array) -> jax.Array:
    return (x * x).sum(1) <= _LIMIT**2  # false for NaN


@jax.jit
def are_good(x: jax.Array) -> jax.Array:
    # Which one is not is asked for later: numbers of rows would be a constant in here,
    # as long as x, where all that can be is worked out before a program is compiled.
    return _good(x).all()


def _project(features: Stack, dim: int, key: jax.Array | None) -> Stack:
    """Rows [n, dim], where they are."""
    if key is None or dim < 1:
        raise InputError(
            f"projection_dim={dim} needs a positive number and the key of a random "
            "stream"
        )
    matrix = jax.random.normal(key, (features.shape[1], dim)) / np.sqrt(dim)
    return features.map(times, np.asarray(matrix))


def times(matrix: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.dot(rows, matrix, precision=jax.lax.Precision.HIGHEST)


@functools.partial(
    jax.jit, static_argnames=("k", "half", "recall_target", "mesh", "spread")
)
def find_rows(
    queries,
    bank,
    count,
    *,
    k: int,
    half: bool,
    recall_target: float | None,
    mesh: Mesh | None,
    spread,
):
    """The k nearest among the first `count` rows, one program a device."""

    def alone(queries, bank, count):
        if recall_target is None:
            return distances.nearest_rows(queries, bank, count, k, half=half)
        return distances.approximate_rows(
            queries, bank, count, k, half=half, recall_target=recall_target
        )

    def shared(queries, bank, count):
        # Every device finds the k nearest of its own rows; the best of all are kept.
        n = bank.shape[0]
        first = jax.lax.axis_index(sharding.AXIS) * n
        square, index = alone(queries, bank, jnp.clip(count - first, 0, n))
        both = sharding.gather(square, 1), sharding.gather(index + first, 1)
        return distances.smallest_pairs(*both, k)

    if spread is None:
        program = alone
    elif spread == "queries":
        program = sharding.per_device(alone, mesh, (ROWS, SAME, SAME), ROWS)
    else:
        program = sharding.per_device(shared, mesh, (SAME, ROWS, SAME), SAME)
    return program(queries, bank, count)


@functools.partial(jax.jit, static_argnums=2)
def _merge(first, second, k: int):
    both = (jnp.concatenate(parts, 1) for parts in zip(first, second, strict=True))
    return distances.smallest_pairs(*both, k)
