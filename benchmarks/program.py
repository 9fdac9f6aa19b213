"""What an exported program costs, and how fast it is beside the detector it is of.

  python benchmarks/program.py --run RUN/CATEGORY [--images 64]

Of StableHLO with every type of bank, and of ONNX: CPU seconds of the export, those of
all threads, with compilation and gate; sizes, and what the gate has measured. Then the
medians of milliseconds an image, in turn: of `jaxad.load(RUN).predict` on arrays of the
run's size, and of the programs, once one image at a time and once in batches of 8. All
of it is compiled before.
"""

import argparse
import importlib
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jaxad  # noqa: E402
from jaxad import data  # noqa: E402
from jaxad.inference import artefact, folder, gate  # noqa: E402
from jaxad.run import identity  # noqa: E402

_BATCH = 8


def exported(run: pathlib.Path, kind: str, bank: str, out: pathlib.Path):
    """A program of a run; prints a row about it."""
    place = folder.find(run)
    config = identity.stored(place.parents[1])
    split = data.load(config.dataset, folder.read_card(place)["category"], "test")
    start = time.process_time()
    card = gate.export(run, out, split, kind=kind, bank=bank)
    seconds = time.process_time() - start
    compared = card["gate"]
    largest, aurocs = compared["largest"], compared["image_auroc"]
    sizes = {name: file["bytes"] / 1e6 for name, file in card["files"].items()}
    samples = sizes.pop(artefact.SAMPLES)
    print(
        f"| {kind}, {bank} | {seconds:.1f} | {sum(sizes.values()):.2f} | {samples:.2f} "
        f"| {largest['score']:.1e} | {largest['map']:.1e} "
        f"| {largest['flipped_verdicts']} of {compared['images']} "
        f"| {aurocs['detector']:.4f} | {aurocs['program']:.4f} |",
        flush=True,
    )
    return importlib.import_module(gate.KINDS[kind]).opened(out, card)


def milliseconds(calls: dict, repeats: int) -> dict[str, float]:
    """The median of each, called in turn."""
    seconds = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(found) for name, found in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--images", type=int, default=64)
    flags = parser.parse_args()
    detector = jaxad.load(flags.run)
    print(
        "| | CPU seconds | MB | samples, MB | score | map | flips | AUROC "
        "| AUROC, program |\n|---|" + "--:|" * 8
    )
    with tempfile.TemporaryDirectory() as scratch:
        programs = {
            f"{kind}, {bank}": exported(
                flags.run, kind, bank, pathlib.Path(scratch, kind, bank)
            )
            for kind, bank in (
                *(("stablehlo", bank) for bank in artefact.BANKS),
                ("onnx", "float32"),
            )
        }
    height, width = programs["onnx, float32"].card["input"]["shape"][1:3]
    shape = (_BATCH, height, width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    detector.batch_size = _BATCH
    for batch, repeats in ((1, flags.images), (_BATCH, flags.images // _BATCH)):
        given = images[:batch]
        alone = given[0] if batch == 1 else given
        calls = {"jaxad.load": lambda alone=alone: detector.predict(alone)}
        for name, made in programs.items():
            made.batch_size = batch
            calls[name] = lambda made=made, given=given: made(given)
        for call in calls.values():
            call()
        found = milliseconds(calls, repeats)
        print(f"\n{batch} at a time, milliseconds an image:")
        for name, value in found.items():
            print(f"  {name:20} {value / batch:.1f}")


if __name__ == "__main__":
    main()
