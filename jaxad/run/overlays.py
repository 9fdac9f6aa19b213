"""Pictures of a run's most telling test images, with their anomaly maps."""

import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxad.data import Split, given
from jaxad.data.split import decode_mask
from jaxad.devices import processes
from jaxad.inference import pictures
from jaxad.inference.decisions import Decision

_LOG = logging.getLogger(__name__)


def choose(scores: np.ndarray, labels: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """The images that a person would want to look at.

    Returns:
      kind -> indices [<= count], the most telling first: "anomalous_highest" (caught),
      "anomalous_lowest" (missed), "normal_highest" (false alarms), "normal_lowest". No
      image is in two kinds.
    """
    order = np.argsort(scores, kind="stable")
    chosen = {}
    for name, label in (("anomalous", 1), ("normal", 0)):
        ranked = order[labels[order] == label]
        half = min(count, (len(ranked) + 1) // 2)
        chosen[f"{name}_highest"] = ranked[::-1][:half]
        chosen[f"{name}_lowest"] = ranked[: min(count, len(ranked) - half)]
    return chosen


def write(
    folder: pathlib.Path,
    predict,
    split,
    scores: np.ndarray,
    count: int,
    batch_size: int,
    *,
    decision: Decision | None = None,
) -> None:
    """Writes one PNG an image, see `inference.pictures.render`.

    All pictures of a category share one colour scale, so a cold picture is a normal
    image and not a rescaled one. Images that were disturbed are shown as they were
    scored, at the detector's size, all others in their own shape.

    Nothing depends on the pictures: one that cannot be drawn is a warning.

    Args:
      folder: where the pictures go; files are named by kind, rank and image.
      predict: `images [b, H, W, 3] in [0, 1] -> (scores [b], maps [b, H, W])`, arrays
        of the host; called by all processes.
      split, scores: the images, and their image scores [n].
      count: pictures a kind.
      batch_size: images a call of `predict`.
      decision: gives the verdicts, and the regions that are outlined.
    """
    chosen = choose(scores, split.labels, count)
    index = np.concatenate(list(chosen.values())).astype(int)
    if not len(index):
        return
    failed: list[str] = []
    blank = np.zeros((*split.geometry.size, 3), np.float32)
    examples = [{"image": blank}] * len(index)
    for place, i in enumerate(index):
        with _optional(failed):
            examples[place] = split[int(i)]
    # What cannot be read is there as a blank: all processes take part, and in step.
    maps = _maps(predict, [e["image"] for e in examples], batch_size)
    if not processes.first():
        return
    threshold = None if decision is None else decision.pixels.value
    scale = pictures.Scale.of(maps, threshold)
    shown = iter(zip(examples, maps, strict=True))
    for kind, indices in chosen.items():
        for rank, i in enumerate(indices, start=1):
            example, anomaly_map = next(shown)
            if example["image"] is blank:
                continue
            with _optional(failed):
                caption = _caption(split, i, scores[i], decision, kind, rank)
                picture = _picture(split, i, example, anomaly_map, scale, caption)
                pictures.save(picture, folder / _name(split, i, f"{kind}_{rank}"))
    _tell(failed, len(index), folder)


def write_suspects(
    folder: pathlib.Path,
    split: Split,
    scores: np.ndarray,
    maps: np.ndarray,
    worst: np.ndarray,
    decision: Decision,
) -> None:
    """Writes a picture of each of the good images that are most unlike the others.

    Args:
      folder: as for `write`; files are named `suspect_<rank>_<image>`.
      split, scores: the good images, and their scores by what was not fitted on them.
      maps: anomaly maps [k, H, W] of some, in the same way.
      worst: which these are, int [k], the most anomalous first.
      decision: gives the verdicts, and the regions that are outlined.
    """
    if not processes.first():
        return
    scale = pictures.Scale.of(maps, decision.pixels.value)
    failed: list[str] = []
    for rank, (i, anomaly_map) in enumerate(zip(worst, maps, strict=True), start=1):
        with _optional(failed):
            caption = _caption(split, i, scores[i], decision, "suspect", rank)
            example = split[int(i)]
            picture = _picture(split, i, example, anomaly_map, scale, caption)
            pictures.save(picture, folder / _name(split, i, f"suspect_{rank}"))
    _tell(failed, len(worst), folder)


@contextlib.contextmanager
def _optional(failed: list[str]) -> Iterator[None]:
    """Notes why a picture cannot be drawn."""
    try:
        yield
    except (OSError, ValueError, MemoryError) as error:
        failed.append(str(error) or type(error).__name__)


def _tell(failed: list[str], count: int, folder: pathlib.Path) -> None:
    if failed:
        _LOG.warning(
            "%s: %d of %d pictures could not be drawn, the first because %s",
            folder,
            len(failed),
            count,
            failed[0],
        )


def _name(split, i: int, prefix: str) -> str:
    """A picture's file, after the image's whole name."""
    stem = re.sub(r"[^\w.-]+", "_", os.path.splitext(split.filenames[i])[0])
    return pictures.fitting(f"{prefix}_{stem}.png")


def _picture(split, i: int, example, anomaly_map, scale, caption: dict[str, Any]):
    return pictures.render(
        **_panels(split, int(i), example, anomaly_map),
        scale=scale,
        title=split.filenames[i],
        **caption,
    )


def _panels(split, i: int, example: dict, anomaly_map: np.ndarray) -> dict[str, Any]:
    """Image, map and mask of one size: the image's own, where the split has it."""
    if not isinstance(split, Split):
        image, mask = example["image"], example["mask"]
        return {"image": image, "anomaly_map": anomaly_map, "mask": mask}
    encoded, mask = split.read(i)
    image = split.decode(encoded)
    return {
        "image": image,
        "anomaly_map": split.geometry.undo(anomaly_map, given.size(image)),
        "mask": None if mask is None else decode_mask(mask, ids=split.mask_ids),
    }


def _caption(split, i: int, score, decision, kind: str, rank: int) -> dict[str, Any]:
    kind = kind.replace("_", ", ")
    verdict, judged = None, pictures.score_details(score)
    if decision is not None:
        threshold = decision.images
        verdict = "anomalous" if threshold.verdicts(score) else "normal"
        p_value = float(threshold.p_values(score))
        judged = pictures.score_details(score, threshold.value, p_value)
    details = [split.defect_types[i], *judged, f"{kind} {rank}"]
    return {"verdict": verdict, "details": details}


def _maps(predict, pixels, batch_size):
    """Anomaly maps [n, H, W]; batches keep the shape that is already compiled."""
    out = []
    for start in range(0, len(pixels), batch_size):
        batch = pixels[start : start + batch_size]
        padding = [batch[-1]] * (batch_size - len(batch))
        maps = predict(np.stack(batch + padding))[1]
        out.extend(maps[: len(batch)])
    return np.stack(out)
