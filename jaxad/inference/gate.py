"""The gate of an export: a program says what the detector says, or there is none.

What is written is read back and run by its own runtime on images of the run, and its
answers are compared with the detector's. An image's score may differ by no more than
`BOUNDS` says, relative to the score or to the median one, whichever is larger; any
value of its map likewise, by the same; and no verdict may differ. The images go with
the program, so that it can be looked at again wherever it is to run.
"""

import dataclasses
import importlib
import os
import pathlib
import types
from typing import Any

import jax
import numpy as np

from jaxad import metrics
from jaxad.data.split import Split
from jaxad.detectors import base
from jaxad.errors import InputError, writing
from jaxad.inference import artefact
from jaxad.inference import folder as folder_lib
from jaxad.inference.artefact import Answers
from jaxad.inference.decisions import Decision
from jaxad.inference.folder import Loaded

MOST = 200  # images
# Largest relative difference of a score or of a map's value, by type of the bank.
BOUNDS = {"float32": 1e-4, "float16": 1e-2, "int8": 5e-2}
# What writes and opens a kind; imported when asked for, since one needs more packages.
KINDS = {
    "stablehlo": "jaxad.inference.program",
    "onnx": "jaxad.inference.onnx_model",
}
_MAP = 64  # rows and columns of a stored map, at most


@dataclasses.dataclass(frozen=True)
class Samples:
    """Images on which a program is compared.

    Attributes:
      names: of the images.
      images: [n, H, W, 3]: uint8, or float32 in [0, 1] where one of them has values
        between those of uint8.
      labels: int32 [n]; 0 normal, 1 anomalous.
      of: how many images they were taken from, evenly.
    """

    names: list[str]
    images: np.ndarray
    labels: np.ndarray
    of: int

    @classmethod
    def from_split(cls, split: Split) -> "Samples":
        """At most `MOST` images of a split.

        Raises:
          InputError: there are none, or one cannot be read.
        """
        n = len(split)
        if not n:
            raise InputError(
                "there are no images to compare the export on; name some with --images"
            )
        count = min(MOST, n)
        rows = np.arange(count) * n // count
        images = [_levels(split[int(i)]["image"]) for i in rows]
        if any(image.dtype != np.uint8 for image in images):
            images = [_unit(image) for image in images]
        names = [split.filenames[i] for i in rows]
        return cls(names, np.stack(images), np.asarray(split.labels)[rows], n)


def _levels(image: np.ndarray) -> np.ndarray:
    """An image in [0, 1] as uint8, where that is all there is to it."""
    levels = np.rint(image * 255).astype(np.uint8)
    return levels if np.array_equal(_unit(levels), image) else image


def _unit(images: np.ndarray) -> np.ndarray:
    """float32 in [0, 1], as a detector takes them."""
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images


def answers(loaded: Loaded, images: np.ndarray) -> Answers:
    """What a detector says of images, in batches of its config's size."""
    size, found = loaded.configs[0].batch_size, []
    for first in range(0, len(images), size):
        batch = _unit(images[first : first + size])
        filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), 0)])
        scores, maps = jax.device_get(base.predict(loaded.members, filled))
        found.append((scores[: len(batch)], maps[: len(batch)]))
    scores, maps = (np.concatenate(parts) for parts in zip(*found, strict=True))
    decision = Decision.from_card(loaded.card)
    if decision is None:
        return Answers(scores, maps)
    threshold = decision.images
    return Answers(scores, maps, threshold.p_values(scores), threshold.verdicts(scores))


def differences(want: Answers, found: Answers) -> dict[str, Any]:
    """The largest differences, as the card has them.

    Returns:
      `score` and `map`, relative as above, `p_value`, absolute, and `flipped_verdicts`;
      the last two None without a threshold. Not a number where an answer is none.
    """
    scale = np.maximum(np.abs(want.score), np.median(np.abs(want.score)))
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    p_value = flipped = None
    if want.p_value is not None:
        p_value = float(np.abs(found.p_value - want.p_value).max())
        flipped = int((found.anomalous != want.anomalous).sum())
    return {
        "score": float((np.abs(found.score - want.score) / scale).max()),
        "map": float((np.abs(found.map - want.map).max((1, 2)) / scale).max()),
        "p_value": p_value,
        "flipped_verdicts": flipped,
    }


