"""A matrix is the same wherever its rows lie."""

import jax
import numpy as np
import pytest

from jaxad import rows, sharding
from jaxad.memory_bank import covered_coreset, covering_radius, greedy_coreset
from jaxad.rows import BlockCyclic, Layout, Placed, Stack


def matrix(n=1001, d=6, seed=0):
    """Clouds of rows, a third of them there twice."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)), 0) + 50
    x[: n // 3] = x[n // 3 : 2 * (n // 3)]
    return x.astype(np.float32)


def mesh(devices):
    """None for one device, as a pipeline has it."""
    return sharding.make_mesh(jax.devices()[:devices]) if devices > 1 else None


def dealt(x, block, devices):
    """A matrix as batches of `block` rows a device leave it; the last one is padded."""
    out, batch = BlockCyclic(x.shape, block, mesh(devices)), block * devices
    for turn, first in enumerate(range(0, len(x), batch)):
        rows = x[first : first + batch]
        rows = np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows), 0)])
        placed = sharding.spread(rows, out.mesh) if out.mesh else rows
        out.write(turn, placed.reshape(-1, 1, x.shape[1]))
    return out


def test_layout():
    """Two devices get rows 0 1 | 2 3, then 4 5 | 6 7, then 8 9 | 10."""
    layout = Layout(count=11, block=2, devices=2)
    assert layout.height == 6
    want = [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10]
    assert layout.places(np.arange(11)).tolist() == want
    assert jax.jit(layout.places)(np.arange(11)).tolist() == want
    found = layout.index(np.arange(12)).tolist()
    assert found == [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]  # the last place is empty


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 40, 41, 100])
@pytest.mark.parametrize(("block", "devices"), [(1, 1), (3, 1), (4, 2), (5, 8)])
def test_every_row_has_a_place_and_no_place_two(count, block, devices):
    layout, index = Layout(count, block, devices), np.arange(count)
    places = layout.places(index)
    assert len(set(places.tolist())) == count
    np.testing.assert_array_equal(layout.index(places), index)
    others = np.setdiff1d(np.arange(devices * layout.height), places)
    assert (layout.index(others) >= count).all()
    assert layout.height <= -(-count // (block * devices)) * block
    assert devices > 1 or not len(others)


def test_even_is_how_rows_are_split():
    x = matrix(11, 2)
    split, layout = sharding.split_rows(x, mesh(4)), Layout.even(11, 4)
    assert split.shape[0] == 4 * layout.height
    np.testing.assert_array_equal(split[layout.places(np.arange(11))], x)


@pytest.mark.parametrize(("n", "block", "devices"), [(23, 4, 1), (23, 2, 4), (5, 3, 8)])
def test_rows_stay_on_the_devices_that_have_them(n, block, devices):
    x = matrix(n, 3)
    x[3, 1] = -0.0
    found = dealt(x, block, devices)
    assert len(found) == n and found.shape == (n, 3)
    for shard in found.array.addressable_shards:
        device = jax.devices().index(shard.device)
        own = [r for r in range(n) if r // block % devices == device]
        np.testing.assert_array_equal(shard.data[: len(own)], x[own])
    index = np.array([3, n - 1, 0, 3])
    assert found.take(index).tobytes() == x[index].tobytes()


def test_a_batch_is_kept_without_a_word_between_devices():
    out = BlockCyclic((64, 4), 2, mesh(8))
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
    found = BlockCyclic(x.shape, 4, mesh(devices))
    found.put(0, x[:37])
    found.put(37, x[37:])
    np.testing.assert_array_equal(found.take(range(101)), x)


@pytest.mark.parametrize(("block", "devices"), [(7, 1), (40, 1), (7, 8), (300, 8)])
def test_map_gives_the_same_bits_wherever_the_rows_lie(block, devices, monkeypatch):
    monkeypatch.setattr(rows, "_MAP", 32)
    x, operand = matrix(301), np.random.default_rng(1).normal(size=(6, 4))
    operand = operand.astype(np.float32)
    (want,) = Stack([x]).map(times, operand).parts
    np.testing.assert_allclose(want, x @ operand, rtol=1e-5)
    (got,) = Stack([dealt(x, block, devices)]).map(times, operand).parts
    assert got.take(range(301)).tobytes() == want.tobytes()


def times(operand, rows):
    return jax.numpy.dot(rows, operand, precision="highest")


def places_of(x):
    """The same matrix in several places, by name."""
    return {
        "one device": dealt(x, 24, 1),
        "eight devices": dealt(x, 24, 8),
        "in parts": Stack([x[:100], dealt(x[100:707], 9, 8), x[707:]]),
        "two passes": Stack([dealt(x[:500], 16, 8), dealt(x[500:], 8, 8)]),
        "an array and a pass": Stack([jax.numpy.asarray(x[:64]), dealt(x[64:], 5, 1)]),
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
    got = greedy_coreset(dealt(x, block, devices), 60, **options)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("devices", [1, 8])
def test_coreset_of_what_must_leave_its_devices(devices):
    """Other devices, or too few bytes."""
    x = matrix()
    here, want = dealt(x, 24, devices), greedy_coreset(x, 50)
    got = greedy_coreset(here, 50, mesh=sharding.make_mesh(jax.devices()[:3]))
    np.testing.assert_array_equal(got, want)
    budget = 2**28 + 4 * 6 * (50 + 1024) + 4 * 1001 + 8 * 6 * 100
    got = greedy_coreset(here, 50, max_device_bytes=budget)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("length", [4, 7, 10, 50, None])
def test_rows_pass_through_in_parts(length):
    x = matrix(23, 3)
    stack = Stack([x[:9], jax.numpy.asarray(x[9:10]), dealt(x[10:], 2, 2)])
    placed = Placed(stack, mesh(2), length)
    assert sum(span.count for span in placed.spans) == 23
    found = np.zeros_like(x)

    def keep(span, part):
        index = span.layout.index(np.arange(len(part)))
        there = index < span.count
        found[span.first + index[there]] = np.asarray(part)[there]

    placed.map(keep)
    np.testing.assert_array_equal(found, x)
    np.testing.assert_array_equal(placed.take(np.array([20, 3, 9])), x[[20, 3, 9]])


def test_no_third_part_is_ever_held():
    placed = Placed(
        Stack([matrix(4000, 8)]), sharding.make_mesh(jax.devices()[:1]), 500
    )
    before = {id(array) for array in jax.live_arrays()}
    held = []

    def look(span, part):
        new = [a for a in jax.live_arrays() if id(a) not in before]
        held.append(sum(a.shape == (500, 8) for a in new))
        return part.sum()

    placed.map(look)
    assert max(held) == 2
