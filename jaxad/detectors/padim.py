"""A Gaussian at every position of the grid: PaDiM.

A patch scores its Mahalanobis distance to the normal patches at its own position, over
channels that are drawn once. With r, its difference from their mean, and C [n, d], the
n images' own differences divided by sqrt(n - 1),

  D² = r^T S^-1 r,   S = C^T C + λI,   λ = config.detector.regularisation

(equations 1 and 2, where λ is ε = 0.01). What is kept of S is a W with W S W^T = I, and
D = |W r|. Where images are few the same lies in n dimensions:

  C C^T + λI = L L^T,   B = L^-1 C,   t = B r,   z = r - B^T t
  D² = |z|² / λ + |L^-T t|²

as S^-1 r = z / λ. B and L^-1 are n² + nd numbers a position in place of d². D² is also
(|r|² - |t|²) / λ, in half of the products, but the difference of numbers that large
costs float32 half of its digits.

An image is left out in closed form, too. Without it S is, up to a term of rank one,
(C^T C + λ'I) (n - 1) / (n - 2) with λ' = λ (n - 2) / (n - 1), from which follows

  D² = n (n - 2) / (n - 1) · (1 - q) / q,   q = 1 - h n / (n - 1)

where h is the image's entry on the diagonal of C (C^T C + λ'I)^-1 C^T.

References:
  Defard et al., PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection
  and Localization, ICPR 2020 (arXiv:2011.08785).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxad import rng
from jaxad.detectors.base import (
    Normal,
    Report,
    Scored,
    Scorer,
    Shapes,
    State,
    everywhere,
    image_score,
)
from jaxad.devices import sharding
from jaxad.devices.programs import Program
from jaxad.devices.sharding import REPLICATED as SAME
from jaxad.devices.sharding import ROWS
from jaxad.errors import InputError

_BLOCK = 16  # positions that a device works on at a time
_LEAF = 32  # rows of a matrix that are eliminated one by one

_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def build(config) -> Scorer:
    """The Gaussians that `config.detector` describes.

    Their state, spread over the devices by position, with some at the end that only
    fill up: `mean` [p, d]; `whitening` [p, d, d], which is W, or `basis` [p, n, d] and
    `inverse` [p, n, n], which are B and L^-1; of three images or more also `left_out`
    [p, n], the distance of every image's patch to the Gaussian of all others. Beside
    them `channels` int32 [d], in order, and `positions` int32 [h, w], where in the
    arrays each one is. Their report: `left_out`, the mean of these distances.

    Raises:
      InputError: an image score that needs a memory bank.
    """
    options = config.detector.to_dict()
    if options["image_score"] == "reweighted":
        raise InputError(
            "config.detector.image_score=reweighted needs the memory bank of "
            "config.detector.name=knn; choose max or top_fraction for padim"
        )

    def score(state: State, described: jax.Array) -> Scored:
        _check_grid(state, described)
        patches = _distances(state, described, options["regularisation"])
        return Scored(patches, image_score(options, patches))

    def left_out(state: State, described: jax.Array, images: jax.Array) -> Scored:
        if "left_out" not in state:
            raise InputError(
                "without one of 2 images PaDiM has a single one, and no covariance; "
                "give it at least 3"
            )
        _check_grid(state, described)
        mesh = sharding.mesh_of(state["left_out"])
        patches = _looked_up(state["left_out"], state["positions"], images, mesh=mesh)
        return Scored(patches, image_score(options, patches))

    return Scorer(
        fit=functools.partial(_fit, config),
        score=score,
        check=functools.partial(_check, options),
        place=_place,
        left_out=left_out,
        programs=functools.partial(_programs, options),
    )


def _check(options: dict, images: int, grid: tuple[int, int], width: int) -> None:
    del grid
    if images < 2:
        raise InputError(
            f"PaDiM fits a covariance to at least 2 normal images, and there is "
            f"{images}; add images, or choose config.detector.name=knn"
        )
    if options["dim"] > width:
        raise InputError(
            f"config.detector.dim={options['dim']} is more than the {width} channels "
            "of a patch; lower it, or set 0 to take all"
        )


def _check_grid(state: State, described: jax.Array) -> None:
    fitted, found = state["positions"].shape, described.shape[1:3]
    if fitted != found:
        raise InputError(
            f"PaDiM was fitted on a grid of {fitted} patches, and these images have "
            f"{found}; give it images of the size it was fitted on"
        )


def _place(state: State, mesh: sharding.Mesh | None) -> State:
    """Spreads the positions, with as many more as whole blocks on all devices take."""

    def place(name: str, x):
        if mesh is None or name in ("channels", "positions"):
            return everywhere(x, mesh)
        if missing := _padded(len(x), mesh) - len(x):
            x = np.pad(sharding.fetch(x), ((0, missing),) + ((0, 0),) * (x.ndim - 1))
        return sharding.split_rows(x, mesh)

    return {name: place(name, x) for name, x in state.items()}


def _programs(options: dict, shapes: Shapes) -> list[Program]:
    (h, w), n, mesh = shapes.grid, shapes.images, shapes.mesh
    d, devices = options["dim"] or shapes.width, mesh.size if mesh else 1

    def shape(*sides, dtype=np.float32):
        return jax.ShapeDtypeStruct(sides, dtype)

    positions = _padded(h * w, mesh)
    state = jax.eval_shape(lambda: _empty(positions, n, d, None))
    state = sharding.spread_shapes(state, mesh)
    rows = sharding.spread_shapes(shape(devices * _BLOCK, n, shapes.width), mesh)
    regular = {"regularisation": options["regularisation"], "mesh": mesh}
    first = jax.ShapeDtypeStruct((), np.int32, weak_type=True)
    channels, grid = shape(d, dtype=np.int32), shape(h, w, dtype=np.int32)
    fitted = {**state, "channels": channels, "positions": grid}
    fit = state, rows, channels, first
    blocks, seen = positions // devices // _BLOCK, (fitted, shapes.described)
    return [
        Program("padim: fit", _fit_block, fit, regular, calls=blocks, linear=True),
        Program("padim: score", _score, seen, regular, scores=True),
    ]


# ---- Fit


def _fit(config, normal: Normal) -> tuple[State, Report]:
    options, (h, w), n = config.detector, normal.grid, normal.images
    width = normal.rows.shape[1]
    _check(options, n, normal.grid, width)
    mesh, devices = normal.mesh, normal.mesh.size if normal.mesh else 1
    channels = _channels(config, width)
    height = _padded(h * w, mesh) // devices  # positions a device
    state = _empty(devices * height, n, len(channels), mesh)
    with normal.progress(total=height // _BLOCK, unit="block") as bar:
        for first in range(0, height, _BLOCK):
            places = first + height * np.arange(devices)[:, None] + np.arange(_BLOCK)
            places = np.minimum(places.ravel(), h * w - 1)
            rows = normal.rows.take((h * w * np.arange(n)[:, None] + places).ravel())
            rows = np.moveaxis(rows.reshape(n, len(places), width), 1, 0)
            state = _fit_block(
                state,
                sharding.split_rows(rows, mesh) if mesh else rows,
                channels,
                first,
                regularisation=options.regularisation,
                mesh=mesh,
            )
            bar.update(1)
    if not _are_finite(state):
        raise InputError(
            f"config.detector.regularisation={options.regularisation} is too little "
            "for the covariance of these descriptors in float32; raise it"
        )
    report = {}
    if "left_out" in state:
        distances = sharding.fetch(state["left_out"])[: h * w]
        report["left_out"] = float(distances.mean(dtype=np.float64))
    positions = np.arange(h * w, dtype=np.int32).reshape(h, w)
    return {**state, "channels": channels, "positions": positions}, report


def _channels(config, width: int) -> np.ndarray:
    """Those that are drawn, in order."""
    key = rng.stream(config.seed, "padim")
    drawn = jax.random.permutation(key, width)[: config.detector.dim or width]
    return np.sort(np.asarray(drawn, np.int32))


def _padded(positions: int, mesh: sharding.Mesh | None) -> int:
    """So many that every device has the same number of whole blocks."""
    return positions + -positions % (_BLOCK * (mesh.size if mesh else 1))


def _empty(positions: int, n: int, d: int, mesh: sharding.Mesh | None) -> State:
    rows = jax.ShapeDtypeStruct((n, d), np.float32)
    shapes = jax.eval_shape(functools.partial(_gaussian, regularisation=1.0), rows)
    return {
        name: jnp.zeros((positions, *x.shape), device=sharding.by_rows(mesh))
        for name, x in shapes.items()
    }


@functools.partial(
    jax.jit, static_argnames=("regularisation", "mesh"), donate_argnums=0
)
def _fit_block(state, rows, channels, first, *, regularisation: float, mesh):
    """Keeps what every device finds as its positions from its `first`-th on."""

    def local(state, rows, channels, first):
        gaussian = functools.partial(_gaussian, regularisation=regularisation)
        found = jax.vmap(gaussian)(_chosen(rows, channels))
        return jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, first, 0),
            state,
            found,
        )

    if mesh is not None:
        local = sharding.per_device(local, mesh, (ROWS, ROWS, SAME, SAME), ROWS)
    return local(state, rows, channels, first)


def _chosen(x: jax.Array, channels: jax.Array) -> jax.Array:
    return x if len(channels) == x.shape[-1] else x[..., channels]


def _gaussian(rows: jax.Array, regularisation: float) -> State:
    """The state of one position, from its rows [n, d]."""
    n, d = rows.shape
    few = n * n + n * d < d * d
    mean = rows.mean(0)
    mean += (rows - mean[None]).mean(0)  # what the first sum has rounded off
    centred = (rows - mean[None]) / np.sqrt(n - 1)
    square = _product(centred, centred.T) if few else _product(centred.T, centred)
    if few:
        # The rows sum to zero: in the direction of ones there is nothing, and what is
        # added there changes no distance. It spares float32 the smallest eigenvalue.
        added = (centred**2).sum() / n
        square += added / n
    reduced = regularisation * (n - 2) / (n - 1)
    diagonals = np.float32([regularisation, reduced])[:, None, None]
    inverse, without = jax.vmap(_inverse_factor)(
        square[None] + diagonals * jnp.eye(len(square))[None]
    )
    if few:
        basis = _product(inverse, centred)
        state = {"mean": mean, "basis": basis, "inverse": inverse}
        beyond = reduced * (without**2).sum(0)  # 1 - h, but for what was added
        q = (n * beyond - reduced / (reduced + added)) / (n - 1)
    else:
        state = {"mean": mean, "whitening": _refined(inverse, centred, regularisation)}
        without = _refined(without, centred, reduced)
        h = (_product(without, centred.T) ** 2).sum(0)
        q = 1 - h * n / (n - 1)
    if n > 2:
        q = jnp.clip(q, np.finfo(np.float32).eps, 1)
        state["left_out"] = jnp.sqrt(n * (n - 2) / (n - 1) * (1 - q) / q)
    return state


def _refined(whitening: jax.Array, centred: jax.Array, diagonal: float) -> jax.Array:
    """A step of Newton's method towards W (C^T C + diagonal I) W^T = I.

    By products of C itself: its square has kept half of the digits in float32.
    """
    whitened = _product(whitening, centred.T)
    known = _product(whitened, whitened.T) + diagonal * _product(whitening, whitening.T)
    return whitening + _product(jnp.eye(len(known)) - known, whitening) / 2


def _inverse_factor(square: jax.Array) -> jax.Array:
    """L^-1 of a positive definite matrix L L^T [m, m], by halves: mostly products.

    LAPACK is left alone. On a CPU its threads and XLA's get in each other's way, and
    where a program factorises two batches at once they may wait for each other forever
    (jaxlib 0.10).
    """
    m = len(square)
    if m <= _LEAF:
        return _inverse_leaf(square)
    half = m // 2
    upper = _inverse_factor(square[:half, :half])
    below = _product(square[half:, :half], upper.T)
    lower = _inverse_factor(square[half:, half:] - _product(below, below.T))
    corner = -_product(lower, _product(below, upper))
    return jnp.block([[upper, jnp.zeros((half, m - half))], [corner, lower]])


def _inverse_leaf(square: jax.Array) -> jax.Array:
    """The same, row by row: elimination makes [L^T | L^-1] of [square | I]."""
    m = len(square)

    def eliminate(k, both):
        scale = jax.lax.rsqrt(both[k, k])
        row, column = both[k] * scale, both[:, k] * scale
        column = jnp.where(jnp.arange(m) > k, column, 0)
        return (both - column[:, None] * row[None]).at[k].set(row)

    both = jnp.concatenate([square, jnp.eye(m)], 1)
    return jax.lax.fori_loop(0, m, eliminate, both)[:, m:]


@jax.jit
def _are_finite(state: State) -> jax.Array:
    return jnp.stack([jnp.isfinite(x).all() for x in state.values()]).all()


# ---- Score


def _distances(state: State, described: jax.Array, regularisation: float) -> jax.Array:
    """Of every patch, [b, h, w] from [b, h, w, c]."""
    mesh = sharding.mesh_of(state["mean"])
    if mesh is not None and sharding.mesh_of(described) != mesh:
        described = sharding.replicate(described, mesh)
    return _score(state, described, regularisation=regularisation, mesh=mesh)


@functools.partial(jax.jit, static_argnames=("regularisation", "mesh"))
def _score(state, described, *, regularisation: float, mesh):
    b, _, _, width = described.shape
    rows = described.reshape(b, -1, width).swapaxes(0, 1)
    rows = _chosen(rows, state["channels"])
    missing = len(state["mean"]) - len(rows)
    rows = jnp.pad(rows, ((0, missing), (0, 0), (0, 0)))
    gaussians = {
        name: state[name]
        for name in ("mean", "whitening", "basis", "inverse")
        if name in state
    }

    def local(gaussians, rows):
        """In blocks of one size, and so of the same bits on any number of devices."""
        distance = functools.partial(_distance, regularisation=regularisation)
        return jax.lax.map(lambda x: distance(*x), (gaussians, rows), batch_size=_BLOCK)

    if mesh is not None:
        local = sharding.per_device(local, mesh, (ROWS, ROWS), ROWS)
    return _as_images(local(gaussians, rows), state["positions"], mesh)


def _distance(gaussian: State, rows: jax.Array, regularisation: float) -> jax.Array:
    """Of rows [b, d] of one position, [b]."""
    rows = rows - gaussian["mean"][None]
    if "whitening" in gaussian:
        square = (_product(rows, gaussian["whitening"].T) ** 2).sum(1)
    else:
        within = _product(rows, gaussian["basis"].T)
        beyond = rows - _product(within, gaussian["basis"])
        within = _product(within, gaussian["inverse"])
        square = (beyond**2).sum(1) / regularisation + (within**2).sum(1)
    return jnp.sqrt(square)


@functools.partial(jax.jit, static_argnames="mesh")
def _looked_up(table, positions, images, *, mesh):
    return _as_images(table[:, images], positions, mesh)


def _as_images(found: jax.Array, positions: jax.Array, mesh) -> jax.Array:
    """[b, h, w] of [p, b]: whole images on a device, whose sums are then the same."""
    found = jnp.moveaxis(found[positions], 2, 0)
    if mesh is None:
        return found
    if sharding.divides(mesh, len(found)):
        return sharding.keep_spread(found, mesh)
    return jax.lax.with_sharding_constraint(found, sharding.everywhere(mesh))
