"""Results do not depend on where the rows lie."""

import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_rows import matrix as rows

from jaxad.bank import coreset, memory_bank
from jaxad.bank.memory_bank import greedy_coreset, nearest
from jaxad.devices import sharding
from jaxad.devices.rows import Placed
from jaxad.errors import InputError


def mesh(devices):
    return sharding.make_mesh(jax.devices()[:devices])


def test_mesh_has_one_axis_over_all_devices():
    assert sharding.make_mesh().shape == {"data": jax.device_count()}
    assert mesh(3).devices.tolist() == jax.devices()[:3]


@pytest.mark.parametrize("container", [np.asarray, jax.numpy.asarray])
def test_split_rows_fills_up_to_a_common_length(container):
    x = container(np.arange(10.0, dtype=np.float32).reshape(5, 2))
    split = sharding.split_rows(x, mesh(4))
    want = np.concatenate([x, np.zeros((3, 2))])
    np.testing.assert_array_equal(split, want)
    assert [shard.data.shape for shard in split.addressable_shards] == [(2, 2)] * 4
    assert sharding.mesh_of(split) == mesh(4)


def test_split_rows_of_fewer_rows_than_devices():
    x = np.arange(3.0, dtype=np.float32)
    split = sharding.split_rows(x, mesh(8))
    np.testing.assert_array_equal(split, [0, 1, 2, 0, 0, 0, 0, 0])


def test_mesh_of_what_is_not_spread():
    x = np.zeros((4, 2), np.float32)
    assert sharding.mesh_of(x) is None
    assert sharding.mesh_of(jax.numpy.asarray(x)) is None
    assert sharding.mesh_of(sharding.replicate(x, mesh(2))) is None


@pytest.mark.parametrize("devices", [2, 8])
def test_coreset_is_the_same_on_any_number_of_devices(devices):
    x = rows()
    want = greedy_coreset(x, 120, start=7)
    got = greedy_coreset(x, 120, start=7, mesh=mesh(devices))
    np.testing.assert_array_equal(got, want)
    split = sharding.split_rows(x[:1000], mesh(devices))
    want = greedy_coreset(x[:1000], 120)
    np.testing.assert_array_equal(greedy_coreset(split, 120), want)


def test_coreset_with_few_candidates_on_eight_devices(monkeypatch):
    monkeypatch.setattr(memory_bank, "CANDIDATES", 64)
    x = rows()
    want = greedy_coreset(x, 150)
    np.testing.assert_array_equal(greedy_coreset(x, 150, mesh=mesh(8)), want)


def test_projected_coreset_is_the_same_on_any_number_of_devices():
    x, key = rows(), jax.random.key(1)
    want = greedy_coreset(x, 50, projection_dim=4, key=key)
    got = greedy_coreset(x, 50, projection_dim=4, key=key, mesh=mesh(8))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("devices", "half"),
    [
        pytest.param(2, True, marks=pytest.mark.native),
        pytest.param(8, False, marks=pytest.mark.isa),
    ],
)
def test_nearest_is_the_same_bits_on_any_number_of_devices(devices, half, monkeypatch):
    monkeypatch.setattr(sharding, "fast_bfloat16", lambda mesh: half)
    x, on = rows(707), mesh(devices)
    queries, bank = x[:403], x[403:]
    want = nearest(queries, bank, 9)
    for got in (
        nearest(queries, bank, 9, mesh=on),
        nearest(queries, sharding.split_rows(bank, on), 9),
    ):
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("d", [9, 152])
def test_many_equal_rows_come_in_order_of_their_index_wherever_they_lie(d):
    """Far more than a device keeps to decide among, so each path has its share."""
    rng = np.random.default_rng(0)
    different = rng.normal(size=(30, d)).astype(np.float32)
    bank = different[rng.integers(0, 30, 3001)]
    queries = rng.normal(size=(64, d)).astype(np.float32)
    square = ((queries[:, None].astype(np.float64) - bank[None]) ** 2).sum(-1)
    want = np.argsort(square, axis=1, kind="stable")[:, :9]
    budget = memory_bank._search_bytes(64, 3001, d, 9, 1) + 8 * d * 300
    results = [
        nearest(queries, bank, 9),
        nearest(queries, bank, 9, mesh=mesh(8)),
        nearest(queries, bank, 9, max_device_bytes=budget),
        nearest(queries, bank, 9, recall_target=0.999),
    ]
    for distance, index in results[:3]:
        np.testing.assert_array_equal(index, want)
        np.testing.assert_array_equal(distance, results[0][0])
    # An approximate search may find another of equal rows, at the same distance.
    np.testing.assert_array_equal(results[3][0], results[0][0])


def test_nearest_where_a_device_has_fewer_rows_than_neighbours():
    x = rows(40)
    want = nearest(x[:7], x[7:], 20)
    got = nearest(x[:7], x[7:], 20, mesh=mesh(8))
    np.testing.assert_array_equal(got[1], want[1])


def test_nearest_on_a_mesh_under_jit():
    x = rows(300)
    want = nearest(x[:20], x[20:], 3)
    jitted = jax.jit(lambda q, b: nearest(q, b, 3, mesh=mesh(8)))
    got = jitted(x[:20], x[20:])
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


def on_first_device():
    """Bytes of all arrays that are alive there."""
    return sum(
        shard.data.nbytes
        for array in jax.live_arrays()
        for shard in array.addressable_shards
        if shard.device == jax.devices()[0]
    )


