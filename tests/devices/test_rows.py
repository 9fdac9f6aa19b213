"""A matrix is the same wherever its rows lie."""

import jax
import numpy as np
import pytest

from jaxad.bank.memory_bank import covered_coreset, covering_radius, greedy_coreset
from jaxad.devices import rows, sharding
from jaxad.devices.rows import Placed, Sharded, Stack


def matrix(n=1001, d=6, seed=0):
    """Clouds of rows, a third of them there twice."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)), 0) + 50
    x[: n // 3] = x[n // 3 : 2 * (n // 3)]
    return x.astype(np.float32)


def mesh(devices):
    """None for one device, as a pipeline has it."""
    return sharding.make_mesh(jax.devices()[:devices]) if devices > 1 else None


def empty(shape, devices):
    """As few rows a device as can be."""
    return Sharded(shape, mesh(devices), -(-shape[0] // devices))


def sharded(x, batch, devices):
    """A matrix as batches of so many rows a device leave it."""
    out, d = empty(x.shape, devices), x.shape[1]
    for first in range(0, out.height, batch):
        index = first + out.height * np.arange(devices)[:, None] + np.arange(batch)
        rows = x[np.minimum(index, len(x) - 1)].reshape(-1, 1, d)
        out.write(first, sharding.spread(rows, out.mesh) if out.mesh else rows)
    return out


@pytest.mark.parametrize(("n", "batch", "devices"), [(23, 4, 1), (23, 2, 4), (5, 3, 8)])
def test_rows_stay_on_the_devices_that_have_them(n, batch, devices):
    x = matrix(n, 3)
    x[3, 1] = -0.0
    found = sharded(x, batch, devices)
    assert len(found) == n and found.height == -(-n // devices)
    for i, shard in enumerate(found.array.addressable_shards):
        own = x[i * found.height :][: found.height]
        np.testing.assert_array_equal(shard.data[: len(own)], own)
        assert shard.device == jax.devices()[i]
    index = np.array([3, n - 1, 0, 3])
    assert found.take(index).tobytes() == x[index].tobytes()


def test_a_batch_is_kept_without_a_word_between_devices():
    out = empty((64, 4), 8)
    program = rows._write.lower(
        out.array,
        jax.ShapeDtypeStruct((16, 4), np.float32, sharding=sharding.by_rows(out.mesh)),
        2,
        height=2,
        mesh=out.mesh,
    ).compile()
    for word in ("all-", "collective", "reduce-scatter"):
        assert word not in program.as_text()
    assert program.memory_analysis().alias_size_in_bytes == 8 * 4 * 4  # in place


@pytest.mark.parametrize("devices", [1, 8])
def test_more_rows_than_come_at_a_time(devices, monkeypatch):
    monkeypatch.setattr(rows, "_TAKE", 16)
    x = matrix(101)
    found = empty(x.shape, devices)
    for index in np.split(np.random.default_rng(0).permutation(101), [37]):
        found.put(index, x[index])
    np.testing.assert_array_equal(found.take(range(101)), x)


@pytest.mark.isa
@pytest.mark.parametrize(("block", "devices"), [(7, 1), (40, 1), (7, 8), (300, 8)])
def test_map_gives_the_same_bits_wherever_the_rows_lie(block, devices, monkeypatch):
    monkeypatch.setattr(rows, "_MAP", 32)
    x, operand = matrix(301), np.random.default_rng(1).normal(size=(6, 4))
    operand = operand.astype(np.float32)
    (want,) = Stack([x]).map(times, operand).parts
    np.testing.assert_allclose(want, x @ operand, rtol=1e-5)
    (got,) = Stack([sharded(x, block, devices)]).map(times, operand).parts
    assert got.take(range(301)).tobytes() == want.tobytes()


def test_what_is_beyond_the_matrix_is_never_looked_at():
    """A resumed pass leaves it zero, where a map may not even be finite."""
    x = matrix(11, 3)
    found = empty(x.shape, 8)
    found.put(np.arange(11), x)

    def unit(_, rows):
        return rows / jax.numpy.linalg.norm(rows, axis=1, keepdims=True)

    stack = Stack([found]).map(unit, None)
    want = greedy_coreset(np.asarray(unit(None, x)), 5)
    np.testing.assert_array_equal(greedy_coreset(stack, 5), want)


def times(operand, rows):
    return jax.numpy.dot(rows, operand, precision="highest")


def places_of(x):
    """The same matrix in several places, by name."""
    return {
        "one device": sharded(x, 24, 1),
        "eight devices": sharded(x, 24, 8),
        "in parts": Stack([x[:100], sharded(x[100:707], 9, 8), x[707:]]),
        "two passes": Stack([sharded(x[:500], 16, 8), sharded(x[500:], 8, 8)]),
        "stacks": Stack([Stack([x[:0], x[:5]]), Stack([x[5:9], sharded(x[9:], 7, 2)])]),
        "an array and a pass": Stack(
            [jax.numpy.asarray(x[:64]), sharded(x[64:], 5, 1)]
        ),
    }


@pytest.mark.parametrize("place", places_of(matrix(8)))
def test_coreset_is_the_same_wherever_the_rows_lie(place):
    x = matrix()
    here = places_of(x)[place]
    want, radius = covered_coreset(x, 120, start=7)
    got, same = covered_coreset(here, 120, start=7)
    np.testing.assert_array_equal(got, want)
    assert radius == same
    assert covering_radius(here, x[want]) == covering_radius(x, x[want])


@pytest.mark.parametrize(("block", "devices"), [(24, 1), (24, 8)])
def test_projected_coreset_is_the_same_wherever_the_rows_lie(block, devices):
    x, options = matrix(), {"projection_dim": 4, "key": jax.random.key(1)}
    want = greedy_coreset(x, 60, **options)
    got = greedy_coreset(sharded(x, block, devices), 60, **options)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("devices", [1, 8])
def test_coreset_of_what_must_leave_its_devices(devices):
    """Other devices, or too few bytes."""
    x = matrix()
    here, want = sharded(x, 24, devices), greedy_coreset(x, 50)
    got = greedy_coreset(here, 50, mesh=sharding.make_mesh(jax.devices()[:3]))
    np.testing.assert_array_equal(got, want)
    budget = 2**28 + 4 * 6 * (50 + 1024) + 4 * 1001 + 8 * 6 * 100
    got = greedy_coreset(here, 50, max_device_bytes=budget)
    np.testing.assert_array_equal(got, want)


def test_an_index_out_of_range_is_refused():
    stack = Stack([matrix(5), matrix(4)])
    for index in (-1, 9):
        with pytest.raises(IndexError, match="9 rows"):
            stack.take([0, index])


@pytest.mark.parametrize("length", [4, 7, 10, 50, None])
def test_rows_pass_through_in_parts(length):
    x = matrix(23, 3)
    stack = Stack([x[:9], jax.numpy.asarray(x[9:10]), sharded(x[10:], 2, 2)])
    placed = Placed(stack, mesh(2), length)
    if length:  # whatever the parts of the matrix are
        assert [first for first, _, _ in placed.spans] == list(range(0, 23, length))
    assert sum(count for _, count, _ in placed.spans) == 23
    found, sizes = np.zeros_like(x), [size for _, _, size in placed.spans]

    def keep(first, count, part):
        found[first : first + count] = np.asarray(part)[:count]
        return len(part)

    assert placed.map(keep) == sizes
    np.testing.assert_array_equal(found, x)
    np.testing.assert_array_equal(placed.take(np.array([20, 3, 9])), x[[20, 3, 9]])


def test_no_third_part_is_ever_held():
    placed = Placed(
        Stack([matrix(4000, 8)]), sharding.make_mesh(jax.devices()[:1]), 500
    )
    before = {id(array) for array in jax.live_arrays()}
    held = []

    def look(first, count, part):
        new = [a for a in jax.live_arrays() if id(a) not in before]
        held.append(sum(a.shape == (500, 8) for a in new))
        return part.sum()

    placed.map(look)
    assert max(held) == 2
