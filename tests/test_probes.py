import math

import numpy as np

from jaxad import probes


def test_knn_accuracy_by_hand():
    """Votes exp(cosine / t) of two neighbours of a known class 1 and one of class 0.

    At t = 1 the two, of cosines 0.8 and 0.6, outvote the one of cosine 1; at t = 0.1
    they do not: e^10 > e^8 + e^6. The scale of features does not count.
    """
    bank = np.array([[5.0, 0.0], [0.8, 0.6], [0.6, 0.8]], np.float32)
    labels, query = np.array([0, 1, 1]), np.array([[2.0, 0.0]], np.float32)
    assert math.e < math.exp(0.8) + math.exp(0.6)
    for temperature, right in ((1.0, 1), (0.1, 0)):
        truth = np.array([right])
        options = dict(k=3, temperature=temperature)
        assert probes.knn_accuracy(bank, labels, query, truth, **options) == 1.0
        assert probes.knn_accuracy(bank, labels, query, 1 - truth, **options) == 0.0
    # Of the nearest alone, whatever the temperature; k may be more than there are.
    assert probes.knn_accuracy(bank, labels, query, np.array([0]), k=1) == 1.0
    assert probes.knn_accuracy(bank, labels, query, np.array([0]), k=200) == 1.0


def test_knn_accuracy_asks_no_more_neighbours_than_the_smallest_class_has():
    """All ten would be wrong: nine of a cosine of 0.8 outvote one of 1."""
    bank = np.repeat([[1.0, 0.0], [0.8, 0.6]], (1, 9), axis=0)
    labels = np.repeat((0, 1), (1, 9))
    query, truth = np.array([[1.0, 0.0]]), np.array([0])
    assert probes.knn_accuracy(bank, labels, query, truth) == 1.0
    assert probes.knn_accuracy(bank, labels, query, truth, k=200) == 0.0


def test_knn_accuracy_equals_the_naive_count(monkeypatch):
    random = np.random.default_rng(0)
    bank, queries = random.normal(size=(40, 5)), random.normal(size=(23, 5))
    labels, truth = random.integers(0, 3, 40), random.integers(0, 3, 23)
    right = 0
    for query, label in zip(queries, truth, strict=True):
        cosines = [query @ x / np.linalg.norm(query) / np.linalg.norm(x) for x in bank]
        votes = [0.0, 0.0, 0.0]
        for i in sorted(range(40), key=lambda i: -cosines[i])[:7]:
            votes[labels[i]] += math.exp(cosines[i] / 0.2)
        right += votes.index(max(votes)) == label
    monkeypatch.setattr(probes, "_QUERIES", 10)  # in three parts
    got = probes.knn_accuracy(bank, labels, queries, truth, k=7, temperature=0.2)
    assert got == right / 23


def test_linear_accuracy_finds_what_a_line_can_tell_apart():
    """Three classes along one of two axes, the other one a thousand times as long."""
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    bank = np.stack([labels + random.uniform(-0.2, 0.2, 60), labels], 1)
    bank[:, 1] = 1000 * random.normal(size=60)
    bank = bank.astype(np.float32)
    given = bank[:40], labels[:40], bank[40:], labels[40:]
    assert probes.linear_accuracy(*given) == 1.0
    shuffled = random.permutation(labels[:40])
    assert probes.linear_accuracy(bank[:40], shuffled, *given[2:]) < 0.8
