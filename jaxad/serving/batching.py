"""Images of many requests become batches for the accelerator.

A batch is what waits when the one before it is done: nobody waits for company. It has
one of a few sizes, each compiled before the first request, and is never filled up with
copies: seven images are four, two and one. A thread of its own computes them.
"""

import collections
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

_LOG = logging.getLogger(__name__)

_MEMORY = 0.1  # how much the last batch counts for the seconds of an image


class Full(Exception):
    """There is no place left."""


class Slots:
    """Places of what is worked on, from its arrival to its answer: images, bytes.

    To be used by one thread.

    Attributes:
      capacity: how many there are.
      taken: of them.
    """

    def __init__(self, capacity: int):
        self.capacity, self.taken = capacity, 0

    def take(self, count: int) -> None:
        """Raises Full where there are no longer so many."""
        if self.taken + count > self.capacity:
            raise Full
        self.taken += count

    def give_back(self, count: int) -> None:
        self.taken -= count


class Model(NamedTuple):
    """What a batcher computes with.

    Attributes:
      scored: pixels [b, H, W, 3] to (scores [b], maps [b, H, W]).
      size: (H, W).
    """

    scored: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    size: tuple[int, int]


class Batcher:
    """Computes images in batches, in its own thread.

    Attributes:
      sizes: of batches, rising: powers of two.
      ready: set when all of them are compiled for all models.
      failure: what has ended the thread; None where it goes on.
      seconds: that an image has taken lately, of those in the batch.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        largest: int,
        *,
        told: Callable[[int], None] = lambda size: None,
    ):
        """Args:
        models: by name.
        largest: a batch has at most so many images.
        told: is called with the size of each batch.
        """
        self.sizes = [1 << i for i in range(largest.bit_length())]
        self.ready, self.failure = threading.Event(), None
        self.seconds = 0.1
        self._models, self._told = models, told
        self._waiting: collections.deque = collections.deque()
        self._change, self._stopped = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, after the batch that it computes."""
        with self._change:
            self._stopped = True
            self._change.notify()
        self._thread.join()

    def submit(self, name: str, pixels: np.ndarray) -> Future:
        """The (score, map [H, W]) of an image [H, W, 3] by a model, later."""
        future = Future()
        with self._change:
            self._waiting.append((name, pixels, future))
            self._change.notify()
        return future

    def _run(self) -> None:
        try:
            for name, model in self._models.items():
                start = time.perf_counter()
                for size in self.sizes:
                    if self._stopped:
                        return
                    model.scored(np.zeros((size, *model.size, 3), np.float32))
                seconds = round(time.perf_counter() - start, 1)
                about = {"category": name, "batches": self.sizes, "seconds": seconds}
                _LOG.info("compiled", extra={"fields": about})
        except BaseException as error:
            self.failure = error
            return
        self.ready.set()
        while batch := self._next():
            self._compute(*batch)

    def _next(self) -> tuple[str, list] | None:
        """A model's name, and pixels and futures of as many images as fill a size."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._stopped)
            if self._stopped:
                return None
            name = self._waiting[0][0]
            count = sum(one[0] == name for one in self._waiting)
            size = max(size for size in self.sizes if size <= count)
            batch, others = [], collections.deque()
            for one in self._waiting:
                if one[0] == name and len(batch) < size:
                    batch.append(one[1:])
                else:
                    others.append(one)
            self._waiting = others
        return name, batch

    def _compute(self, name: str, batch: list) -> None:
        start = time.perf_counter()
        try:
            pixels = np.stack([pixels for pixels, _ in batch])
            found = zip(*self._models[name].scored(pixels), strict=True)
        except Exception as error:  # such as no memory left on the device
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), one in zip(batch, found, strict=True):
            future.set_result(one)
        spent = (time.perf_counter() - start) / len(batch)
        self.seconds += _MEMORY * (spent - self.seconds)
        self._told(len(batch))
