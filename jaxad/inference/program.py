"""A fitted detector as a program that runs without jaxad: a folder, format 1.

  card.json            what goes in and comes out, versions, digests, the gate's finds
  program.bin          StableHLO, as `jax.export` serialises it
  arrays.safetensors   its first argument: weights, bank, calibration scores
  samples.npz          images, and what the detector said of them (`inference.gate`)

The program takes any number of images of the run's size, on a CPU, a GPU or a TPU, and
computes in float32 on all of them, where the backbone does; in bfloat16 products, which
a TPU would prefer, a bank's distances lose half of their digits. Resizing stays
outside: it is Pillow's. docs/export.md has a loader that imports nothing of jaxad.
"""

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax import export

import jaxad
from jaxad import arrays
from jaxad.detectors import base
from jaxad.errors import InputError, writing
from jaxad.inference.decisions import Decision
from jaxad.inference.folder import Loaded

FORMAT = 1
CARD, PROGRAM, ARRAYS, SAMPLES = (
    *("card.json", "program.bin", "arrays.safetensors", "samples.npz"),
)
PLATFORMS = ("cpu", "cuda", "tpu")
BANKS = ("float32", "float16", "int8")
_BATCH = 8
_WINDOW = (
    "JAX promises to read a program with its releases of the six months after the one "
    "that wrote it, and of the three weeks before"
)

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


# ---- Making one


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


def write(folder: pathlib.Path, loaded: Loaded, dtype: np.dtype, bank: str) -> dict:
    """Writes the program and its arrays.

    Args:
      folder: there already.
      loaded: what `require_possible` has found to be possible.
      dtype: of images: uint8 from 0 to 255, or float32 in [0, 1].
      bank: one of `BANKS`; int8 has one scale a channel.

    Returns:
      The content of its card, but for the files' digests and what a gate finds.
    """
    (detector,), (config,) = loaded.members, loaded.configs
    decision = Decision.from_card(loaded.card)
    flat = _arguments(detector, decision, bank)
    size = tuple(config.dataset.image_size)
    exported, used = _exported(detector, flat, size, dtype)
    with writing(folder):
        (folder / PROGRAM).write_bytes(exported.serialize())
        safetensors.numpy.save_file(
            {name: np.asarray(flat[name], order="C") for name in used}, folder / ARRAYS
        )
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
            "versions": loaded.card["versions"],
        },
        "input": _input(config, dtype),
        "output": _output(size, decision),
        "threshold": decision
        and {
            "value": decision.images.value,
            "pixel_value": decision.pixels.value,
            "guarantee": decision.images.guarantee(),
        },
        "platforms": list(exported.platforms),
        "jaxad": jaxad.__version__,
        "jax": {
            "version": jax.__version__,
            "calling_convention": exported.calling_convention_version,
            "window": _WINDOW,
        },
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


