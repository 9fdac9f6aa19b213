"""A fitted detector as something that runs without jaxad: a folder, format 1.

  card.json     what goes in and comes out, versions, digests, what the gate has found
  samples.npz   images, and what the detector said of them (`inference.gate`)

and the files of its kind: `inference.program`, StableHLO, or `inference.onnx_model`. It
takes any number of images of the run's size. Resizing stays outside: it is Pillow's.
docs/export.md has a loader that imports nothing of jaxad.
"""

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxad
from jaxad import arrays
from jaxad.detectors import base
from jaxad.errors import InputError, writing
from jaxad.inference.decisions import Decision
from jaxad.inference.folder import Loaded

FORMAT = 1
CARD, SAMPLES = "card.json", "samples.npz"
BANKS = ("float32", "float16", "int8")

Flat = dict[str, Any]


class Answers(NamedTuple):
    """What is said of n images.

    Attributes:
      score: [n].
      map: [n, H, W].
      p_value, anomalous: [n]; None without a threshold.
    """

    score: np.ndarray
    map: np.ndarray
    p_value: np.ndarray | None = None
    anomalous: np.ndarray | None = None


# ---- What is in it


def require_possible(loaded: Loaded, bank: str) -> None:
    """Raises InputError for a detector that is not a program, or has no such bank."""
    if len(loaded.members) > 1 or loaded.members[0].spread is not None:
        names = ", ".join(member["name"] for member in loaded.card["members"])
        raise InputError(
            f"an ensemble ({names}) cannot be one program; --format folder takes it, "
            "or name a run of one backbone"
        )
    (config,) = loaded.configs
    if limit := config.detector.get("max_device_bytes"):
        raise InputError(
            f"config.detector.max_device_bytes={limit} keeps the memory bank on the "
            "host, and a program has it on its device; --format folder takes it, or "
            "fit again without that limit"
        )
    if bank != "float32" and "memory_bank" not in loaded.members[0].state:
        raise InputError(
            f"--bank={bank} has no effect on config.detector.name="
            f"{config.detector.name}, which has no memory bank; leave it out"
        )


def described(loaded: Loaded, dtype: np.dtype, bank: str) -> dict:
    """What the card says of any kind; `write_card` adds what is known later.

    Args:
      dtype: of images: uint8 from 0 to 255, or float32 in [0, 1].
      bank: one of `BANKS`.
    """
    (detector,), (config,) = loaded.members, loaded.configs
    decision = Decision.from_card(loaded.card)
    (member,) = loaded.card["members"]
    return {
        "format": FORMAT,
        "about": "An anomaly detector: images to scores, anomaly maps, verdicts.",
        "detector": {
            "category": loaded.card["category"],
            "dataset": loaded.card["dataset"],
            "method": config.method.name,
            "name": config.detector.name,
            "bank": bank if "memory_bank" in detector.state else None,
            "backbone": {"name": member["name"], **member["backbone"]},
            "backbone_dtype": config.backbone.dtype,
            "precision": config.precision,
            "versions": loaded.card["versions"],
        },
        "input": _input(config, dtype),
        "output": _output(config, decision, detector.scorer.unit),
        "threshold": decision
        and {
            "value": decision.images.value,
            "pixel_value": decision.pixels.value,
            "guarantee": decision.images.guarantee(),
        },
        "jaxad": jaxad.__version__,
    }


def _input(config, dtype) -> dict:
    dataset = config.dataset
    scale = "0 to 255" if dtype == np.uint8 else "0 to 1"
    return {
        "dtype": np.dtype(dtype).name,
        "shape": ["b", *dataset.image_size, 3],
        "about": f"RGB, {scale}, resized with Pillow's bilinear filter, antialiased",
        "resize": dataset.resize,
        "resize_to": dataset.resize_to,
    }


