"""The textbook, written out with loops over float64, is the judge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.bank import coreset, distances, memory_bank
from jaxad.bank.memory_bank import greedy_coreset, nearest, nearest_of_others
from jaxad.devices import sharding
from jaxad.errors import InputError


def textbook_coreset(x, size, start=0):
    x = x.astype(np.float64)
    chosen = np.atleast_1d(start).tolist()
    least = np.min([((x - x[i]) ** 2).sum(1) for i in chosen], axis=0)
    while len(chosen) < size:
        chosen.append(int(np.argmax(least)))
        least = np.minimum(least, ((x - x[chosen[-1]]) ** 2).sum(1))
    return chosen


def textbook_nearest(queries, bank, k):
    difference = queries[:, None].astype(np.float64) - bank[None]
    distance = np.sqrt((difference**2).sum(-1))
    index = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distance, index, 1), index


def cloud(kind, n=3000, d=8, seed=0):
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(n, d))
    x = {
        "normal": lambda: normal,
        "far from the origin": lambda: normal + 3000.0,
        "correlated": lambda: np.maximum(normal[:, :3] @ rng.normal(size=(3, d)), 0),
        "duplicates": lambda: normal[rng.integers(0, n // 20, n)],
        "grid": lambda: rng.integers(0, 4, (n, d)),
        "tight clusters": lambda: 100 * normal[rng.integers(0, 5, n)] + 1e-3 * normal,
        "very tight clusters": lambda: (
            10 * normal[rng.integers(0, 5, n)] + 1e-4 * np.round(normal)
        ),
    }[kind]()
    return x.astype(np.float32)


KINDS = (
    "normal",
    "far from the origin",
    "correlated",
    "duplicates",
    "grid",
    "tight clusters",
    "very tight clusters",
)


@pytest.fixture(scope="class")
def small_blocks():
    """Several blocks and rounds of everything, the last ones not full."""
    sizes = {
        (memory_bank, "CANDIDATES"): 100,
        (memory_bank, "_AGAIN"): 24,
        (coreset, "PICKS"): 48,
        (distances, "ROWS"): 640,
        (distances, "_CENTRES"): 32,
        (distances, "QUERIES"): 64,
        (distances, "_GROUP"): 8,
        (distances, "_DECIDE"): 40,
        (distances, "_DOUBTFUL"): 24,
        (distances, "_SPARE"): 2,
    }
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), value in sizes.items():
            patch.setattr(module, name, value)
        yield
    jax.clear_caches()


@pytest.mark.usefixtures("small_blocks")
class TestManyBlocks:
    @pytest.mark.parametrize("kind", KINDS)
    def test_coreset_is_the_textbook_sequence(self, kind):
        x = cloud(kind)
        got = greedy_coreset(x, 200, start=17)
        assert got.tolist() == textbook_coreset(x, 200, start=17)

    def test_coreset_once_all_rows_are_covered(self):
        x = cloud("duplicates")  # at most 150 different rows
        different = len(np.unique(x, axis=0))
        got = greedy_coreset(x, 200, start=5)
        assert len(np.unique(x[got[:different]], axis=0)) == different
        assert got[different:].tolist() == [0] * (200 - different)

    def test_coreset_with_more_equal_rows_than_candidates(self, monkeypatch):
        looked_at, pick = [], coreset.pick

        def counted(candidates, *others):
            looked_at.append(len(candidates))
            return pick(candidates, *others)

        monkeypatch.setattr(coreset, "pick", counted)
        x = cloud("normal", n=1500)
        x[200:900], x[900:1200] = x[3] + 30, x[5] - 20
        # And a heap too tight for products, behind rows that are clear.
        x[1200:] = x[7] + 9 + 1e-6 * (x[1200:] - x[7])
        got = greedy_coreset(x, 250, start=17)
        assert got.tolist() == textbook_coreset(x, 250, start=17)
        assert max(looked_at) == 100

    def test_coreset_tells_its_progress(self):
        seen = []
        greedy_coreset(cloud("normal"), 200, progress=lambda *at: seen.append(at))
        assert seen[0] == (1, 200) and seen[-1] == (200, 200)
        assert [done for done, _ in seen] == sorted({done for done, _ in seen})

    @pytest.mark.parametrize("half", [False, True])
    @pytest.mark.parametrize("k", [1, 9])
    @pytest.mark.parametrize("kind", KINDS)
    def test_nearest_is_the_textbook(self, kind, k, half, monkeypatch):
        monkeypatch.setattr(sharding, "fast_bfloat16", lambda mesh: half)
        x = cloud(kind, n=1700)
        queries = np.concatenate([x[:50], x[1500:1601], x[60:70] + 0.25])

        distance, index = nearest(queries, x[:1500], k)
        want, where = textbook_nearest(queries, x[:1500], k + 1)
        np.testing.assert_allclose(distance, want[:, :k], rtol=1e-6, atol=1e-30)
        # Neighbours closer to each other than float32 can tell may change places.
        gap = np.diff(want, axis=1)
        clear = (gap == 0) | (gap > 1e-6 * want[:, 1:])
        clear = (
            clear[:, :k] & np.pad(clear, ((0, 0), (1, 0)), constant_values=True)[:, :k]
        )
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(
            np.where(clear, index, 0), np.where(clear, where[:, :k], 0)
        )

    @pytest.mark.parametrize("k", [1, 4])
    @pytest.mark.parametrize("kind", KINDS)
    def test_nearest_of_others_is_a_bank_without_them(self, kind, k):
        """Bit by bit; queries are of the bank, equal to rows of it, or of nobody."""
        x = cloud(kind, n=700)
        bank, bank_owners = x[:600], np.arange(600) % 4  # one size without an owner
        queries = np.concatenate([x[:90], x[600:650]])
        owners = np.concatenate([bank_owners[:90], np.arange(50) % 5])
        distance, index = nearest_of_others(queries, owners, bank, bank_owners, k)
        for owner in range(5):
            mine, others = owners == owner, np.flatnonzero(bank_owners != owner)
            want, where = (np.asarray(x) for x in nearest(queries, bank[others], k))
            np.testing.assert_array_equal(distance[mine], want[mine])
            np.testing.assert_array_equal(index[mine], others[where[mine]])

    @pytest.mark.isa
    @pytest.mark.parametrize("half", [False, True])
    @pytest.mark.parametrize("kind", [*KINDS, "halfway"])
    def test_lower_bounds_are_below_and_near(self, kind, half):
        """Also where every number lies halfway between two of bfloat16."""
        if kind == "halfway":
            x = np.full((200, 8), 1 + 2.0**-8 - 1e-6, np.float32)
            x *= 2.0 ** (np.arange(200)[:, None] % 3)
        else:
            x = cloud(kind, n=200)
        origin = np.zeros(8, np.float32)
        lower, index = distances.shortlist(
            x[:8], x, origin, np.int32(200), 200, half=half
        )
        rows, queries = x.astype(np.float64), x[:8, None].astype(np.float64)
        squares = ((queries - rows[index]) ** 2).sum(-1)
        assert np.sort(index).tolist() == [list(range(200))] * 8
        assert (lower <= squares).all()
        scale = (queries**2).sum(-1) + (rows[index] ** 2).sum(-1)
        assert (squares - lower <= scale * (2.0**-6 if half else 2.0**-16)).all()

    @pytest.mark.parametrize("half", [False, True])
    def test_approximate_search_where_nothing_is_missed(self, half, monkeypatch):
        """CPUs find all that products can tell apart."""
        monkeypatch.setattr(sharding, "fast_bfloat16", lambda mesh: half)
        x = cloud("normal", n=1700)
        want = nearest(x[1500:], x[:1500], 3)
        got = nearest(x[1500:], x[:1500], 3, recall_target=0.9)
        recall = (np.asarray(got[0]) <= want[0]).mean()
        assert recall > 0.99 if half else recall == 1
        budget = memory_bank._search_bytes(200, 1500, 8, 3, 1) + 8 * 8 * 400
        parts = nearest(
            x[1500:], x[:1500], 3, recall_target=0.9, max_device_bytes=budget
        )
        np.testing.assert_array_equal(parts[0], got[0])


def as_on_a_tpu(*operands, cpu, default):
    return default(*operands)


def test_approximate_search_that_misses(monkeypatch):
    """What is missed is replaced by the next row, with the distance of that row."""
    second = jax.lax.approx_min_k

    def misses_the_first(operand, k, *, recall_target):
        assert recall_target == 0.8
        value, index = second(operand, k + 1, recall_target=1.0)
        return value[:, 1:], index[:, 1:]

    monkeypatch.setattr(jax.lax, "approx_min_k", misses_the_first)
    monkeypatch.setattr(jax.lax, "platform_dependent", as_on_a_tpu)
    x = cloud("normal", n=210)
    want, where = textbook_nearest(x[:10], x[10:], 3)
    distance, index = nearest(x[:10], x[10:], 2, recall_target=0.8)
    np.testing.assert_allclose(distance, want[:, 1:], rtol=1e-6)
    np.testing.assert_array_equal(index, where[:, 1:])


@pytest.mark.parametrize("recall_target", [0.0, 1.5])
def test_a_recall_that_is_none(recall_target):
    x = cloud("normal", n=30)
    with pytest.raises(InputError, match=f"recall_target={recall_target} must be"):
        nearest(x, x, 1, recall_target=recall_target)


def test_coreset_by_hand():
    # On a line: 0, then the far end 10, then 4 (4 from 0), then 7 (3 from 4 and 10).
    x = np.array([[0.0], [4.0], [10.0], [7.0], [1.0]])
    assert greedy_coreset(x, 4).tolist() == [0, 2, 1, 3]
    assert greedy_coreset(x, 4).dtype == np.int32
    assert greedy_coreset(x, 3, start=1).tolist() == [1, 2, 0]


def test_coreset_ties_go_to_the_lowest_index():
    # The corners are as far from the centre, and as far again from each other.
    x = np.array([[0, 0], [1, 1], [1, -1], [-1, 1], [-1, -1]])
    assert greedy_coreset(x, 5).tolist() == [0, 1, 2, 3, 4]


def test_coreset_of_equal_rows():
    x = np.tile(np.array([[1.0, 2.0]]), (7, 1))
    x[4] += 1
    assert greedy_coreset(x, 4, start=2).tolist() == [2, 4, 0, 0]


def test_coreset_with_blocks_of_full_size():
    x = cloud("correlated", n=9001, d=12)
    assert greedy_coreset(x, 300).tolist() == textbook_coreset(x, 300)


def test_coreset_extends_a_bank():
    x = cloud("correlated", n=900)
    kept = greedy_coreset(x[:700], 60)
    got = greedy_coreset(x, 90, start=kept)
    assert got.tolist() == textbook_coreset(x, 90, start=kept)
    assert greedy_coreset(x, 60, start=kept).tolist() == kept.tolist()


def test_coreset_of_everything_is_a_permutation():
    x = cloud("normal", n=300)
    assert sorted(greedy_coreset(x, 300).tolist()) == list(range(300))


def test_coreset_does_not_depend_on_the_container():
    x = cloud("normal", n=400)
    want = greedy_coreset(x, 40).tolist()
    assert greedy_coreset(jnp.asarray(x), 40).tolist() == want
    assert greedy_coreset(x.tolist(), 40).tolist() == want


def test_coreset_in_a_projection():
    # Twenty rows of three dimensions inside 64: a projection keeps who is far.
    x = cloud("normal", n=500, d=64)
    key = jax.random.key(3)
    got = greedy_coreset(x, 30, projection_dim=16, key=key)
    assert got.tolist() == greedy_coreset(x, 30, projection_dim=16, key=key).tolist()
    assert got.tolist() != greedy_coreset(x, 30).tolist()
    projected = x @ np.asarray(jax.random.normal(key, (64, 16)))
    assert got[:5].tolist() == textbook_coreset(projected, 5)
    assert len(set(got.tolist())) == 30


def test_nearest_by_hand():
    bank = np.array([[0.0, 0], [3, 4], [6, 8]])
    distance, index = nearest(np.array([[0.0, 0], [6, 9]]), bank, 2)
    np.testing.assert_allclose(distance, [[0, 5], [1, np.sqrt(34)]], rtol=1e-6)
    assert index.tolist() == [[0, 1], [2, 1]]
    assert distance.dtype == jnp.float32 and index.dtype == jnp.int32


def test_nearest_among_many_equal_rows():
    bank = np.tile(cloud("normal", n=10), (40, 1))
    _, index = nearest(bank[:10], bank, 12)
    want = np.arange(10)[:, None] + 10 * np.arange(12)
    np.testing.assert_array_equal(index, want)


def test_nearest_keeps_small_distances_far_from_the_origin():
    # The product form in float32 would round these distances to nothing.
    bank = np.full((50, 4), 4096.0, np.float32)
    bank[:, 0] += np.arange(50, dtype=np.float32) / 1024
    distance, index = nearest(bank + np.float32(0.0), bank, 3)
    np.testing.assert_array_equal(index[:, 0], np.arange(50))
    np.testing.assert_array_equal(distance[1:-1, 1:], 1 / 1024)


def test_nearest_under_jit_and_for_no_queries():
    bank, queries = cloud("normal", n=90), cloud("normal", n=7, seed=2)
    jitted = jax.jit(nearest, static_argnums=2)(queries, bank, 4)
    for got, want in zip(jitted, nearest(queries, bank, 4), strict=True):
        np.testing.assert_array_equal(got, want)
    assert nearest(queries[:0], bank, 4)[1].shape == (0, 4)


def test_nearest_takes_the_whole_bank():
    bank = cloud("normal", n=20)
    _, index = nearest(bank, bank, 20)
    assert (np.sort(index, axis=1) == np.arange(20)).all()


def test_nearest_of_others_by_hand():
    bank = np.array([[0.0], [1], [1], [5], [6]])
    owners = [3, 3, 8, 8, 9]
    queries = np.array([[1.0], [1.0], [1.0], [6.0]])
    distance, index = nearest_of_others(queries, [3, 8, 0, 9], bank, owners, 2)
    assert index.tolist() == [[2, 3], [1, 0], [1, 2], [3, 1]]
    assert distance.tolist() == [[0, 4], [0, 1], [0, 0], [1, 5]]
    assert distance.dtype == jnp.float32 and index.dtype == jnp.int32


@pytest.mark.parametrize("place", ["spread queries", "spread bank", "passing through"])
def test_nearest_of_others_does_not_depend_on_the_place(place):
    x = cloud("duplicates", n=700)
    bank, queries = x[:500], x[400:656]
    bank_owners, owners = np.arange(500) // 9, np.arange(400, 656) // 9
    want = nearest_of_others(queries, owners, bank, bank_owners, 3)
    mesh, options = sharding.make_mesh(), {}
    if place == "spread queries":
        queries = sharding.split_rows(queries, mesh)
        bank = sharding.replicate(bank, mesh)
    elif place == "spread bank":
        options["mesh"] = mesh
    else:
        least = memory_bank._search_bytes(256, 500, 8, 12, 1)
        options["max_device_bytes"] = least + 8 * 8 * 200
    got = nearest_of_others(queries, owners, bank, bank_owners, 3, **options)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_bank_of_one_image_has_no_others():
    x = cloud("normal", n=30)
    alone = np.full(30, 4)
    with pytest.raises(InputError, match="image 4 owns 30 of the 30 entries .* k=1"):
        nearest_of_others(x, alone, x, alone, 1)
    # Images that have given nothing to it can be scored.
    distance, _ = nearest_of_others(x, alone + 1, x, alone, 1)
    assert not np.asarray(distance).any()
    few = np.repeat([1, 2], [26, 4])
    with pytest.raises(InputError, match="image 1 owns 26 .* 4 are left where k=5"):
        nearest_of_others(x, few, x, few, 5)


def test_owners_that_do_not_fit():
    x = cloud("normal", n=30)
    with pytest.raises(InputError, match=r"\(29,\) do not fit queries .*\(30, 8\)"):
        nearest_of_others(x, np.zeros(29), x, np.zeros(30), 1)
    with pytest.raises(InputError, match=r"\(29,\) do not fit bank .*\(30, 8\)"):
        nearest_of_others(x, np.zeros(30), x, np.zeros(29), 1)
    with pytest.raises(InputError, match="k=31"):
        nearest_of_others(x, np.zeros(30), x, np.ones(30), 31)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e20])
def test_rows_that_are_not_finite_are_named(bad):
    x = cloud("normal", n=30)
    x[21, 3] = x[25, 0] = bad
    with pytest.raises(InputError, match=r"features of shape \(30, 8\): row 21"):
        greedy_coreset(x, 3)
    with pytest.raises(InputError, match="bank .* row 21"):
        nearest(x[:4], x, 3)
    with pytest.raises(InputError, match="queries .* row 21"):
        nearest(x, x[:4], 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 31}, r"size=31 .* \(30, 8\)"),
        ({"size": 0}, "size=0"),
        ({"size": 3, "start": 30}, "start=30"),
        ({"size": 3, "start": -1}, "start=-1"),
        ({"size": 3, "start": [0, 1, 2, 3]}, r"start=\[0, 1, 2, 3\] .* size=3"),
        ({"size": 3, "start": []}, r"start=\[\]"),
        ({"size": 3, "projection_dim": 4}, "projection_dim=4"),
        (
            {"size": 3, "projection_dim": 0, "key": jax.random.key(0)},
            "projection_dim=0",
        ),
    ],
)
def test_coreset_arguments_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message):
        greedy_coreset(cloud("normal", n=30), **arguments)


def test_shapes_that_do_not_fit():
    x = cloud("normal", n=30)
    with pytest.raises(InputError, match=r"\[n, d\], not \(2, 15, 8\)"):
        greedy_coreset(x.reshape(2, 15, 8), 3)
    with pytest.raises(InputError, match=r"\(30, 8\) .* \(30, 7\)"):
        nearest(x, x[:, 1:], 3)
    for k in (0, 31):
        with pytest.raises(InputError, match=rf"k={k} .* \(30, 8\)"):
            nearest(x, x, k)
