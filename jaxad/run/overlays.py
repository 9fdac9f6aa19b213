"""Pictures of a run's most telling test images, with their anomaly maps."""

import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxad.data import Split, given
from jaxad.data.split import decode_mask
from jaxad.devices import processes
from jaxad.inference import pictures
from jaxad.inference.decisions import OUTCOMES, Decision
from jaxad.inference.thumbnails import Thumbnails
from jaxad.run import raw_maps
from jaxad.run.evaluate import Evaluation

_LOG = logging.getLogger(__name__)

# Of a kind, those that come first: the others begin with the lowest score.
_HIGHEST_FIRST = ("hit", "false_alarm")


def choose(
    scores: np.ndarray,
    labels: np.ndarray,
    count: int,
    decision: Decision | None = None,
) -> dict[str, np.ndarray]:
    """The images that a person would want to look at.

    Returns:
      kind -> indices [<= count], the most telling first. Kinds are those of
      `decisions.OUTCOMES`: the clearest hits, the misses and passes of the lowest
      scores, and the false alarms of the highest. Without a decision, when nothing can
      be said to be missed, they are "anomalous_highest", "anomalous_lowest",
      "normal_highest" and "normal_lowest". No image is in two kinds.
    """
    order = np.argsort(scores, kind="stable")
    if decision is not None:
        outcomes = decision.outcomes(scores, labels)[order]
        rising = {kind: order[outcomes == kind] for kind in OUTCOMES}
        return {
            kind: (found[::-1] if kind in _HIGHEST_FIRST else found)[:count]
            for kind, found in rising.items()
        }
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
    evaluation: Evaluation,
    batch_size: int,
    *,
    count: int | None,
    decision: Decision | None = None,
    raw: str = "none",
) -> None:
    """Writes one PNG an image, see `inference.pictures.render`, and maps as numbers.

    All pictures of a category share one colour scale, so a cold picture is a normal
    image and not a rescaled one. Images that were disturbed are shown as they were
    scored, at the detector's size, all others in their own shape.

    Nothing depends on the pictures: one that cannot be drawn is a warning.

    Args:
      folder: of the category. Pictures go to `maps`, named by kind, rank and image,
        numbers to `raw_maps`, under the images' names.
      predict: `images [b, H, W, 3] in [0, 1] -> (scores [b], maps [b, H, W])`, arrays
        of the host; called by all processes.
      split, evaluation: the images, and what has been found of them.
      batch_size: images a call of `predict`.
      count: pictures a kind; None is one of every image.
      decision: gives the verdicts, and the regions that are outlined.
      raw: "npz" or "png" of every map, see `raw_maps`; or "none".
    """
    scores, ranges = evaluation.scores, evaluation.ranges
    most = len(split) if count is None else count
    chosen = choose(scores, split.labels, most, decision)
    # In the order in which they are drawn; "" of those that no picture is made of.
    plan = [
        (kind, rank, int(i))
        for kind, indices in chosen.items()
        for rank, i in enumerate(indices, start=1)
    ]
    if raw != "none":
        drawn = {i for _, _, i in plan}
        plan += [("", 0, i) for i in range(len(split)) if i not in drawn]
    if not plan:
        return
    scale = pictures.Scale.of(ranges, decision and decision.pixels.value)
    failed: list[str] = []
    save_raw = None
    if raw != "none" and processes.first():
        save_raw = raw_maps.writer(folder / "raw_maps", raw, ranges)
    indices = [i for *_, i in plan]
    shown = _mapped(predict, split, indices, batch_size, failed)
    for (kind, rank, i), (example, anomaly_map) in zip(plan, shown, strict=True):
        if example is None or not processes.first():
            continue
        with _optional(failed):
            panels = _panels(split, i, example, anomaly_map)
            if save_raw:
                save_raw(split.filenames[i], panels["anomaly_map"])
            if kind:
                caption = _caption(split, i, scores[i], decision, kind, rank)
                picture = _picture(split, i, panels, scale, caption)
                name = _name(split, i, f"{kind}_{rank}")
                pictures.save(picture, folder / "maps" / name)
    _tell(failed, len(plan), folder)


def write_suspects(
    folder: pathlib.Path,
    split: Split,
    scores: np.ndarray,
    maps: np.ndarray,
    worst: np.ndarray,
    decision: Decision,
    count: int,
) -> None:
    """Writes pictures of the good images that are most unlike the others.

    Thumbnails of all of them go to `suspects.npz`, numbered by rank from 0.

    Args:
      folder: as for `write`; files are named `suspect_<rank>_<image>`.
      split, scores: the good images, and their scores by what was not fitted on them.
      maps: anomaly maps [k, H, W] of some, in the same way.
      worst: which these are, int [k], the most anomalous first.
      decision: gives the verdicts, and the regions that are outlined.
      count: of pictures, the most anomalous first.
    """
    if not processes.first():
        return
    small = Thumbnails()
    scale = pictures.Scale.of(maps, decision.pixels.value)
    failed: list[str] = []
    for rank, (i, anomaly_map) in enumerate(zip(worst, maps, strict=True), start=1):
        with _optional(failed):
            item = split[int(i)]
            small.add(
                rank - 1, item["image"], anomaly_map, item["mask"], split.geometry,
                item["size"],
            )  # fmt: skip
            if rank > count:
                continue
            caption = _caption(split, i, scores[i], decision, "suspect", rank)
            panels = _panels(split, int(i), item, anomaly_map)
            picture = _picture(split, i, panels, scale, caption)
            name = _name(split, i, f"suspect_{rank}")
            pictures.save(picture, folder / "maps" / name)
    small.save(folder / "suspects.npz")
    _tell(failed, len(worst), folder)


def _mapped(
    predict, split, indices: Sequence[int], batch_size: int, failed: list[str]
) -> Iterator[tuple[dict | None, np.ndarray]]:
    """Examples with their maps [H, W]; None for one that cannot be read.

    A blank stands in for that: all processes take part, and in step. Batches keep the
    shape that is already compiled.
    """
    blank = np.zeros((*split.geometry.size, 3), np.float32)
    for start in range(0, len(indices), batch_size):
        batch = indices[start : start + batch_size]
        examples: list[dict | None] = [None] * len(batch)
        for place, i in enumerate(batch):
            with _optional(failed):
                examples[place] = split[i]
        pixels = [blank if one is None else one["image"] for one in examples]
        pixels += [pixels[-1]] * (batch_size - len(batch))
        maps = predict(np.stack(pixels))[1]
        yield from zip(examples, maps[: len(batch)], strict=True)


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
    return pictures.fitting(f"{prefix}_{stem(split.filenames[i])}.png")


def stem(file: str) -> str:
    """What the picture of an image has of its name."""
    return re.sub(r"[^\w.-]+", "_", os.path.splitext(file)[0])


def _picture(split, i: int, panels: dict[str, Any], scale, caption: dict[str, Any]):
    return pictures.render(**panels, scale=scale, title=split.filenames[i], **caption)


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
    kind = kind.replace("_", " " if kind in OUTCOMES else ", ")
    verdict, judged = None, pictures.score_details(score)
    if decision is not None:
        threshold = decision.images
        verdict = "anomalous" if threshold.verdicts(score) else "normal"
        p_value = float(threshold.p_values(score))
        judged = pictures.score_details(score, threshold.value, p_value)
    details = [split.defect_types[i], *judged, f"{kind} {rank}"]
    return {"verdict": verdict, "details": details}
