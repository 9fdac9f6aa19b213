"""What an exported program costs, and how fast it is beside the detector it is of.

  python benchmarks/program.py --run RUN/CATEGORY [--images 64] [--peer-python PYTHON]
  python benchmarks/program.py --backbone wide_resnet50_2 --entries 16384

Of StableHLO with every type of bank, and of ONNX: CPU seconds of the export, those of
all threads, with compilation and gate; sizes, and what the gate has measured. Then the
medians of milliseconds an image, in turn: of `jaxad.load(RUN).predict` on arrays of the
run's size, and of the programs, once one image at a time and once in batches of 8. All
of it is compiled before.

With --peer-python also those of anomalib's ONNX export in the same onnxruntime, with
the run's weights and memory bank; RUN is one of configs/patchcore_elpv.py. anomalib
2.7.0 fixes its model to two images, so one image costs a call with two.

With --backbone the detector has random weights and a memory bank of random entries: for
seconds and sizes alone.
"""

import argparse
import importlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import elpv_dataset
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jaxad  # noqa: E402
from jaxad import data  # noqa: E402
from jaxad.data import given, images  # noqa: E402
from jaxad.inference import artefact, folder, gate, predictor  # noqa: E402
from jaxad.run import identity  # noqa: E402

_HERE = pathlib.Path(__file__).parent
_BATCH = 8
_FEW = 12  # images of a detector that is made for its size


def made(backbone: str, entries: int, out: pathlib.Path):
    """A detector of random weights and entries, and the images that it is of."""
    config = jaxad.config.base()
    config.backbone.name, config.backbone.weights = backbone, "random"
    config.dataset.image_size, config.coreset.ratio = (224, 224), 0.01
    config.patches.descriptor = "pooled"  # 1024 values a patch
    cells = sorted(
        (pathlib.Path(elpv_dataset.__file__).parent / "data/images").glob("*")
    )
    fitted = jaxad.fit(cells[:_FEW], config)
    (member,), random = fitted.members, np.random.default_rng(0)
    bank = np.asarray(member.state["memory_bank"])
    rows = random.integers(0, len(bank), entries)
    noise = random.normal(size=(entries, bank.shape[1])) * bank.std()
    state = {
        "memory_bank": (bank[rows] + noise).astype(np.float32),
        "owners": np.zeros(entries, np.int32),
    }
    member = member.replace(state=member.scorer.place(state, None))
    loaded = fitted._loaded._replace(members=(member,))
    predictor.Predictor(loaded).save(out)
    geometry = images.Geometry.from_config(loaded.configs[0].dataset)
    return out, given.split(given.items(cells[:_FEW]), geometry)


def of_run(run: str):
    """A run's detector, and its test images."""
    place = folder.find(run)
    config = identity.stored(place.parents[1])
    return place, data.load(config.dataset, folder.read_card(place)["category"], "test")


def exported(place, split, kind: str, bank: str, out: pathlib.Path):
    """A program of a detector; prints a row about it."""
    start, wall = time.process_time(), time.perf_counter()
    card = gate.export(place, out, split, kind=kind, bank=bank)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    compared = card["gate"]
    largest, aurocs = compared["largest"], compared["image_auroc"]
    aurocs = aurocs or dict.fromkeys(("detector", "program"), np.nan)
    sizes = {name: file["bytes"] / 1e6 for name, file in card["files"].items()}
    samples = sizes.pop(artefact.SAMPLES)
    print(
        f"| {kind}, {bank} | {seconds:.1f} | {wall:.1f} | {sum(sizes.values()):.2f} "
        f"| {samples:.2f} | {largest['score']:.1e} | {largest['map']:.1e} "
        f"| {largest['flipped_verdicts']} of {compared['images']} "
        f"| {aurocs['detector']:.4f} | {aurocs['program']:.4f} |",
        flush=True,
    )
    return importlib.import_module(gate.KINDS[kind]).opened(out, card)


def peer(python: str, place, scratch: pathlib.Path):
    """anomalib's model of the same weights and memory bank, on images [b, H, W, 3]."""
    import onnxruntime

    (member,) = folder.load(place).members
    np.save(scratch / "bank.npy", np.asarray(member.state["memory_bank"]))
    out = scratch / "peer"
    subprocess.run(
        [python, str(_HERE / "anomalib_predict.py"), "export"]
        + [str(scratch / "bank.npy"), str(out), "onnx"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        check=True,
    )
    (path,) = out.rglob("*.onnx")
    size = sum(file.stat().st_size for file in path.parent.iterdir()) / 1e6
    session = onnxruntime.InferenceSession(str(path))
    (taken,) = session.get_inputs()
    count = taken.shape[0]
    print(f"\nanomalib's model: {size:.2f} MB, {count} images a call")

    def run(pixels: np.ndarray) -> np.ndarray:
        """Scores."""
        x = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 255
        found = []
        for first in range(0, len(x), count):
            batch = x[first : first + count]
            batch = np.concatenate(
                [batch, np.repeat(batch[-1:], count - len(batch), 0)]
            )
            found.append(session.run(["pred_score"], {taken.name: batch})[0])
        return np.concatenate(found)[: len(x)]

    return run


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
    parser.add_argument("--run")
    parser.add_argument("--backbone")
    parser.add_argument("--entries", type=int, default=16384)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--peer-python")
    flags = parser.parse_args()
    if (flags.run is None) == (flags.backbone is None):
        parser.error("give --run or --backbone")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        if flags.run:
            place, split = of_run(flags.run)
        else:
            place, split = made(flags.backbone, flags.entries, scratch / "made")
        detector = jaxad.load(place)
        entries = detector.members[0].state["memory_bank"]
        print(
            f"memory bank {entries.shape[0]} x {entries.shape[1]}\n\n"
            "| | CPU seconds | seconds | MB | samples, MB | score | map | flips "
            "| AUROC | AUROC, program |\n|---|" + "--:|" * 9
        )
        programs = {
            f"{kind}, {bank}": exported(place, split, kind, bank, scratch / kind / bank)
            for kind, bank in (
                ("stablehlo", "float32"),
                ("onnx", "float32"),
                *(("stablehlo", bank) for bank in artefact.BANKS[1:]),
            )
        }
        theirs = flags.peer_python and peer(flags.peer_python, place, scratch)
        in_turn(detector, programs, theirs, flags.images)


def in_turn(detector, programs: dict, theirs, count: int) -> None:
    """Prints milliseconds an image of all."""
    height, width = detector.size
    pixels = np.random.default_rng(0).integers(0, 256, (_BATCH, height, width, 3))
    pixels = pixels.astype(np.uint8)
    detector.batch_size = _BATCH
    if theirs:
        want = [result.score for result in detector.predict(pixels)]
        gap = np.abs(theirs(pixels) / want - 1).max()
        print(f"its scores differ from the detector's by {gap:.1e} at most")
    for batch, repeats in ((1, count), (_BATCH, count // _BATCH)):
        some = pixels[:batch]
        alone = some[0] if batch == 1 else some
        calls = {"jaxad.load": lambda alone=alone: detector.predict(alone)}
        for name, program in programs.items():
            program.batch_size = batch
            calls[name] = lambda program=program, some=some: program(some)
        if theirs:
            calls["anomalib, onnx"] = lambda some=some: theirs(some)
        for call in calls.values():
            call()
        found = milliseconds(calls, repeats)
        print(f"\n{batch} at a time, milliseconds an image:")
        for name, value in found.items():
            print(f"  {name:20} {value / batch:.1f}")


if __name__ == "__main__":
    main()