def _output(size: tuple[int, int], decision: Decision | None) -> dict:
    found = {
        "score": {
            "dtype": "float32",
            "shape": ["b"],
            "about": "how anomalous an image is, a distance in descriptor space",
        },
        "map": {
            "dtype": "float32",
            "shape": ["b", *size],
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


def _arguments(detector: base.Detector, decision: Decision | None, bank: str) -> Flat:
    """All arrays by name, as they are stored."""
    state = base.on_host(detector.state)
    if "memory_bank" in state:
        state |= _stored(np.asarray(state["memory_bank"]), bank)
    tree = {"params": dict(detector.params), "state": state}
    if decision:
        # Scores are float32, and so are those of calibration.
        tree["calibration"] = decision.images.scores.astype(np.float32)
        tree["threshold"] = np.float32(decision.images.value)
    return arrays.flatten(tree)


def _stored(rows: np.ndarray, bank: str) -> dict[str, np.ndarray]:
    if bank != "int8":
        # What float16 cannot hold becomes infinite, which no gate lets pass.
        with np.errstate(over="ignore"):
            return {"memory_bank": rows.astype(bank)}
    largest = np.abs(rows).max(0)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / 127
    levels = np.rint(rows / scale[None])
    return {"memory_bank": levels.astype(np.int8), "memory_bank_scale": scale}


def _restored(state: dict) -> dict:
    """`_stored` undone, in the program."""
    if "memory_bank" in state:
        rows = state["memory_bank"].astype(jnp.float32)
        if "memory_bank_scale" in state:
            rows *= state["memory_bank_scale"][None]
        state = {**state, "memory_bank": rows}
    return state


def _exported(
    detector: base.Detector, flat: Flat, size: tuple[int, int], dtype
) -> tuple[export.Exported, list[str]]:
    """The program, and the names of the arrays that it reads."""
    shapes = {x: jax.ShapeDtypeStruct(flat[x].shape, flat[x].dtype) for x in flat}

    def apply(given: Flat, images: jax.Array) -> dict[str, jax.Array]:
        # What is not read, such as a classifier, leaves no trace.
        every = {x: jnp.zeros(s.shape, s.dtype) for x, s in shapes.items()} | given
        return _apply(detector, arrays.nest(every), images)

    def exported(names: list[str], batch) -> export.Exported:
        images = jax.ShapeDtypeStruct((batch, *size, 3), dtype)
        program = export.export(jax.jit(apply), platforms=PLATFORMS)
        return program({name: shapes[name] for name in names}, images)

    names = sorted(shapes)  # as JAX orders a dictionary
    # A GPU's and a TPU's own default would be the short products of their fast units.
    with jax.default_matmul_precision("highest"):
        # With a size that is not known JAX keeps all.
        kept = set(exported(names, 1).module_kept_var_idx)
        used = [name for i, name in enumerate(names) if i in kept]
        (b,) = export.symbolic_shape("b")
        return exported(used, b), used


def _apply(detector: base.Detector, tree: dict, images: jax.Array) -> dict:
    detector = detector.replace(params=tree["params"], state=_restored(tree["state"]))
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    described = base.describe_with(detector, images)

    # An image at a time: a search needs to know how many patches there are.
    def score(one: jax.Array) -> base.Scored:
        found = detector.scorer.score(detector.state, one[None])
        return jax.tree.map(lambda x: x[0], found)

    scored = jax.lax.map(score, described)
    found = {
        "score": scored.images,
        "map": base.anomaly_map(detector, scored.patches, images.shape[1:3]),
    }
    if "threshold" in tree:
        calibration, scores = tree["calibration"], scored.images
        at_least = (calibration[None] >= scores[:, None]).sum(1)
        found["p_value"] = (1 + at_least) / np.float32(1 + len(calibration))
        found["anomalous"] = scores > tree["threshold"]
    return found


def write_card(folder: pathlib.Path, content: dict) -> dict:
    """Writes the card, with the digests of the files beside it; gives all of it."""
    files = {
        name: {
            "sha256": _sha256(folder / name),
            "bytes": (folder / name).stat().st_size,
        }
        for name in (PROGRAM, ARRAYS, SAMPLES)
    }
    card = {**content, "files": files}
    with writing(folder):
        text = json.dumps(card, indent=1)
        (folder / CARD).write_text(text + "\n", encoding="utf-8")
    return card


# ---- Running one


class Program:
    """A program from its folder.

    Attributes:
      card: what `card.json` says.
      batch_size: images of a call, filled up: every other number compiles anew.
    """

    def __init__(self, card: dict, arguments: Flat, call):
        self.card, self.batch_size = card, _BATCH
        self._arguments, self._call = arguments, call

    def __call__(self, images: np.ndarray) -> Answers:
        """Scores images [n, H, W, 3] of the dtype that the card names."""
        found, size, n = [], self.batch_size, len(images)
        for first in range(0, n, size):
            batch = images[first : first + size]
            filling = np.repeat(batch[-1:], size - len(batch), 0)
            filled = np.concatenate([batch, filling])
            found.append(jax.device_get(self._call(self._arguments, filled)))
        whole = jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *found)
        return Answers(**whole)


def opened(folder: pathlib.Path, card: dict) -> Program:
    """The program in a folder, of which the card is known.

    Raises:
      InputError: this JAX cannot read it.
    """
    try:
        program = export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    except Exception as error:  # whatever the reader meets first
        raise InputError(
            f"{folder / PROGRAM} cannot be read by JAX {jax.__version__} "
            f"({type(error).__name__}); JAX {card['jax']['version']} has written it, "
            f"and {_WINDOW}"
        ) from error
    arguments = jax.device_put(safetensors.numpy.load_file(folder / ARRAYS))
    return Program(card, arguments, jax.jit(program.call))


def load(folder: pathlib.Path) -> Program:
    """A program that was written, every file of it as it was.

    Raises:
      InputError: it is missing, damaged, or of a version that cannot be read.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        version, files = card["format"], card["files"].items()
        digests = {name: file["sha256"] for name, file in files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is missing or damaged; name a folder that python -m jaxad.export "
            "--format stablehlo has made, or make it again"
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
    return opened(folder, card)


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
