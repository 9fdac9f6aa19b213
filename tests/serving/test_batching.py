"""How images of many requests become batches."""

import threading

import numpy as np
import pytest

from jaxad.serving.batching import Batcher, Full, Model, Slots


class Recorded:
    """Scores an image by its first value, and remembers the sizes of batches."""

    def __init__(self):
        self.sizes, self.go = [], threading.Event()
        self.started = threading.Event()
        self.go.set()

    def __call__(self, pixels):
        self.started.set()
        assert self.go.wait(30)
        self.sizes.append(len(pixels))
        return pixels[:, 0, 0, 0], pixels[..., 0]


@pytest.fixture
def made():
    """Two models, and the batcher that computes them."""
    models = {name: Recorded() for name in "ab"}
    batcher = Batcher({name: Model(one, (2, 3)) for name, one in models.items()}, 6)
    batcher.start()
    assert batcher.ready.wait(30)
    yield models, batcher
    for one in models.values():
        one.go.set()
    batcher.stop()


def image(value):
    return np.full((2, 3, 3), value, np.float32)


def test_all_sizes_are_compiled_before_it_is_ready(made):
    models, batcher = made
    assert batcher.sizes == [1, 2, 4]
    assert models["a"].sizes == models["b"].sizes == [1, 2, 4]


def test_what_waits_is_a_batch_without_filling(made):
    models, batcher = made
    one = models["a"]
    one.sizes.clear(), one.started.clear(), one.go.clear()
    first = batcher.submit("a", image(0))
    assert one.started.wait(30)
    found = [batcher.submit("ab"[i in (2, 5)], image(i)) for i in range(1, 10)]
    one.go.set()
    assert first.result(30)[0] == 0
    scores = [future.result(30)[0] for future in found]
    assert scores == list(range(1, 10))
    np.testing.assert_array_equal(found[3].result()[1], np.full((2, 3), 4))
    # Seven of a, of which the first came before the two of b; these came next.
    assert one.sizes == [1, 4, 2, 1]
    assert models["b"].sizes == [1, 2, 4, 2]


def test_an_error_is_that_of_its_images_alone(made):
    models, batcher = made
    batcher._models["b"] = Model(lambda pixels: 1 / 0, (2, 3))
    with pytest.raises(ZeroDivisionError):
        batcher.submit("b", image(1)).result(30)
    assert batcher.submit("a", image(5)).result(30)[0] == 5


def test_what_cannot_be_compiled_ends_it():
    batcher = Batcher({"a": Model(lambda pixels: 1 / 0, (2, 3))}, 1)
    batcher.start()
    batcher.stop()
    assert not batcher.ready.is_set()
    assert isinstance(batcher.failure, ZeroDivisionError)


def test_places_are_no_more_than_there_are():
    slots = Slots(3)
    slots.take(2)
    with pytest.raises(Full):
        slots.take(2)
    assert slots.taken == 2
    slots.take(1)
    slots.give_back(3)
    assert slots.taken == 0
