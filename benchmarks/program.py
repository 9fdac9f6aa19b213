"""What an exported program costs, and how fast it is beside the detector it is of.

  python benchmarks/program.py --run RUN/CATEGORY [--images 64]

Of every type of bank: seconds of the export, with and without its gate, sizes, and what
the gate has measured. Then the medians of milliseconds an image, in turn: of
`jaxad.load(RUN).predict` on arrays of the run's size, and of the program, once one
image at a time and once in batches of 8. All of it is compiled before.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jaxad  # noqa: E402
from jaxad import data  # noqa: E402
from jaxad.inference import folder, gate, program  # noqa: E402
from jaxad.run import identity  # noqa: E402

_BATCH = 8


def exported(run: pathlib.Path, bank: str, out: pathlib.Path) -> program.Program:
    """A program of a run; prints a row about it."""
    place = folder.find(run)
    config = identity.stored(place.parents[1])
    split = data.load(config.dataset, folder.read_card(place)["category"], "test")
    loaded = folder.load(run)
    dtype = gate.Samples.from_split(split.take([0])).images.dtype
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        program.write(pathlib.Path(scratch), loaded, dtype, bank)
        written = time.perf_counter() - start
    start = time.perf_counter()
    card = gate.export(run, out, split, bank=bank)
    whole = time.perf_counter() - start
    compared = card["gate"]
    largest, aurocs = compared["largest"], compared["image_auroc"]
    sizes = (
        card["files"][name]["bytes"] / 1e6
        for name in (program.PROGRAM, program.ARRAYS, program.SAMPLES)
    )
    print(
        f"| {bank} | {written:.1f} | {whole:.1f} | "
        + " | ".join(f"{size:.2f}" for size in sizes)
        + f" | {largest['score']:.1e} | {largest['map']:.1e} "
        f"| {largest['flipped_verdicts']} of {compared['images']} "
        f"| {aurocs['detector']:.4f} | {aurocs['program']:.4f} |"
    )
    return program.load(out)


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
        "| bank | program, s | with gate, s | program, MB | arrays, MB | samples, MB "
        "| score | map | flips | AUROC | AUROC, program |\n|---|" + "--:|" * 10
    )
    with tempfile.TemporaryDirectory() as scratch:
        programs = {
            bank: exported(flags.run, bank, pathlib.Path(scratch, bank))
            for bank in program.BANKS
        }
    height, width = programs["float32"].card["input"]["shape"][1:3]
    shape = (_BATCH, height, width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    detector.batch_size = _BATCH
    for batch, repeats in ((1, flags.images), (_BATCH, flags.images // _BATCH)):
        given = images[:batch]
        alone = given[0] if batch == 1 else given
        calls = {"jaxad.load": lambda alone=alone: detector.predict(alone)}
        for bank, made in programs.items():
            made.batch_size = batch
            calls[bank] = lambda made=made, given=given: made(given)
        for call in calls.values():
            call()
        found = milliseconds(calls, repeats)
        print(f"\n{batch} at a time, milliseconds an image:")
        for name, value in found.items():
            print(f"  {name:10} {value / batch:.1f}")


if __name__ == "__main__":
    main()
