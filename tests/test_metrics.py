"""Exact metrics against hand-worked numbers, scikit-learn, definitions, properties."""

import itertools
import math
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from jaxad import metrics
from jaxad.errors import InputError
from jaxad.histogram import Histogram

RANKED = (metrics.auroc, metrics.average_precision, metrics.aupr_trapezoid)


@pytest.fixture
def warnings(monkeypatch):
    """The messages logged during a test."""
    messages = []
    monkeypatch.setattr(
        metrics._LOG, "warning", lambda m, *args: messages.append(m % args)
    )
    return messages


def rounded(seed, shape, levels):
    """Random scores with many ties, and labels: about a third anomalous."""
    rng = np.random.default_rng(seed)
    labels = rng.random(shape) < 0.3
    labels.flat[:2] = 0, 1  # both classes
    return np.round((rng.normal(size=shape) + labels) * levels) / levels, labels


def blobs(seed, n=4, size=24):
    """Maps with ties, and masks of a few rectangles each, the first image normal."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, size, size), np.uint8)
    for image in range(1, n):
        for _ in range(rng.integers(1, 4)):
            top, left = rng.integers(0, size - 1, 2)
            height, width = rng.integers(1, 8, 2)
            masks[image, top : top + height, left : left + width] = 1
    return np.round(rng.normal(size=masks.shape) + masks, 1), masks


def regions(mask):
    """The 8-connected components of a mask as sets of (row, column), by flood fill."""
    todo = set(zip(*map(np.ndarray.tolist, np.nonzero(mask)), strict=True))
    found = []
    while todo:
        region, edge = set(), [todo.pop()]
        while edge:
            row, column = edge.pop()
            region.add((row, column))
            for step in itertools.product((-1, 0, 1), repeat=2):
                neighbour = row + step[0], column + step[1]
                if neighbour in todo:
                    todo.remove(neighbour)
                    edge.append(neighbour)
        found.append(region)
    return found


def naive_aupro(maps, masks, limit):
    """AUPRO from its definition: every threshold, every region, one after the other."""
    normal = maps[masks == 0]
    components = [
        np.array([image[pixel] for pixel in region])
        for image, mask in zip(maps, masks, strict=True)
        for region in regions(mask)
    ]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        overlap = np.mean([np.mean(region >= threshold) for region in components])
        points.append((np.mean(normal >= threshold), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0) if x1 > x0 else y1
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


class TestRanking:
    """auroc, average_precision, aupr_trapezoid, f1_max."""

    def test_by_hand(self):
        # Falling: 4 (+), 3 (+ and -), 2 (-), 1 (+).
        scores, labels = [1, 2, 3, 3, 4], [1, 0, 0, 1, 1]
        # Pairs won: 4 beats 2, 3 beats 1 and ties 1, 1 beats 0.
        assert metrics.auroc(scores, labels) == 3.5 / 6
        # (R, P) at 4, 3, 1: (1/3, 1), (2/3, 2/3), (1, 3/5).
        assert metrics.average_precision(scores, labels) == pytest.approx(34 / 45)
        # The 2 adds (2/3, 1/2): trapezoids 1, (1 + 2/3)/2, (1/2 + 3/5)/2, a third each.
        assert metrics.aupr_trapezoid(scores, labels) == pytest.approx(
            (1 + 5 / 6 + 11 / 20) / 3
        )
        # F1 at 4, 3, 2, 1: 1/2, 2/3, 4/7, 3/4.
        assert metrics.f1_max(scores, labels) == (0.75, 1.0)

    def test_highest_score_normal(self):
        # The precision-recall curve runs (0, 1), (0, 0), (1, 1/2).
        assert metrics.average_precision([0.9, 0.1], [0, 1]) == 0.5
        assert metrics.aupr_trapezoid([0.9, 0.1], [0, 1]) == 0.25
        assert metrics.auroc([0.9, 0.1], [0, 1]) == 0.0

    def test_perfect_and_constant(self):
        scores, labels = [0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]
        assert [metric(scores, labels) for metric in RANKED] == [1, 1, 1]
        assert metrics.f1_max(scores, labels) == (1.0, 0.8)
        assert metrics.auroc([5, 5, 5, 5], labels) == 0.5
        assert metrics.average_precision([5, 5, 5, 5], labels) == 0.5

    def test_f1_max_takes_the_highest_of_equal_thresholds(self):
        # F1 at 5: 2/3; at 2, with two false alarms between: 2 * 2 / (4 + 2) = 2/3.
        assert metrics.f1_max([5, 4, 3, 2], [1, 0, 0, 1]) == (2 / 3, 5.0)

    @pytest.mark.parametrize("levels", [1, 10, 1e9])
    @pytest.mark.parametrize("seed", range(4))
    def test_scikit_learn(self, seed, levels):
        scores, labels = rounded(seed, 300, levels)
        precision, recall, thresholds = sklearn.metrics.precision_recall_curve(
            labels, scores
        )
        with np.errstate(invalid="ignore"):
            f1 = np.nan_to_num(2 * precision * recall / (precision + recall))[:-1]
        expected = (
            sklearn.metrics.roc_auc_score(labels, scores),
            sklearn.metrics.average_precision_score(labels, scores),
            sklearn.metrics.auc(recall, precision),
        )
        got = [metric(scores, labels) for metric in RANKED]
        np.testing.assert_allclose(got, expected, rtol=1e-13)
        best, threshold = metrics.f1_max(scores, labels)
        np.testing.assert_allclose(best, f1.max(), rtol=1e-13)
        assert threshold in thresholds[np.isclose(f1, best, rtol=1e-13)]

    def test_auroc_is_the_share_of_pairs_won(self):
        scores, labels = rounded(7, 60, 2)
        won = scores[labels][:, None] - scores[~labels]
        assert metrics.auroc(scores, labels) == pytest.approx(
            np.mean((won > 0) + (won == 0) / 2), rel=1e-14
        )

    def test_unchanged_by_increasing_transforms_and_order(self):
        scores, labels = rounded(3, 200, 5)
        order = np.random.default_rng(0).permutation(200)
        for metric in RANKED:
            expected = metric(scores, labels)
            # Far from the origin and far apart: a sigmoid would have squashed these.
            assert metric(np.exp(scores), labels) == expected
            assert metric(scores + 1000, labels) == expected
            assert metric(scores[order], labels[order]) == expected
        f1, threshold = metrics.f1_max(scores, labels)
        assert metrics.f1_max(np.exp(scores), labels) == (f1, np.exp(threshold))

    def test_negated_scores(self):
        scores, labels = rounded(5, 200, 5)
        assert metrics.auroc(-scores, labels) == pytest.approx(
            1 - metrics.auroc(scores, labels), rel=1e-14
        )

    def test_array_likes(self):
        scores, labels = [0.5, 0.25, 0.75, 0.5], [1, 0, 1, 0]
        expected = metrics.auroc(scores, labels)
        assert expected == 0.875
        for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
            assert (
                metrics.auroc(jnp.array(scores, dtype), jnp.array(labels)) == expected
            )
        assert metrics.auroc(tuple(scores), np.array(labels, bool)) == expected
        square = np.reshape(scores, (2, 2)), np.reshape(labels, (2, 2))
        assert metrics.auroc(*square) == expected

    def test_float64_differences_count(self):
        assert metrics.auroc([1.0, 1.0 + 1e-15], [0, 1]) == 1.0

    @pytest.mark.parametrize("label", [0, 1])
    def test_one_class_is_nan_with_a_reason(self, label, warnings):
        for metric in RANKED:
            assert math.isnan(metric([1.0, 2.0], [label, label]))
        assert all(map(math.isnan, metrics.f1_max([1.0, 2.0], [label, label])))
        missing = ("anomalous", "normal")[label]
        assert len(warnings) == 4
        assert all("undefined" in m and f"labelled {missing}" in m for m in warnings)

    def test_bad_input(self):
        for metric in (*RANKED, metrics.f1_max):
            with pytest.raises(InputError, match=r"scores\[1\] is nan"):
                metric([0.0, np.nan, 1.0], [0, 1, 1])
            with pytest.raises(InputError, match=r"scores\[0\] is -inf"):
                metric([-np.inf, 1.0], [0, 1])
            with pytest.raises(InputError, match=r"\(3,\) and \(2,\)"):
                metric([0.0, 1.0, 2.0], [0, 1])
            with pytest.raises(InputError, match="labels must be 0 .* one is 255"):
                metric([0.0, 1.0], [0, 255])


class TestAupro:
    def test_by_hand(self):
        # Regions: {9, 1} and {7}. Normal: 8, 6, 5, 0. (FPR, PRO) at each score:
        # 9: (0, 1/4), 8: (1/4, 1/4), 7: (1/4, 3/4), 6: (1/2, 3/4), 5: (3/4, 3/4),
        # 1: (3/4, 1), 0: (1, 1).
        maps = [[[9, 1, 8, 7, 6, 5, 0]]]
        masks = [[[1, 1, 0, 1, 0, 0, 0]]]
        for limit, area in [
            (0.125, 1 / 32),  # between two points of the curve
            (0.25, 1 / 16),  # at a jump
            (0.5, 1 / 16 + 3 / 16),
            (0.6, 1 / 16 + 3 / 16 + 0.1 * 3 / 4),
            (1.0, 1 / 16 + 6 / 16 + 1 / 4),
        ]:
            assert metrics.aupro(maps, masks, limit=limit) == pytest.approx(
                area / limit, rel=1e-14
            )

    def test_a_tie_is_a_straight_line(self):
        # 3 covers both a region of one pixel and one of two normal pixels: the curve
        # is (0, 0), (1/2, 1), (1, 1).
        maps, masks = [[[3, 3, 2]]], [[[1, 0, 0]]]
        assert metrics.aupro(maps, masks, limit=0.25) == 0.25
        assert metrics.aupro(maps, masks, limit=1) == 0.75
        assert metrics.aupro([[[3, 3, 3]]], masks, limit=0.5) == 0.25

    def test_golden(self):
        # anomalib's case: one region, and a curve that hugs PRO = FPR: area 1/6. The
        # steps in full: k / 400 on 6 normal pixels each for k < 133, then 5 of 133.
        masks = np.tile([0, 0, 0, 1, 0, 0, 0], (1, 400, 1))
        maps = np.arange(2800).reshape(1, 400, 7) / 2800
        value = metrics.aupro(maps, masks, limit=1 / 3)
        assert value == pytest.approx((6 * 8778 + 5 * 133) / 400 / 800, rel=1e-13)
        assert value == pytest.approx(1 / 6, abs=2e-6)

    @pytest.mark.parametrize("limit", [0.01, 0.05, 0.3, 1.0])
    @pytest.mark.parametrize("seed", range(3))
    def test_definition(self, seed, limit):
        maps, masks = blobs(seed)
        assert metrics.aupro(maps, masks, limit=limit) == pytest.approx(
            naive_aupro(maps, masks, limit), rel=1e-12
        )

    def test_every_region_has_weight_one(self):
        # A region of one pixel, found, and one of 16 that is not.
        masks = np.zeros((2, 8, 8))
        masks[0, 0, 0] = 1
        masks[1, 2:6, 2:6] = 1
        maps = np.where(masks, -1.0, 0.0)
        maps[0, 0, 0] = 1.0
        assert metrics.aupro(maps, masks) == 0.5

    def test_diagonal_pixels_are_one_region(self):
        # With 4 neighbours the diagonal pair would be two of three regions.
        maps = [[[9.0, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, -1.0]]]
        masks = [[[1, 0, 0, 0], [0, 1, 0, 1]]]
        assert metrics.aupro(maps, masks) == 0.5

    def test_regions_do_not_join_across_images_or_borders(self):
        # The last row of one mask and the first row of the next touch in memory, and so
        # do the ends of two rows.
        maps = np.zeros((2, 3, 3))
        masks = np.zeros((2, 3, 3))
        masks[0, 2] = masks[1, 0] = masks[0, 0, 2] = masks[1, 2, 0] = 1
        maps[masks == 1] = -1.0
        maps[0, 2] = 1.0
        assert metrics.aupro(maps, masks) == 0.25

    def test_normal_images_count_as_false_positives(self):
        maps, masks = blobs(1)
        extra = np.full((1, 24, 24), maps.max() + 1)
        assert metrics.aupro(maps, masks) > 0.1
        more = np.concatenate([maps, extra]), np.concatenate([masks, extra * 0])
        assert metrics.aupro(*more) == pytest.approx(naive_aupro(*more, 0.3), abs=1e-15)

    def test_unchanged_by_increasing_transforms_and_order(self):
        maps, masks = blobs(2)
        expected = metrics.aupro(maps, masks)
        assert metrics.aupro(np.exp(maps), masks) == expected
        assert metrics.aupro(maps + 1000, masks) == expected
        assert metrics.aupro(maps[::-1], masks[::-1]) == expected
        assert metrics.aupro(maps[:, ::-1], masks[:, ::-1]) == expected

    def test_ties_between_regions_of_many_sizes_add_up_in_any_order(self):
        maps, masks = blobs(4, n=40)
        maps = np.round(maps)
        expected = metrics.aupro(maps, masks)
        for seed in range(8):
            order = np.random.default_rng(seed).permutation(40)
            assert metrics.aupro(maps[order], masks[order]) == expected

    def test_undefined_is_nan_with_a_reason(self, warnings):
        maps = np.ones((1, 2, 2))
        assert math.isnan(metrics.aupro(maps, np.zeros((1, 2, 2))))
        assert math.isnan(metrics.aupro(maps, np.ones((1, 2, 2))))
        assert ["labelled anomalous" in message for message in warnings] == [
            True,
            False,
        ]

    def test_bad_input(self):
        maps, masks = np.zeros((2, 3, 3)), np.zeros((2, 3, 3))
        with pytest.raises(InputError, match=r"\(2, 3, 3\) and \(1, 3, 3\)"):
            metrics.aupro(maps, masks[:1])
        with pytest.raises(InputError, match=r"\[n, H, W\].*\(3, 3\)"):
            metrics.aupro(maps[0], masks[0])
        with pytest.raises(InputError, match="limit .* not 0"):
            metrics.aupro(maps, masks, limit=0)
        with pytest.raises(InputError, match="masks must be 0 .* one is 2"):
            metrics.aupro(maps, masks + 2)
        maps[1, 0, 2] = np.inf
        with pytest.raises(InputError, match=r"maps\[1, 0, 2\] is inf"):
            metrics.aupro(maps, masks)


def at_once(maps, masks):
    """What PixelMetrics must return, from the functions on all pixels."""
    f1, threshold = metrics.f1_max(maps, masks)
    return {
        "pixel_auroc": metrics.auroc(maps, masks),
        "pixel_ap": metrics.average_precision(maps, masks),
        "pixel_aupr": metrics.aupr_trapezoid(maps, masks),
        "pixel_f1_max": f1,
        "pixel_f1_threshold": threshold,
        "aupro_0.3": metrics.aupro(maps, masks),
    }


def state_of(maps, masks, batch=1):
    state = metrics.PixelMetrics()
    for start in range(0, len(maps), batch):
        state.update(maps[start : start + batch], masks[start : start + batch])
    return state


def crowded(seed, n=6, size=256):
    """Blobs whose scores are few of the float32 numbers, most of them next to 1."""
    maps, masks = blobs(seed, n, size)
    rng = np.random.default_rng(seed)
    near_one = 1 + rng.integers(0, 1 << 16, maps.shape) / (1 << 23)
    return np.where(maps < 1, near_one, maps).astype(np.float32), masks


class TestPixelMetrics:
    """Every comparison is for equality: the state is exact, to the last bit."""

    @pytest.mark.parametrize("data", [blobs, crowded])
    @pytest.mark.parametrize("batch", [1, 3, 100])
    @pytest.mark.parametrize("gather", [1, 1000, 1 << 22])
    def test_equals_the_functions(self, data, batch, gather, monkeypatch):
        monkeypatch.setattr(Histogram, "_GATHER", gather)
        maps, masks = data(11)
        maps = maps.astype(np.float32)
        assert state_of(maps, masks, batch).compute() == at_once(maps, masks)

    def test_limits(self):
        maps, masks = blobs(12)
        maps = maps.astype(np.float32)
        result = state_of(maps, masks).compute(limits=(0.05, 1))
        assert list(result)[-2:] == ["aupro_0.05", "aupro_1"]
        assert result["aupro_0.05"] == metrics.aupro(maps, masks, limit=0.05)
        assert result["aupro_1"] == metrics.aupro(maps, masks, limit=1)

    @pytest.mark.parametrize("gather", [1000, 1 << 22])
    def test_any_shares_in_any_order(self, gather, monkeypatch):
        monkeypatch.setattr(Histogram, "_GATHER", gather)
        maps, masks = crowded(13, n=8)
        expected = state_of(maps, masks).compute()
        rng = np.random.default_rng(0)
        for _ in range(4):
            shares = np.array_split(rng.permutation(8), [1, 2, 6])
            states = [state_of(maps[share], masks[share]) for share in shares]
            if rng.random() < 0.5:  # also once they have been looked at
                alone = [state.compute() for state in states]
            total = metrics.PixelMetrics()
            for state in pickle.loads(pickle.dumps(states)):
                total.merge(state)
            assert total.compute() == expected
        total = states[0]
        for state in states[1:]:
            total.merge(state)
        total.update(maps[:1], masks[:1])
        twice = np.append(np.arange(8), 0)
        assert total.compute() == at_once(maps[twice], masks[twice])
        # A state that was merged into another is left as it was.
        alone = at_once(maps[shares[2]], masks[shares[2]])
        assert states[2].compute() == alone

    @pytest.mark.parametrize("images", [3, 90])
    @pytest.mark.parametrize("sorted_into_pages", [False, True])
    def test_merged_with_itself_it_has_seen_everything_twice(
        self, images, sorted_into_pages
    ):
        """Ninety images are enough for counters in place of lists."""
        random = np.random.default_rng(0)
        maps = random.uniform(1, 1.01, (images, 64, 64)).astype(np.float32)
        masks = np.zeros(maps.shape, bool)
        masks[0, :3, :3] = True
        state, twice = state_of(maps, masks), state_of(maps, masks)
        twice.update(maps, masks)
        if sorted_into_pages:
            state.compute()
        state.merge(state)
        assert state._normal.size == 2 * (maps.size - 9)
        assert state.compute() == twice.compute()

    def test_batches_of_several_sizes(self):
        maps, masks = blobs(14, size=32)
        maps = maps.astype(np.float32)
        maps[:, 16:], masks[:, 16:] = -50, 0
        state = metrics.PixelMetrics()
        state.update(maps[:2], masks[:2])
        state.update(maps[2:, :16], masks[2:, :16])
        state.update(maps[2:, 16:].reshape(-1, 8, 8), masks[2:, 16:].reshape(-1, 8, 8))
        assert state.compute() == at_once(maps, masks)

    def test_the_whole_range_of_float32(self):
        info = np.finfo(np.float32)
        line = np.array(
            [info.max, 1, info.tiny, info.smallest_subnormal, 0], np.float32
        )
        line = np.concatenate([line, -line[::-1]])  # falling, with 0.0 and -0.0
        masks = np.eye(10, dtype=bool)[:, None]  # each score once anomalous
        ranks = np.array([5, 4, 3, 2, 1, 1, 0, -1, -2, -3])
        got = state_of(np.tile(line, (10, 1, 1)), masks).compute()
        want = at_once(np.tile(ranks, (10, 1, 1)), masks)
        want["pixel_f1_threshold"] = line[ranks == want["pixel_f1_threshold"]][0]
        assert got == want

    def test_memory_is_bounded(self):
        maps, masks = crowded(15)
        masks[:] = 0
        masks[0, 0, 0] = 1
        maps = np.minimum(maps, 1 + 1 / 128)
        for repeats in (1, 4):
            state = metrics.PixelMetrics()
            for _ in range(repeats):
                state.update(maps, masks)
            state.compute()
            # A page of counters, a list of the single score above it, the one pixel.
            assert 4 * 65536 <= state.nbytes <= 2 * 4 * 65536 + 8 * repeats

    def test_counters_do_not_overflow(self):
        histogram = Histogram()
        keys = np.full(200_000, 7 << 16, np.uint32)
        histogram.add(keys)
        histogram.below(keys[:1])
        (page,) = histogram._counters
        histogram._counters[page][0] = 2**32 - 1
        histogram.size = 2**32 - 1
        histogram.add(keys)
        other = Histogram()
        other.merge(histogram)
        other.merge(histogram)
        for one, total in (
            (histogram, 2**32 + 199_999),
            (other, 2 * (2**32 + 199_999)),
        ):
            assert one.size == total
            assert one.below(np.array([7 << 16, (7 << 16) + 1])).tolist() == [0, total]

    def test_undefined_is_nan_with_a_reason(self, warnings):
        state = metrics.PixelMetrics()
        maps = np.ones((1, 2, 2), np.float32)
        for update in (None, np.zeros((1, 2, 2))):
            if update is not None:
                state.update(maps, update)
            result = state.compute(limits=(0.3, 0.05))
            assert len(result) == 7 and all(map(math.isnan, result.values()))
        assert len(warnings) == 2 and "nothing is labelled anomalous" in warnings[1]
        state.update(maps, np.ones((1, 2, 2)))
        assert state.compute()["pixel_auroc"] == 0.5

    def test_bad_input_adds_nothing(self):
        maps, masks = blobs(16)
        maps = maps.astype(np.float32)
        state = state_of(maps, masks)
        expected = state.compute()
        for bad, message in [
            (maps.astype(np.float64) + 1e-12, "float32"),
            (np.full(maps.shape, 1e300), "float32"),
            (np.where(maps > 2, np.nan, maps), r"maps\[\d, \d+, \d+\] is nan"),
            (maps[:1], "one shape"),
        ]:
            with pytest.raises(InputError, match=message):
                state.update(bad, masks)
        with pytest.raises(InputError, match=r"\[n, H, W\]"):
            state.update(maps[0], masks[0])
        with pytest.raises(InputError, match="limit"):
            state.compute(limits=(1.5,))
        assert state.compute() == expected
        state = metrics.PixelMetrics()
        state.update(maps.astype(np.float64), masks)  # all float32 numbers: fine
        assert state.compute() == expected


@pytest.mark.parametrize("images", [0, 3, 90])
def test_pixel_metrics_as_arrays(images):
    """Ninety images are enough for counters in place of lists."""
    random = np.random.default_rng(0)
    maps = random.uniform(1, 1.01, (images, 64, 64)).astype(np.float32)
    masks = random.integers(0, 2, maps.shape)
    state = metrics.PixelMetrics()
    for each in zip(maps, masks, strict=True):
        state.update(*(x[None] for x in each))
    again = metrics.PixelMetrics.of_arrays(state.arrays())
    assert bool(again._normal._counters) == (images == 90)
    again.update(np.ones((1, 2, 2)), [[[0, 1], [1, 1]]])
    state.update(np.ones((1, 2, 2)), [[[0, 1], [1, 1]]])
    assert again.compute() == state.compute()