def require_same(
    names: list[str], want: Answers, found: Answers, bound: float
) -> dict[str, Any]:
    """What `differences` gives.

    Raises:
      InputError: a verdict flips, or a score or a map differs by more than the bound.
    """
    largest = differences(want, found)
    if largest["flipped_verdicts"]:
        flips = np.flatnonzero(found.anomalous != want.anomalous)
        i = int(flips[0])
        raise InputError(
            f"the program is not the detector: {len(flips)} of {len(names)} verdicts "
            f"flip, the first that of {names[i]}, whose score {want.score[i]:.7g} "
            f"becomes {found.score[i]:.7g}"
        )
    for name in ("score", "map"):
        if not largest[name] <= bound:  # not a number either
            raise InputError(
                f"the program is not the detector: a {name} differs by "
                f"{largest[name]:.2g} of its size, more than {bound:g}, on "
                f"{len(names)} images"
            )
    return largest


def export(
    path: str | os.PathLike,
    out: str | os.PathLike,
    samples: Split,
    *,
    kind: str = "stablehlo",
    bank: str = "float32",
) -> dict:
    """Makes the folder that `inference.artefact` describes of a detector.

    Args:
      path: of the detector, as `folder.load` takes it.
      out: the folder to make; must not exist, or be empty.
      samples: images of the run, or of one's own.
      kind: one of `KINDS`.
      bank: type of the stored memory bank, one of `artefact.BANKS`.

    Returns:
      Its card.

    Raises:
      InputError: the detector cannot be one, or the program differs from it: then there
        is nothing in `out`.
    """
    loaded = folder_lib.load(path)
    artefact.require_possible(loaded, bank)
    runtime, bound = _runtime(kind), BOUNDS[bank]
    with folder_lib.made(out) as place:
        taken = Samples.from_split(samples)
        dtype = taken.images.dtype
        card = {
            **artefact.described(loaded, dtype, bank),
            "kind": kind,
            **runtime.write(place, loaded, dtype, bank),
        }
        want = answers(loaded, taken.images)
        found = runtime.opened(place, card)(taken.images)
        largest = require_same(taken.names, want, found, bound)
        _store(place, taken, want)
        card["gate"] = {
            "images": len(taken.names),
            "of": taken.of,
            "platform": jax.default_backend(),
            "bound": bound,
            "largest": largest,
            "image_auroc": _aurocs(taken.labels, want, found),
        }
        return artefact.write_card(place, card)


def _runtime(kind: str) -> types.ModuleType:
    return importlib.import_module(KINDS[kind])


def _aurocs(labels: np.ndarray, want: Answers, found: Answers) -> dict | None:
    if len(np.unique(labels)) < 2:
        return None
    return {
        "detector": metrics.auroc(want.score, labels),
        "program": metrics.auroc(found.score, labels),
    }


def _store(place: pathlib.Path, samples: Samples, want: Answers) -> None:
    """Writes samples and answers; of maps every so many rows and columns."""
    decided = {} if want.p_value is None else {
        "p_value": want.p_value,
        "anomalous": want.anomalous,
    }  # fmt: skip
    with writing(place):
        np.savez_compressed(
            place / artefact.SAMPLES,
            name=np.array(samples.names),
            image=samples.images,
            score=want.score,
            map=_thinned(want.map),
            **decided,
        )


def _thinned(maps: np.ndarray) -> np.ndarray:
    step = -(-max(maps.shape[1:]) // _MAP)
    return maps[:, ::step, ::step]


def verify(path: str | os.PathLike) -> tuple[dict, dict[str, Any]]:
    """Runs a program on its samples, here and now.

    Returns:
      (its card, what `differences` gives).

    Raises:
      InputError: it is damaged, cannot be read, or does not say what the detector said.
    """
    folder = pathlib.Path(path).expanduser()
    card = artefact.read_card(folder)
    with np.load(folder / artefact.SAMPLES) as stored:
        names, images = stored["name"].tolist(), stored["image"]
        want = Answers(**{x: stored[x] for x in Answers._fields if x in stored.files})
    found = _runtime(card["kind"]).opened(folder, card)(images)
    found = found._replace(map=_thinned(found.map))
    return card, require_same(names, want, found, card["gate"]["bound"])
