"""Makes a detector of a run into one that needs nothing else.

  python -m jaxad.export --run RUN/CATEGORY --format folder --out DIR
  python -m jaxad.export --run RUN/CATEGORY --format stablehlo|onnx --out DIR
  python -m jaxad.export --verify DIR

* `folder` holds the detector, its backbone, preprocessing and threshold. Moved to a
  machine without a network, `jaxad.load(DIR)` gives what it gives here.
* `stablehlo` is a program that runs without jaxad, by JAX alone: images of the run's
  size to scores, maps, p-values and verdicts, for CPU, GPU and TPU.
* `onnx` is the same for onnxruntime, of a detector with a memory bank. It needs the
  extra `jaxad[onnx]`.

A program is compared with the detector on up to 200 test images of the run; where a
verdict flips, or a score differs by more than rounding, there is none (exit status 2).
`--verify` compares again, on the machine that has received the program.
"""

from absl import flags

from jaxad import command_line
from jaxad.errors import InputError
from jaxad.inference import places

FORMATS = ("folder", "stablehlo", "onnx")
BANKS = (
    "float32",
    "float16",
    "int8",
)  # as `artefact.BANKS`, which takes long to import

_RUN = flags.DEFINE_string("run", None, "Folder of a run, or of a category inside it.")
_FORMAT = flags.DEFINE_enum("format", "folder", FORMATS, "What to make.")
_OUT = flags.DEFINE_string("out", None, "The folder to make.")
_IMAGES = flags.DEFINE_string(
    "images",
    None,
    "A folder, a CSV or an image to compare the program on, where the run's own test "
    "images are not here.",
)
_BANK = flags.DEFINE_enum(
    "bank",
    "float32",
    BANKS,
    "How the program stores the memory bank; what that costs is measured and told.",
)
_VERIFY = flags.DEFINE_string("verify", None, "A program to compare again, here.")


def main() -> None:
    if _VERIFY.value is not None:
        _verify()
        return
    for flag in (_RUN, _OUT):
        if flag.value is None:
            raise InputError(f"--{flag.name} is missing; see --help")
    places.find(_RUN.value)
    if _FORMAT.value == "folder":
        _refuse("--format folder", _IMAGES, _BANK)
        from jaxad.inference import folder

        folder.copy(_RUN.value, _OUT.value)
        print(f"Detector: {_OUT.value}")
        return
    from jaxad.inference import gate

    card = gate.export(
        _RUN.value, _OUT.value, _images(), kind=_FORMAT.value, bank=_BANK.value
    )
    _tell(card, card["gate"]["largest"])
    aurocs = card["gate"]["image_auroc"]
    if aurocs:
        print(
            f"Image AUROC on these: {aurocs['detector']:.4f} of the detector, "
            f"{aurocs['program']:.4f} of the program"
        )
    for name, file in card["files"].items():
        print(f"{file['bytes'] / 1e6:9.2f} MB  {name}")
    print(f"Program: {_OUT.value}")


def _verify() -> None:
    _refuse("--verify", _RUN, _OUT, _IMAGES, _BANK, _FORMAT)
    command_line.require_there(verify=_VERIFY.value)
    from jaxad.inference import gate

    _tell(*gate.verify(_VERIFY.value))
    print(f"Verified: {_VERIFY.value}")


def _refuse(beside: str, *given: flags.FlagHolder) -> None:
    for flag in given:
        if flag.present:
            raise InputError(f"--{flag.name} has no effect with {beside}; leave it out")


def _images():
    """The images that the program is compared on."""
    from jaxad import config, data
    from jaxad.data import given, images
    from jaxad.inference import folder
    from jaxad.run import identity

    place = places.find(_RUN.value)
    card = folder.read_card(place)
    if _IMAGES.value is None:
        workdir = place.parents[1]
        if not (workdir / "config.json").exists():
            raise InputError(
                f"{place} is outside of a run, and its test images are not known; name "
                "some with --images"
            )
        return data.load(identity.stored(workdir).dataset, card["category"], "test")
    command_line.require_there(images=_IMAGES.value)
    dataset = config.completed(card["members"][0]["config"]).dataset
    items = given.items(_IMAGES.value, max_pixels=dataset.max_pixels)
    return given.split(items, images.Geometry.from_config(dataset))


def _tell(card: dict, largest: dict) -> None:
    import jax

    gate = card["gate"]
    print(
        f"Compared on {gate['images']} images on {jax.default_backend()}: scores "
        f"differ by {largest['score']:.2g} of their size at most, maps by "
        f"{largest['map']:.2g} ({gate['bound']:g} is allowed)"
    )
    if largest["flipped_verdicts"] is not None:
        print(f"p-values differ by {largest['p_value']:.2g} at most, no verdict flips")


if __name__ == "__main__":
    command_line.run(main, "export", ())
