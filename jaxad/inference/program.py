"""A fitted detector as a program of JAX: `inference.artefact` in StableHLO.

  program.bin          StableHLO, as `jax.export` serialises it
  arrays.safetensors   its first argument: weights, bank, calibration scores

The program runs on a CPU, a GPU or a TPU. Its products in the backbone are those of
`config.precision`, and all others float32's on every one of them: of bfloat16 products,
which a TPU would prefer, a bank's distances keep half of their digits.
"""

import pathlib

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import safetensors.numpy
from jax import export

from jaxad import arrays
from jaxad.detectors import base
from jaxad.errors import InputError, writing
from jaxad.inference import artefact
from jaxad.inference.artefact import Answers, Flat
from jaxad.inference.folder import Loaded

PROGRAM, ARRAYS = "program.bin", "arrays.safetensors"
PLATFORMS = ("cpu", "cuda", "tpu")
_BATCH = 8
# docs.jax.dev/en/latest/export/export.html, "Compatibility guarantees".
_WINDOW = (
    "JAX promises to run a program with versions that were built up to six months "
    "after the one that wrote it, and up to three weeks before; what counts is the day "
    "of the jaxlib release"
)


def write(folder: pathlib.Path, loaded: Loaded, dtype: np.dtype, bank: str) -> dict:
    """Writes the program and its arrays.

    Args:
      folder: there already.
      loaded: what `artefact.require_possible` has found to be possible.
      dtype, bank: as for `artefact.described`.

    Returns:
      What the card says of this kind.
    """
    (detector,), (config,) = loaded.members, loaded.configs
    flat = artefact.stored(loaded, bank)
    exported, used = _exported(detector, flat, tuple(config.dataset.image_size), dtype)
    with writing(folder):
        (folder / PROGRAM).write_bytes(exported.serialize())
        safetensors.numpy.save_file(
            {name: np.asarray(flat[name], order="C") for name in used}, folder / ARRAYS
        )
    return {
        "platforms": list(exported.platforms),
        "jax": {
            "version": jax.__version__,
            "jaxlib": jaxlib.version.__version__,
            "calling_convention": exported.calling_convention_version,
            "window": _WINDOW,
        },
    }


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
    state = artefact.restored(tree.get("state", {}))
    detector = detector.replace(params=tree["params"], state=state)
    described = base.describe_with(detector, artefact.in_unit(images))

    # An image at a time: a search needs to know how many patches there are.
    def score(one: jax.Array) -> base.Scored:
        found = detector.scorer.score(detector.state, one[None])
        return jax.tree.map(lambda x: x[0], found)

    scored = jax.lax.map(score, described)
    return artefact.answered(detector, tree, scored, images.shape[1:3])


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
      InputError: this JAX cannot read it, or has other devices.
    """
    try:
        program = export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    except Exception as error:  # whatever the reader meets first
        raise InputError(
            f"{folder / PROGRAM} cannot be read by JAX {jax.__version__} "
            f"({type(error).__name__}); JAX {card['jax']['version']} has written it, "
            f"and {_WINDOW}"
        ) from error
    here = export.default_export_platform()
    if here not in program.platforms:
        raise InputError(
            f"{folder / PROGRAM} is for {', '.join(program.platforms)}, and JAX has "
            f"{here} here; JAX_PLATFORMS=cpu takes the CPU"
        )
    arguments = jax.device_put(safetensors.numpy.load_file(folder / ARRAYS))
    return Program(card, arguments, jax.jit(program.call))
