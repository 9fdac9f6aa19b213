"""A fitted detector as people use it: from whatever images they have to verdicts.

Example:
  detector = jaxad.load("runs/demo/mono")
  result = detector.predict("tomorrow/part_017.jpg")
  result.score, result.p_value, result.is_anomalous, result.map

Inside a program of JAX the detector is a function of arrays at its own size:

  from jaxad.detectors import base
  jax.jit(lambda images: base.predict(detector.members, images))
"""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxad.data import given, images
from jaxad.detectors import base
from jaxad.detectors.threshold import Threshold
from jaxad.devices import compilation
from jaxad.errors import InputError
from jaxad.inference import folder as folder_lib
from jaxad.inference import places
from jaxad.inference.decisions import Decision


@dataclasses.dataclass(frozen=True)
class Result:
    """What a detector says of an image.

    Attributes:
      name: of the image.
      score: how anomalous it is; a distance in descriptor space, an ensemble's
        z-score, or the log-odds of a two-class model.
      p_value: the share of good images that would score at least as high, as far as the
        calibration images tell; None where the detector has no threshold.
      is_anomalous: the verdict; None where the detector has no threshold.
      map: the anomaly map, float32 [h, w] at the image's own size, in the same units as
        the score; NaN where the preprocessing crops the image.
      error: a sentence where the image cannot be judged, and all else is None.
    """

    name: str
    score: float | None = None
    p_value: float | None = None
    is_anomalous: bool | None = None
    map: np.ndarray | None = dataclasses.field(default=None, repr=False)
    error: str | None = None


class Predictor:
    """A fitted detector, with its preprocessing and its threshold.

    Attributes:
      card: what `detector.json` says of it: data, config, versions.
      threshold: of images; None where none was asked for.
      pixel_threshold: of anomaly maps; None likewise.
      batch_size: images of a batch; a list is run in batches of this size, filled up.
      max_pixels: that the image of a file may have; 0 is no limit.
      size: (height, width) of what it looks at.
      members: the detector as pytrees, for `jaxad.detectors.base.predict`; several are
        an ensemble.
    """

    def __init__(self, loaded: folder_lib.Loaded, path: pathlib.Path | None = None):
        config = loaded.configs[0]
        self._loaded, self._path = loaded, path
        self._geometry = images.Geometry.from_config(config.dataset)
        self.card: dict[str, Any] = loaded.card
        self.batch_size: int = config.batch_size
        self.max_pixels: int = config.dataset.max_pixels
        self.size: tuple[int, int] = self._geometry.size
        self.members: tuple[base.Detector, ...] = loaded.members
        decision = Decision.from_card(loaded.card)
        self.threshold: Threshold | None = decision and decision.images
        self.pixel_threshold: float | None = decision and decision.pixels.value

    def predict(self, images: Any) -> Result | list[Result]:
        """Judges images of any size, preprocessed as those of the run were.

        Args:
          images: a path to an image, a PIL image, or an array [H, W] or [H, W, C]:
            uint8, uint16, or float in [0, 1]. Or several: a folder, a CSV, a list, an
            array [b, H, W, C]; see `jaxad.data.given`.

        Returns:
          A result for the one image, or a list in order. One image is computed alone,
          which is quickest; its score may differ in the last digits from what it gets
          in a list.

        Raises:
          InputError: an image cannot be read, or is none; JAX is tracing.
        """
        if isinstance(images, jax.core.Tracer):
            raise InputError(
                "images are traced by JAX, as under jit; there, call "
                "jaxad.detectors.base.predict(detector.members, images), which takes "
                f"[b, {', '.join(map(str, self.size))}, 3] in [0, 1]"
            )
        items = given.items(images, max_pixels=self.max_pixels)
        alone = _is_one(images)
        results = list(self.stream(items, batch_size=1 if alone else None))
        for result in results:
            if result.error:
                raise InputError(result.error)
        return results[0] if alone else results

    def stream(
        self, items: Iterable[given.Item], *, batch_size: int | None = None
    ) -> Iterator[Result]:
        """Judges items of `jaxad.data.given` one by one, in bounded memory.

        Yields:
          A result for each, in order; one that cannot be read has an `error`.
        """
        size = batch_size or self.batch_size
        read = given.read(items, self._geometry)
        while batch := list(itertools.islice(read, size)):
            yield from self._judged(batch, size)

    def _judged(self, batch: list[given.Read], size: int) -> Iterator[Result]:
        good = [one for one in batch if one.error is None]
        found = iter(())
        if good:
            stacked = np.stack([one.image for one in good])
            filling = np.broadcast_to(
                stacked[-1:], (size - len(good), *stacked.shape[1:])
            )
            pixels = np.concatenate([stacked, filling])
            found = iter(zip(*self.scored(pixels), strict=True))
        for one in batch:
            if one.error is not None:
                yield Result(one.name, error=one.error)
            else:
                yield self.result(one, *next(found))

    # The three steps of a prediction, for whoever makes batches of his own.

    def read(self, item: given.Item) -> given.Read:
        """An image as the detector sees it, or why it cannot be read."""
        return given.read_one(item, self._geometry)

    def scored(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores [b] and anomaly maps [b, H, W] of what `read` gave, [b, H, W, 3].

        Every number of images is compiled once.
        """
        return jax.device_get(base.predict(self.members, pixels))

    def result(
        self, read: given.Read, score: np.ndarray, anomaly_map: np.ndarray
    ) -> Result:
        """What there is to say of an image that was read and scored."""
        if not np.isfinite(score):
            return Result(read.name, error=f"{read.name} gets a score of {score}")
        p_value = verdict = None
        if self.threshold:
            p_value = float(self.threshold.p_values(score))
            verdict = bool(self.threshold.verdicts(score))
        return Result(
            name=read.name,
            score=float(score),
            p_value=p_value,
            is_anomalous=verdict,
            map=self._geometry.undo(anomaly_map, read.size),
        )

    def save(self, folder: str | os.PathLike) -> None:
        """Writes a folder that `load` reads and that needs nothing else.

        Raises:
          InputError: there is something in it, or it cannot be written.
        """
        if self._path is not None:
            folder_lib.copy(self._path, folder)
        else:
            folder_lib.save(folder, self._loaded)

    def __reduce__(self):
        if self._path is None:
            raise TypeError(
                "a detector in memory cannot be pickled; write it with save(folder), "
                "and load it there with jaxad.load(folder)"
            )
        return load, (self._path,)


def _is_one(given: Any) -> bool:
    """Whether a user has given an image, and not several."""
    if isinstance(given, str | os.PathLike):
        path = pathlib.Path(given).expanduser()
        return not path.is_dir() and path.suffix.lower() != ".csv"
    if isinstance(given, Image.Image):
        return True
    return not isinstance(given, list | tuple) and np.ndim(given) < 4


def load(path: str | os.PathLike) -> Predictor:
    """The fitted detector in a folder: a category's of a run, or one that was exported.

    Args:
      path: `<workdir>/<category>`, a run with one category, or an exported folder.

    Raises:
      InputError: there is none, or it is unfinished, damaged or of another version.
    """
    folder = places.find(path)
    card = folder_lib.read_card(folder)
    compilation.use_cache(card["members"][0]["config"]["compilation_cache"])
    return Predictor(folder_lib.load(folder), folder)