@pytest.mark.parametrize("devices", [1, 8])
def test_what_does_not_fit_passes_through(devices, monkeypatch, tmp_path):
    monkeypatch.setattr(memory_bank, "_SCRATCH", 2**17)
    x = rows(5003, 16)
    mapped = np.lib.format.open_memmap(
        tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=x.shape
    )
    mapped[:] = x
    lengths, most, before = [], 0, on_first_device()

    class Recorded(Placed):
        def __init__(self, matrix, mesh, length=None):
            super().__init__(matrix, mesh, length)
            lengths.append(length)

        def _place(self, i):
            nonlocal most
            part = super()._place(i)
            most = max(most, on_first_device() - before)
            return part

    monkeypatch.setattr(memory_bank, "Placed", Recorded)
    on = mesh(devices)
    want = greedy_coreset(x, 40)
    before = on_first_device()
    # Two parts of 150 rows a device beside centres, bounds and scratch.
    budget = 2 * 150 * 16 * 4 + 4 * (16 * (40 + 1024) + -(-5003 // devices))
    budget += 2**17
    got = greedy_coreset(mapped, 40, mesh=on, max_device_bytes=budget)
    np.testing.assert_array_equal(got, want)
    assert lengths == [None, 150 * devices]
    assert 2 * 150 * 16 * 4 <= most <= budget

    # So many parts that what each finds would not fit, were all of it held.
    want = nearest(x[:2000], x, 9)
    most, before = 0, on_first_device()
    budget = memory_bank._search_bytes(2000, 5003, 16, 9, devices) + 10_000
    got = nearest(x[:2000], mapped, 9, mesh=on, max_device_bytes=budget)
    assert lengths[-1] < 5003 and most <= budget
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("half", [False, True])
def test_programs_keep_within_their_scratch(half):
    """No copy of the rows, of which there may be as many as a device takes."""
    shape = jax.ShapeDtypeStruct
    n, d, one = 400_000, 64, mesh(1)
    part, f32 = shape((n, d), np.float32), np.float32
    count, bounds = shape((), np.int32), shape((n,), f32)
    centres, span = shape((2000, d), f32), shape((2,), np.int32)
    programs = [
        memory_bank.are_good.lower(part),
        memory_bank.find_rows.lower(
            shape((4096, d), f32),
            part,
            count,
            k=9,
            half=half,
            recall_target=None,
            mesh=one,
            spread="bank",
        ),
        coreset.lower_bounds.lower(
            bounds, part, shape((d,), f32), centres, span, mesh=one, direct=half
        ),
        coreset.largest.lower(bounds, 2049, mesh=one),
    ]
    for program in programs:
        needs = program.compile().memory_analysis().temp_size_in_bytes
        assert needs <= min(memory_bank._SCRATCH, 4 * n * d)


@pytest.mark.parametrize(("m", "d"), [(6272, 3840), (50_176, 256), (100, 10_000)])
def test_a_search_needs_what_is_reckoned(m, d):
    shape, n = jax.ShapeDtypeStruct, 20_000
    program = memory_bank.find_rows.lower(
        shape((m, d), np.float32),
        shape((n, d), np.float32),
        shape((), np.int32),
        k=9,
        half=True,
        recall_target=None,
        mesh=mesh(1),
        spread="bank",
    )
    analysis = program.compile().memory_analysis()
    needs = analysis.temp_size_in_bytes + analysis.output_size_in_bytes + 4 * m * d
    assert needs <= memory_bank._search_bytes(m, n, d, 9, 1)


def test_a_bad_row_is_named_wherever_it_lies(monkeypatch):
    monkeypatch.setattr(memory_bank, "_SCRATCH", 0)
    x = rows(5003, 16)
    x[4321, 3] = np.nan
    with pytest.raises(InputError, match=r"\(5003, 16\): row 4321"):
        greedy_coreset(x, 40, mesh=mesh(8))
    with pytest.raises(InputError, match=r"\(5003, 16\): row 4321"):
        greedy_coreset(x, 40, max_device_bytes=200_000)
    with pytest.raises(InputError, match=r"\(5003, 16\): row 4321"):
        nearest(x[:4], x, 3, mesh=mesh(8))


def test_too_few_bytes_are_named():
    with pytest.raises(InputError, match="max_device_bytes=1000 .* is the least"):
        greedy_coreset(rows(), 10, max_device_bytes=1000)


PROCESS = """
import sys
import jax
import numpy as np
port, process, folder = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
from jaxad.devices import sharding
from jaxad.bank.memory_bank import greedy_coreset, nearest
mesh, x = sharding.make_mesh(), np.load(f"{folder}/x.npy")
assert mesh.size == 8
distance, index = nearest(x[:30], x[30:], 5, mesh=mesh)
np.savez(
    f"{folder}/{process}.npz",
    coreset=greedy_coreset(x, 60, mesh=mesh),
    distance=distance,
    index=index,
)
"""


def test_two_processes_find_what_one_does(tmp_path):
    x = rows(501)
    np.save(tmp_path / "x.npy", x)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, port, process, str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in "01"
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    distance, index = nearest(x[:30], x[30:], 5)
    for process in "01":
        found = np.load(tmp_path / f"{process}.npz")
        np.testing.assert_array_equal(found["coreset"], greedy_coreset(x, 60))
        np.testing.assert_array_equal(found["distance"], distance)
        np.testing.assert_array_equal(found["index"], index)


def test_bfloat16_is_not_fast_where_float32_is_asked_for(monkeypatch):
    monkeypatch.setattr(sharding, "_cpu_has_bfloat16", lambda: True)
    assert sharding.fast_bfloat16()
    with jax.default_matmul_precision("highest"):
        assert not sharding.fast_bfloat16()
