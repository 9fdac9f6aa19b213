"""The detectors of a run, and how a request becomes an answer."""

import asyncio
import contextlib
import functools
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jaxad.data import images
from jaxad.errors import did_you_mean
from jaxad.inference import folder
from jaxad.inference.predictor import Predictor
from jaxad.serving import uploads
from jaxad.serving.answers import answer
from jaxad.serving.batching import Batcher, Full, Model, Slots
from jaxad.serving.drift import Drift
from jaxad.serving.metrics import NO_VERDICT, Metrics
from jaxad.serving.refusals import Limits, Refusal
from jaxad.serving.uploads import Asked, Upload

_NOTE = "there are several pages or frames; only the first one is looked at"
_STARTING = 5  # seconds after which to ask again


class Service:
    """Attributes:
    predictors: by category.
    limits: of what is taken.
    metrics: of all that has been served.
    batcher: computes.
    bytes: places for those of bodies.
    """

    def __init__(
        self,
        predictors: Mapping[str, Predictor],
        limits: Limits = Limits(),  # noqa: B008, a tuple
        batch_size: int = 8,
    ):
        self.predictors, self.limits = predictors, limits
        self._images = Slots(limits.images)
        self._pixels = Slots(limits.together * limits.pixels)
        self.bytes = Slots(limits.together * limits.body)
        models = {name: Model(one.scored, one.size) for name, one in predictors.items()}
        self.batcher = Batcher(
            models, batch_size, told=lambda size: self.metrics.batches.observe(size)
        )
        self.metrics = Metrics(predictors, self.batcher.sizes)
        self.metrics.watch(
            "images_in_flight", "Images between request and answer.",
            lambda: self._images.taken,
        )  # fmt: skip
        self._drifts = {
            name: Drift(one.threshold.scores.size)
            for name, one in predictors.items()
            if one.threshold is not None
        }
        self.metrics.watch_drift(self._drifts)
        # Decoding and drawing hold no lock for most of their time.
        self._pool = ThreadPoolExecutor(os.cpu_count(), "pictures")

    def start(self) -> None:
        """Has everything compiled, in the background."""
        self.batcher.start()

    def stop(self) -> None:
        """To be called when every request has its answer."""
        self.batcher.stop()
        self._pool.shutdown()

    @property
    def ready(self) -> bool:
        return self.batcher.ready.is_set() and self.batcher.failure is None

    def categories(self) -> list[dict[str, Any]]:
        """What `/v1/categories` says."""
        return [
            {
                "name": name,
                "detector": _key(one),
                "image_size": one.size,
                "threshold": one.threshold and one.threshold.value,
                "pixel_threshold": one.pixel_threshold,
                "calibration_images": one.threshold and one.threshold.scores.size,
                "guarantee": one.threshold and one.threshold.guarantee(),
            }
            for name, one in self.predictors.items()
        ]

    async def predict(self, request) -> dict[str, Any]:
        """What a request for predictions is answered with.

        Raises:
          Refusal: says why there is no answer.
        """
        if not self.ready:
            raise Refusal(
                503, "not_ready", "the detectors are being compiled", _STARTING
            )
        with contextlib.ExitStack() as taken:
            # Before the body is read: what cannot be served is not kept.
            self._take(self._images, 1, taken)
            asked = await uploads.asked(request, self.limits)
            self._take(self._images, len(asked.images) - 1, taken)
            name = self._category(asked.category)
            request.state.told = {"category": name, "images": len(asked.images)}
            return await self._answer(name, asked, taken)

    def _take(self, slots: Slots, count: int, taken: contextlib.ExitStack) -> None:
        """Takes places until `taken` is left."""
        try:
            slots.take(count)
        except Full:
            raise self.busy() from None
        taken.callback(slots.give_back, count)

    def busy(self) -> Refusal:
        """There is no place for more."""
        seconds = self._images.taken * self.batcher.seconds
        return Refusal(
            503,
            "busy",
            f"{self._images.taken} images are being worked on, and more do not fit; "
            "send it again later",
            max(1, math.ceil(seconds)),
        )

    def _category(self, named: str | None) -> str:
        known = ", ".join(self.predictors)
        if named is None:
            if len(self.predictors) > 1:
                raise uploads.bad(f"category is missing; it may be {known}")
            return next(iter(self.predictors))
        if named not in self.predictors:
            hint = did_you_mean(named[:80], self.predictors)
            raise Refusal(
                404,
                "unknown_category",
                f"there is no category {named[:80]!r}{hint}; there are {known}",
            )
        return named

    async def _answer(
        self, name: str, asked: Asked, taken: contextlib.ExitStack
    ) -> dict[str, Any]:
        predictor, loop = self.predictors[name], asyncio.get_running_loop()

        def pooled(function, *arguments, **options):
            call = functools.partial(function, *arguments, **options)
            return loop.run_in_executor(self._pool, call)

        async def judged(upload: Upload, header: images.Header) -> dict[str, Any]:
            opened = await pooled(
                uploads.opened, upload, predictor, picture=asked.map == "picture"
            )
            computed = await asyncio.wrap_future(
                self.batcher.submit(name, opened.read.image)
            )
            found = await pooled(answer, predictor, opened, computed, asked.map)
            return {**found, "note": _NOTE if header.several else None}

        headers = await pooled(
            lambda: [uploads.header(x, predictor, self.limits) for x in asked.images]
        )
        pixels = sum(math.prod(header.extent) for header in headers)
        if pixels > self._pixels.capacity:
            raise Refusal(
                413,
                "too_many_pixels",
                f"the images have {pixels} pixels together, more than "
                f"{self._pixels.capacity}; send several requests",
            )
        self._take(self._pixels, pixels, taken)
        # All or none: an answer without some of its images is easily taken for whole.
        found = await asyncio.gather(
            *map(judged, asked.images, headers), return_exceptions=True
        )
        failed = [one for one in found if isinstance(one, BaseException)]
        if failed:
            raise failed[0]
        for one in found:
            self.metrics.images.labels(name, one["verdict"] or NO_VERDICT).inc()
            if one["p_value"] is not None:
                self._drifts[name].add(one["p_value"])
        threshold = predictor.threshold
        return {
            "category": name,
            "detector": _key(predictor),
            "threshold": threshold and threshold.value,
            "pixel_threshold": predictor.pixel_threshold,
            "results": found,
        }


def _key(predictor: Predictor) -> str:
    """By which an answer says which detector has given it."""
    return folder.key(predictor.card)[:16]
