"""How many images a host must read to keep its TPU chips busy, and what that takes.

  python benchmarks/pod_input.py [--images N] [--chip v5e]

First what an image takes of a core, in seconds of the processor and so on a busy
machine too: PNGs of 1024 x 1024 from array_record files and JPEGs of ImageNet's size
from a folder, decoded by the threads of `jaxad.data`; by as many threads in two worker
processes of grain; and taken from `config.dataset.cache`. Then the images a second that
4 and 8 chips take at their published peak, by the operations in the programs of our
configs, float32 products at `config.precision`: no step is faster, so that a host that
reads as many never holds them up; and how many such cores it needs for 8.
"""

import argparse
import multiprocessing
import os
import pathlib
import resource
import tempfile
import time
from typing import NamedTuple

import grain
import input as files
import numpy as np
import pretrain_input
from absl import flags
from gpu import config_of

from jaxad import config as config_lib
from jaxad import data
from jaxad.devices import costs, slices
from jaxad.run import decoded, programs
from jaxad.run import pipeline as pipeline_lib

_BATCH = 16
_WORKERS = 2
# Batches at the start, and at the end, that do not count; and how many there are.
_START, _BATCHES = 8, {"png": 24, "jpeg": 96}


class Demand(NamedTuple):
    """A program that takes images.

    Attributes:
      config, argument: of ours.
      program: its name.
      kind: of the images, as `cpu_seconds` calls them.
    """

    config: str
    argument: str
    program: str
    kind: str


DEMANDS = (
    Demand("patchcore_mvtec", "", "features", "png"),
    Demand("tocoad_mvtec", "", "dnp: step", "png"),
    Demand("tocoad_mvtec", "", "ncl: step", "png"),
    Demand("spd_imagenet", "base=simsiam", "spd: step", "jpeg"),
    Demand("spd_imagenet", "base=moco", "spd: step", "jpeg"),
)


def needed(one: Demand, chip: slices.Chip) -> float:
    """Images a second of one chip."""
    (member,) = pipeline_lib.members(config_of(one.config, one.argument, False))
    pipeline = programs.abstract(member, None)
    found = {each.name: each for each in programs.of(pipeline, 10_000)}
    if one.program not in found:
        raise SystemExit(f"{one.program} is none of {', '.join(found)}")
    images = pipeline.images_a_call
    for stage in pipeline.stages:
        if one.program.startswith(stage.name):
            images = stage.batch_size
    counted = found[one.program].lowered("tpu").cost_analysis()["flops"]
    passes = costs.PASSES[member.precision]
    return images / (passes * counted / chip.operations)


def used() -> float:
    """Seconds of the processor so far, of this process and its living children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ticks = os.sysconf("SC_CLK_TCK")
    children = 0
    for child in multiprocessing.active_children():
        fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rsplit(")")[1]
        children += sum(map(int, fields.split()[11:13]))
    return own.ru_utime + own.ru_stime + children / ticks


def rate(split, batches: int, workers: int = 0) -> tuple[float, float]:
    """(images a second, seconds of the processor an image), the start aside."""
    rows = range(batches * _BATCH)
    if workers:
        items = grain.MapDataset.source(rows).map(lambda i: split[i % len(split)])
        options = grain.multiprocessing.MultiprocessingOptions(num_workers=workers)
        # Two batches ahead, as `jaxad.data` reads.
        ahead = grain.ReadOptions(
            num_threads=data.THREADS, prefetch_buffer_size=2 * _BATCH
        )
        read = items.to_iter_dataset(ahead).batch(_BATCH, batch_fn=_stack)
        read = iter(read.mp_prefetch(options))
    else:
        order = np.arange(len(rows)).reshape(-1, _BATCH) % len(split)
        read = data.batches_of(split, order)
    for _ in range(_START):
        next(read)
    start, before, count = time.perf_counter(), used(), 0
    for _ in range(batches - 2 * _START):  # while its workers live
        next(read)
        count += _BATCH
    return count / (time.perf_counter() - start), (used() - before) / count


def _stack(items):
    return {"image": np.stack([item["image"] for item in items])}


def splits(folder: pathlib.Path, images: int) -> dict[str, data.Split]:
    files.write_images(folder / "png", images, 1024)
    pretrain_input.write_images(folder / "jpeg", images, (375, 500))
    png, jpeg = config_lib.base().dataset, config_lib.base().dataset
    png.update(name="mvtec_ad", manual_dir=str(folder / "png"), image_size=(256, 256))
    png.update(data_dir=str(folder / "prepared"))
    jpeg.update(name="folder", path=str(folder / "jpeg"), image_size=(256, 256))
    jpeg.update(resize="resize_crop", resize_to=256)
    return {"png": data.load(png, "bottle", "train"), "jpeg": data.corpus(jpeg)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--chip", choices=slices.CHIPS, default="v5e")
    arguments = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # which grain's workers ask for
    chip, seconds = slices.CHIPS[arguments.chip], {}
    print("| images | read by | images/s here | ms of a core an image |")
    print("|---|---|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for kind, split in splits(folder, arguments.images).items():
            kept = decoded.kept(split, str(folder / "cache"), kind)
            for how, given, workers in (
                ("threads", split, 0),
                (f"{_WORKERS} processes", split, _WORKERS),
                ("config.dataset.cache", kept, 0),
            ):
                found, seconds[kind, how] = rate(given, _BATCHES[kind], workers)
                cost = 1e3 * seconds[kind, how]
                print(f"| {kind} | {how} | {found:.0f} | {cost:.2f} |", flush=True)
    print(
        f"\n| {arguments.chip}, at best | images/s, 4 chips | 8 chips | cores for 8 | "
        "with the cache |\n|---|--:|--:|--:|--:|"
    )
    for one in DEMANDS:
        images = needed(one, chip)
        cores = (
            8 * images * seconds[one.kind, how]
            for how in ("threads", "config.dataset.cache")
        )
        name = " ".join(filter(None, (one.config, one.argument)))
        counts = 4 * images, 8 * images, *cores
        cells = " | ".join(f"{count:,.0f}" for count in counts)
        print(f"| {name}, {one.program} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
