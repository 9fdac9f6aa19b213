"""What coreset and search compile, from shapes and devices alone."""

import jax
import numpy as np
from jax.sharding import Mesh

from jaxad.bank import coreset, distances, memory_bank
from jaxad.devices import rows as rows_lib
from jaxad.devices import sharding
from jaxad.devices.programs import Program

_BUDGET = "config.coreset.ratio, or set config.detector.max_device_bytes"


def choosing(
    n: int, d: int, size: int, *, mesh: Mesh | None, projection_dim: int | None = None
) -> list[Program]:
    """Of `memory_bank.covered_coreset`, whose arguments these are.

    Args:
      n: rows on all devices, which have as many each.
    """
    mesh, found = mesh or sharding.make_mesh(jax.local_devices()[:1]), []
    if projection_dim is not None:
        matrix = jax.ShapeDtypeStruct((d, projection_dim), np.float32)
        project = "coreset: projection", memory_bank.times, matrix
        found.append(rows_lib.map_program(*project, (n, d), mesh))
        d = projection_dim
    features = sharding.spread_shapes(_float32(n, d), mesh)
    upper = sharding.spread_shapes(_float32(n), mesh)
    size, picks = size + 1, coreset.PICKS
    origin, centres = sharding.shapes_on((_float32(d), _float32(size + picks, d)), mesh)
    candidates = min(memory_bank.CANDIDATES, n)
    candidates += -candidates % mesh.size
    looked_at = sharding.spread_shapes(_float32(candidates, d), mesh)
    rounds = -(-size // picks)
    return [
        *found,
        Program(
            "coreset: check",
            memory_bank.are_good,
            (features,),
            linear=True,
            lower=_BUDGET,
        ),
        Program(
            "coreset: bounds",
            coreset.lower_bounds,
            (upper, features, origin, centres, jax.ShapeDtypeStruct((2,), np.int32)),
            {"mesh": mesh, "direct": False},
            calls=rounds,
            lower=_BUDGET,
            operations=2.0 * n * d * size / rounds,
            moved=4.0 * n * (d + 2) / mesh.size,
        ),
        Program(
            "coreset: candidates",
            coreset.largest,
            (upper, memory_bank.CANDIDATES + 1),
            {"mesh": mesh},
            calls=rounds,
            linear=True,
            lower=_BUDGET,
        ),
        Program(
            "coreset: nearest centres",
            coreset.nearest_centres,
            (looked_at, centres, origin, _number()),
            {"mesh": mesh},
            calls=rounds,
            lower=_BUDGET,
            operations=2.0 * candidates * (size + picks) * d,
            moved=4.0 * (size + picks) * d,
        ),
    ]


def search(
    m: int,
    n: int,
    d: int,
    k: int = 1,
    *,
    mesh: Mesh | None,
    spread: str = "queries",
    recall_target: float | None = None,
) -> Program:
    """Of `memory_bank.nearest`, whose arguments these are.

    Args:
      m, n: queries, and rows of the bank.
      spread: which of both lies over the devices, "queries" or "bank".
    """
    devices = mesh.size if mesh else 1
    if spread == "bank":
        n += -n % devices
    queries, bank = (
        (sharding.spread_shapes if name == spread else sharding.shapes_on)(x, mesh)
        for name, x in (("queries", _float32(m, d)), ("bank", _float32(n, d)))
    )
    own = m // devices if spread == "queries" else m
    rows = n // devices if spread == "bank" else n
    blocks = -(-own // distances.QUERIES)
    kind = "exact" if recall_target is None else "approximate"
    return Program(
        f"search: {kind}, {spread} spread",
        memory_bank.find_rows,
        (queries, bank, _number()),
        {
            "k": k,
            "half": sharding.fast_bfloat16(mesh),
            "recall_target": recall_target,
            "mesh": mesh,
            "spread": spread if mesh else None,
        },
        scores=True,
        lower=f"config.batch_size, or {_BUDGET}",
        operations=2.0 * m * n * d,
        moved=4.0 * (rows * d * blocks + own * d) + 8.0 * own * rows,
    )


def _float32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def _number() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), np.int32, weak_type=True)
