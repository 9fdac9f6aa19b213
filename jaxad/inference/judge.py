"""Judges a folder of images, or a list of them: a table, pictures, and a summary."""

import collections
import contextlib
import dataclasses
import logging
import os
import pathlib
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from jaxad.data import given
from jaxad.detectors import threshold as threshold_lib
from jaxad.devices import processes
from jaxad.errors import InputError
from jaxad.inference import folder as folder_lib
from jaxad.inference import journal as journal_lib
from jaxad.inference import pictures, watch
from jaxad.inference.journal import ANOMALOUS, NORMAL, Journal, Row
from jaxad.inference.predictor import Predictor, Result
from jaxad.inference.regions import regions

_LOG = logging.getLogger(__name__)

# Which images get a picture.
MAPS = ("all", ANOMALOUS, "none")
_VERDICTS = {None: "", True: ANOMALOUS, False: NORMAL}
# Pictures are drawn in threads, and rows wait for theirs; each holds a whole map.
_THREADS = min(4, os.cpu_count() or 1)


@dataclasses.dataclass
class Summary:
    """What has been judged.

    Attributes:
      images: all of them, those that are broken as well.
      anomalous, normal: by verdict; without a threshold there is none.
      broken: could not be read.
      earlier: of `images`, those that had been judged before.
      seconds: spent on the others.
    """

    images: int
    anomalous: int
    normal: int
    broken: int
    earlier: int
    seconds: float

    def __str__(self) -> str:
        parts = [f"{self.anomalous} anomalous", f"{self.normal} normal"]
        if self.anomalous + self.normal == 0:
            parts = ["no verdicts"]
        new = self.images - self.earlier
        rate = f", {new / self.seconds:.1f} images/s" if new and self.seconds else ""
        earlier = f"; {self.earlier} were judged before" if self.earlier else ""
        return (
            f"{self.images} image{'s' * (self.images != 1)}: {', '.join(parts)}, "
            f"{self.broken} broken{earlier}; {self.seconds:.1f} s{rate}"
        )


def judge(
    predictor: Predictor,
    images: str | os.PathLike,
    out: str | os.PathLike,
    *,
    maps: str = "all",
    fdr: float | None = None,
    versions: dict[str, str],
) -> Summary:
    """Judges all images, and goes on where an earlier call was stopped.

    Args:
      predictor: the detector.
      images: a folder, a CSV or an image, as `given.items` takes it.
      out: the folder that `inference.journal` describes; made if need be.
      maps: which images get a picture, one of `MAPS`. With `fdr` those may be anomalous
        whose p-value is no larger than that.
      fdr: the false discovery rate that all images together are judged at; None judges
        each alone, by the threshold.
      versions: of what may change a number, for the record.

    Raises:
      InputError: there is no image; `out` holds something else, or cannot be written;
        `fdr` without a threshold, or out of range. An image that cannot be read is
        no mistake: its row says so.
      Preempted: SIGTERM came; every row is on disk.
    """
    out = pathlib.Path(out).expanduser()
    _require_apart(images, out)
    # A CSV may name a file twice.
    found = given.items(images, without=out, max_pixels=predictor.max_pixels)
    items = {item.name: item for item in found}
    with _desk(predictor, images, out, maps, fdr, versions) as desk:
        new = [item for name, item in items.items() if name not in desk.journal.done]
        bar = processes.progress(
            total=len(items), initial=len(items) - len(new), desc="predict", unit="img"
        )
        with bar:
            for row in desk.judged(new, None if len(new) > 1 else 1):
                bar.update()
                if len(items) == 1:
                    bar.write(told(row))
        if fdr is not None:
            desk.discover(fdr)
        return desk.summary()


def follow(
    predictor: Predictor,
    folder: str | os.PathLike,
    out: str | os.PathLike,
    stop: threading.Event,
    *,
    maps: str = "all",
    versions: dict[str, str],
) -> Summary:
    """Judges images as they come into a folder, one by one, until told to stop.

    What is judged is printed, a line an image.

    Args:
      predictor, out, maps, versions: as for `judge`.
      folder: of images; what lies there already is judged as well.
      stop: ends it when set, after the image that is being judged.

    Raises:
      InputError: as `judge`; the folder cannot be read.
    """
    out, folder = (pathlib.Path(path).expanduser() for path in (out, folder))
    if not folder.is_dir():
        raise InputError(f"--watch follows a folder, which {folder} is not")
    _require_apart(folder, out)
    with _desk(predictor, folder, out, maps, None, versions) as desk:
        arrivals = watch.Arrivals(folder, desk.journal.done, out, predictor.max_pixels)
        for _ in watch.looks(stop):
            arrived = arrivals.look()
            desk.forget({item.name for item in arrived})
            with contextlib.closing(desk.judged(arrived, 1)) as rows:
                for row in rows:
                    arrivals.judged(row.file, broken=bool(row.error))
                    print(told(row), flush=True)
                    if stop.is_set():
                        break
        return desk.summary()


def told(row: Row) -> str:
    """A line about an image."""
    if row.error:
        return row.error
    parts = pictures.score_details(row.score, p_value=row.p_value)
    return f"{row.file}: {', '.join(filter(None, (row.verdict, *parts)))}"


def _require_apart(images: str | os.PathLike, out: pathlib.Path) -> None:
    source = pathlib.Path(images).expanduser().resolve()
    if source.is_dir() and source.is_relative_to(out.resolve()):
        raise InputError(f"--out={out} holds the images; choose another folder")