def _output(config, decision: Decision | None, unit: str) -> dict:
    found = {
        "score": {
            "dtype": "float32",
            "shape": ["b"],
            "about": f"how anomalous an image is, {unit}",
        },
        "map": {
            "dtype": "float32",
            "shape": ["b", *config.dataset.image_size],
            "about": "the same of every pixel",
        },
    }
    if decision:
        found["p_value"] = {
            "dtype": "float32",
            "shape": ["b"],
            "about": "the share of good images that would score at least as high",
        }
        found["anomalous"] = {
            "dtype": "bool",
            "shape": ["b"],
            "about": "the verdict: the score lies above the threshold",
        }
    return found


def stored(loaded: Loaded, bank: str) -> Flat:
    """All arrays of a detector by name, as they are stored.

    A bank of int8 has one scale a channel.
    """
    (detector,), decision = loaded.members, Decision.from_card(loaded.card)
    state = base.on_host(detector.state)
    if "memory_bank" in state:
        state |= _stored_bank(np.asarray(state["memory_bank"]), bank)
    tree = {"params": dict(detector.params), "state": state}
    if decision:
        # Scores are float32, and so are those of calibration.
        tree["calibration"] = decision.images.scores.astype(np.float32)
        tree["threshold"] = np.float32(decision.images.value)
    return arrays.flatten(tree)


def _stored_bank(rows: np.ndarray, bank: str) -> dict[str, np.ndarray]:
    if bank != "int8":
        # What float16 cannot hold becomes infinite, which no gate lets pass.
        with np.errstate(over="ignore"):
            return {"memory_bank": rows.astype(bank)}
    largest = np.abs(rows).max(0)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / 127
    levels = np.rint(rows / scale[None])
    return {"memory_bank": levels.astype(np.int8), "memory_bank_scale": scale}


def restored(state: dict) -> dict:
    """A scorer's state in the program, of `stored` arrays."""
    if "memory_bank" in state:
        rows = state["memory_bank"].astype(jnp.float32)
        if "memory_bank_scale" in state:
            rows *= state["memory_bank_scale"][None]
        state = {**state, "memory_bank": rows}
    return state


def in_unit(images: jax.Array) -> jax.Array:
    """float32 in [0, 1], in the program."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def answered(
    detector: base.Detector, tree: dict, scored: base.Scored, size: tuple[int, int]
) -> dict[str, jax.Array]:
    """The answers by name, in the program."""
    found = {
        "score": scored.images,
        "map": base.anomaly_map(detector, scored.patches, size),
    }
    if "threshold" in tree:
        calibration, scores = tree["calibration"], scored.images
        at_least = (calibration[None] >= scores[:, None]).sum(1)
        found["p_value"] = (1 + at_least) / np.float32(1 + len(calibration))
        found["anomalous"] = scores > tree["threshold"]
    return found


# ---- The card


def write_card(folder: pathlib.Path, content: dict) -> dict:
    """Writes the card, with the digests of the files beside it; gives all of it."""
    files = {
        path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != CARD
    }
    card = {**content, "files": files}
    with writing(folder):
        text = json.dumps(card, indent=1)
        (folder / CARD).write_text(text + "\n", encoding="utf-8")
    return card


def read_card(folder: pathlib.Path) -> dict:
    """The card of a folder, every file of which is as it was written.

    Raises:
      InputError: a file is missing, damaged, or of a version that cannot be read.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        version, files = card["format"], card["files"].items()
        digests = {name: file["sha256"] for name, file in files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is missing or damaged; name a folder that python -m jaxad.export "
            "has made with --format stablehlo or onnx, or make it again"
        ) from None
    if version != FORMAT:
        raise InputError(
            f"{path} has format {version}, and this jaxad reads {FORMAT}; use the "
            "version that wrote it, or export again"
        )
    for name, digest in digests.items():
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            raise InputError(
                f"{folder / name} is not the file that {path} names; copy the folder "
                "again"
            )
    return card


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
