"""A fitted detector as an ONNX model: `inference.artefact` for other runtimes.

  model.onnx   all of it, opset `onnx_graph.OPSET`; the number of images is free

The search has a form of its own here, since ONNX has no loops worth running: products
find the nearest entry, and its distance comes from direct differences. Entries that lie
equally far but for rounding may change places, which changes a distance by as little.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxad import arrays
from jaxad.detectors import averaged, base
from jaxad.errors import InputError, writing
from jaxad.inference import artefact
from jaxad.inference.artefact import Answers
from jaxad.inference.folder import Loaded

try:
    import onnxruntime

    from jaxad.inference import onnx_graph
except ImportError as error:
    raise InputError(
        f"--format onnx needs onnx and onnxruntime, and {error.name} is not installed; "
        "install them with pip install 'jaxad[onnx]'"
    ) from error

MODEL = "model.onnx"
_BANK = "state/memory_bank"
_BATCH = 8
_LIMIT = 2**31 - 2**20  # bytes that a file of ONNX may have, and some for its nodes


def write(folder: pathlib.Path, loaded: Loaded, dtype: np.dtype, bank: str) -> dict:
    """Writes the model; arguments and result as for `program.write`.

    Raises:
      InputError: the detector has no ONNX form.
    """
    (detector,), (config,) = loaded.members, loaded.configs
    if _BANK.rpartition("/")[2] not in detector.state:
        raise InputError(
            f"config.detector.name={config.detector.name} has no ONNX form, only a "
            "memory bank has; --format stablehlo takes it"
        )
    if config.detector.image_score == "reweighted":
        raise InputError(
            "config.detector.image_score=reweighted has no ONNX form; --format "
            "stablehlo takes it"
        )
    if config.backbone.dtype != "float32":
        raise InputError(
            f"config.backbone.dtype={config.backbone.dtype} has no ONNX form, which "
            "computes in float32; --format stablehlo takes it"
        )
    flat = artefact.stored(loaded, bank)
    if (size := sum(x.nbytes for x in flat.values())) > _LIMIT:
        raise InputError(
            f"weights and memory bank have {size / 2**30:.1f} GiB, and a file of ONNX "
            "less than 2; --bank float16 halves the bank, or choose --format stablehlo"
        )
    options = dict(detector.options)

    def apply(given: dict, images: jax.Array) -> dict[str, jax.Array]:
        tree = arrays.nest(given)
        one = detector.replace(params=tree["params"])
        described = base.describe_with(one, artefact.in_unit(images))
        state = artefact.restored(tree["state"])
        if detector.method.log_odds:
            patches = _distances(described[..., :-1], state["memory_bank"])
            patches = averaged.averaged(state, patches, described[..., -1])
        else:
            patches = _distances(described, state["memory_bank"])
        scored = base.Scored(patches, base.image_score(options, patches))
        return artefact.answered(one, tree, scored, images.shape[1:3])

    kept = {name for name in flat if name.startswith(_BANK)}
    image_size = tuple(config.dataset.image_size)
    model = onnx_graph.model(apply, flat, image_size, dtype, kept)
    with writing(folder):
        (folder / MODEL).write_bytes(model.SerializeToString())
    return {
        "onnx": {
            "opset": onnx_graph.OPSET,
            "ir_version": model.ir_version,
            "onnxruntime": onnxruntime.__version__,
        }
    }


def _distances(described: jax.Array, bank: jax.Array) -> jax.Array:
    """Of every patch to its nearest entry, [b, h, w]."""
    rows = described.reshape(-1, described.shape[-1])
    origin = bank.mean(0)[None]  # near to all, so that products lose few digits
    centred = bank - origin
    far = (centred**2).sum(1)[None] - 2 * ((rows - origin) @ centred.T)
    nearest = bank.at[far.argmin(1)].get(mode="promise_in_bounds")
    return jnp.sqrt(((rows - nearest) ** 2).sum(1)).reshape(described.shape[:3])


class Model:
    """A model from its folder; attributes as those of `program.Program`."""

    def __init__(self, card: dict, session: onnxruntime.InferenceSession):
        self.card, self.batch_size = card, _BATCH
        self._session = session
        self._names = [output.name for output in session.get_outputs()]

    def __call__(self, images: np.ndarray) -> Answers:
        """Scores images [n, H, W, 3] of the dtype that the card names."""
        found = []
        for first in range(0, len(images), self.batch_size):
            batch = images[first : first + self.batch_size]
            found.append(self._session.run(None, {"images": batch}))
        whole = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        return Answers(**dict(zip(self._names, whole, strict=True)))


def opened(folder: pathlib.Path, card: dict) -> Model:
    """The model in a folder, of which the card is known.

    Raises:
      InputError: this onnxruntime cannot read it.
    """
    try:
        session = onnxruntime.InferenceSession(
            folder / MODEL, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # of whatever class the runtime has for it
        raise InputError(
            f"{folder / MODEL} cannot be read by onnxruntime "
            f"{onnxruntime.__version__} ({str(error).splitlines()[0]}); install a "
            "later one, or export again"
        ) from error
    return Model(card, session)