@contextlib.contextmanager
def _desk(predictor, images, out, maps, fdr, versions) -> Iterator["_Desk"]:
    threshold = predictor.threshold
    if fdr is not None:
        if threshold is None:
            raise InputError(
                "the detector has no threshold, and so no p-values for --fdr; fit one "
                "with config.threshold"
            )
        if not 0 < fdr < 1:
            raise InputError(f"--fdr={fdr} must lie above 0 and below 1; 0.1 is 10 %")
    about = {
        "detector": folder_lib.key(predictor.card),
        "images": str(pathlib.Path(images).expanduser().resolve()),
        "threshold": threshold and threshold.value,
        "pixel_threshold": predictor.pixel_threshold,
        "fdr": fdr,
        "versions": versions,
    }
    with journal_lib.opened(out, about) as journal:
        yield _Desk(predictor, journal, maps, fdr)


class _Desk:
    """Where images become rows and pictures."""

    def __init__(self, predictor: Predictor, journal: Journal, maps: str, fdr):
        self.journal = journal
        self._predictor, self._maps, self._fdr = predictor, maps, fdr
        self._earlier, self._broken, self._seconds = len(journal.done), 0, 0.0

    def judged(
        self, items: Iterable[given.Item], batch_size: int | None
    ) -> Iterator[Row]:
        """Judges items and writes their rows, in order."""
        kept: dict[str, Image.Image] = {}  # of those that are on their way
        results = self._predictor.stream(
            (self._keeping(item, kept) for item in items), batch_size=batch_size
        )
        pool, waiting = ThreadPoolExecutor(_THREADS), collections.deque()
        start = time.perf_counter()

        def first() -> Row:
            nonlocal start
            row = waiting.popleft().result()
            self.journal.append(row)
            self._broken += bool(row.error)
            self._seconds += time.perf_counter() - start
            start = time.perf_counter()
            return row

        try:
            for result in results:
                scale = self._scale(result)
                image = kept.pop(result.name, None)
                waiting.append(pool.submit(self._row, result, image, scale))
                if len(waiting) > 2 * _THREADS:
                    yield first()
            while waiting:
                yield first()
        finally:
            results.close()
            pool.shutdown(cancel_futures=True)

    def forget(self, names: set[str]) -> None:
        """Takes the rows of images back that are to be judged again."""
        again = names & self.journal.done
        if again:
            self.journal.rewrite(lambda row: None if row.file in again else row)
            self._broken -= len(again)

    def discover(self, rate: float) -> None:
        """Verdicts on all images together, in the table and on the pictures.

        Those of an earlier call may change when images have come.
        """
        rows = [(row.file, row.score) for row in self.journal.rows() if not row.error]
        p_values = self._predictor.threshold.p_values([score for _, score in rows])
        found = threshold_lib.discoveries(p_values, rate)
        verdicts = {
            file: _VERDICTS[bool(one)]
            for (file, _), one in zip(rows, found, strict=True)
        }

        def change(row: Row) -> Row:
            verdict = verdicts.get(row.file, "")
            if verdict != row.verdict:
                path = self.journal.path_of_map(row.file)
                if path.exists():
                    pictures.stamp(path, verdict)
            return row._replace(verdict=verdict)

        self.journal.rewrite(change)
        if rows and not found.any():
            images = self._predictor.threshold.scores.size
            # At the lowest p-value that there can be, more images are all that helps.
            most = int((p_values <= 1 / (images + 1)).sum())
            short = most and threshold_lib.batch_shortage(images, len(rows), most, rate)
            if short:
                _LOG.warning("%s", short)

    def summary(self) -> Summary:
        count, rows = self.journal.count, len(self.journal.done)
        return Summary(
            rows, count[ANOMALOUS], count[NORMAL], self._broken, self._earlier,
            self._seconds,
        )  # fmt: skip

    def _keeping(self, item: given.Item, kept: dict[str, Image.Image]) -> given.Item:
        """The same, which leaves what its picture needs when it is decoded."""
        if self._maps == "none":
            return item

        def decode():
            decoded = item.decode()
            kept[item.name] = pictures.small(decoded)
            return decoded

        return dataclasses.replace(item, decode=decode)

    def _scale(self, result: Result) -> pictures.Scale | None:
        """The colours of all pictures, for which the first image may have to do."""
        if "scale" not in self.journal.about and result.error is None:
            scale = pictures.Scale.of(result.map, self._predictor.pixel_threshold)
            self.journal.note(scale=scale)
        scale = self.journal.about.get("scale")
        return scale and pictures.Scale(*scale)

    def _row(self, result: Result, image: Image.Image | None, scale) -> Row:
        """What is written of a result; draws its picture, if it gets one."""
        if result.error is not None:
            return Row(result.name, error=result.error)
        limit = self._predictor.pixel_threshold
        verdict = _VERDICTS[result.is_anomalous]
        if self._fdr:
            # What lies above the rate, but for rounding, is never reported.
            verdict = "" if result.p_value <= self._fdr * (1 + 1e-9) else NORMAL
        row = Row(
            file=result.name,
            score=result.score,
            p_value=result.p_value,
            verdict=verdict,
            regions=None if limit is None else regions(result.map, limit),
        )
        if image is not None and self._drawn(row):
            threshold = self._predictor.threshold
            picture = pictures.render(
                image,
                result.map,
                scale,
                title=row.file,
                details=pictures.score_details(
                    row.score,
                    None if self._fdr or threshold is None else threshold.value,
                    row.p_value,
                ),
                verdict=row.verdict if self._fdr or row.verdict else None,
            )
            pictures.save(picture, self.journal.path_of_map(row.file))
        return row

    def _drawn(self, row: Row) -> bool:
        """Whether a row, perhaps without a verdict yet, gets a picture."""
        return self._maps == "all" or row.verdict == ("" if self._fdr else ANOMALOUS)
