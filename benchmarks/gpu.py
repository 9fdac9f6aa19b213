"""What a run takes on a card: every program of it, beside the card's own limits.

  python benchmarks/gpu.py

Writes docs/gpu.md, with the card's name. Where there is no card it says so and writes
nothing. `--smoke` goes through all of it on tiny shapes, on any device, and writes
nothing either.

Measured are images a second of every backbone in float32 and bfloat16; coreset and
search, beside faiss and anomalib on the card where they are installed; the steps of
ReConPatch, alone and together, of ToCoAD and of SPD; and PatchCore from files to scores
on as many generated pictures as MVTec AD has, of 1024 x 1024 pixels, with the share of
reading them. The roofline is measured, too: the fastest product and the fastest pass
over memory of the card. Calls take turns; the fastest of each counts.
"""

import argparse
import importlib.metadata
import importlib.util
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxad import config as config_lib
from jaxad import data, models
from jaxad.bank import memory_bank
from jaxad.detectors import base
from jaxad.devices import costs, slices
from jaxad.devices.programs import Program
from jaxad.run import experiment, programs
from jaxad.run import pipeline as pipeline_lib

_ROOT = pathlib.Path(__file__).parents[1]
_PAGE = _ROOT / "docs" / "gpu.md"
# Pictures of MVTec AD: to train on, and to test, in as many categories.
_PICTURES = 3629, 1725, 15

# Config, its argument, and training images of the largest category.
_RUNS = (
    ("reconpatch_mvtec", "", 391),
    ("tocoad_mvtec", "", 391),
    *(("spd_imagenet", f"base={base}", 100_000) for base in ("simsiam", "moco")),
    *(("spd_imagenet", f"base={base}", 100_000) for base in ("simclr", "supervised")),
)


def config_of(name: str, argument: str, smoke: bool):
    """A config of ours, with what its data would fill in."""
    path = config_lib.find(name)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.get_config(",".join(filter(None, (argument, smoke * "runlocal"))))
    if "texture" in made.method:
        made.method.texture = "images"
    if "classes" in made.method:
        made.method.classes = 1000
    if smoke:
        made.dataset.update(image_size=(64, 64), resize="resize", resize_to=0)
        made.backbone.name = "resnet18"
    return made


def arguments_of(program: Program):
    """Arrays of its shapes: pixels and weights of noise, numbers 0, one step."""
    random = np.random.default_rng(0)

    def make(x):
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            keys = jax.random.split(jax.random.key(0), max(1, int(np.prod(x.shape))))
            return keys.reshape(x.shape)
        if x.weak_type:
            return 1
        if jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.asarray(0.05 * random.random(x.shape, np.float32), x.dtype)
        return jnp.zeros(x.shape, x.dtype)

    made = jax.tree.map(make, program.arguments)
    if program.name.endswith("step"):
        *rest, _, _ = made
        made = (*rest, 0, 1)  # the first step
    return made, jax.tree.map(make, dict(program.options))


def seconds_of(program: Program, seconds: float) -> float:
    """Of the fastest call; arguments that it consumes are made anew."""
    given, options = arguments_of(program)
    best, spent = np.inf, 0.0
    for turn in range(1000):
        # Arrays alone, since what is static has to stay what it is.
        fresh = jax.tree.map(
            lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, given
        )
        jax.block_until_ready([x for x in jax.tree.leaves(fresh)])
        start = time.perf_counter()
        jax.block_until_ready(program.function(*fresh, **options))
        taken = time.perf_counter() - start
        if turn:  # the first one compiles
            best, spent = min(best, taken), spent + taken
        if spent > seconds and turn > 2:
            return best
    return best


def of_programs(smoke: bool) -> Iterator[str]:
    """A row of every program of every run."""
    yield "| run | program | ms a call | GFLOP | share of the roofline |"
    yield "|---|---|--:|--:|--:|"
    for name, argument, images in _RUNS[:2] if smoke else _RUNS:
        (member,) = pipeline_lib.members(config_of(name, argument, smoke))
        chip = slices.here(member.precision)
        pipeline = programs.abstract(member, None)
        found = [
            (one.name, one)
            for one in programs.of(pipeline, 32 if smoke else images)
            if not one.name.endswith("start")
        ]
        if name.startswith("reconpatch"):
            member.method.vectorize = 0
            apart = programs.of(programs.abstract(member, None), 32, heads=4)
            found += [
                (f"{one.name}, 4 together", one)
                for one in apart
                if one.name.endswith("step")
            ]
        for label, one in found:
            cost = costs.of(one, one.lowered().compile(), 1)
            taken = seconds_of(one, 0.0 if smoke else 1.0)
            yield (
                f"| {name} {argument} | {label} | {1e3 * taken:.3g} | "
                f"{cost.operations / 1e9:.4g} | {cost.seconds(chip, 1) / taken:.0%} |"
            )


def of_backbones(smoke: bool) -> Iterator[str]:
    yield "| backbone | pixels | float32, images/s | bfloat16, images/s |"
    yield "|---|--:|--:|--:|"
    for name in ("resnet18",) if smoke else models.names():
        size = (64, 64) if smoke else tuple(models.spec(name).image_size)
        rates = []
        for dtype in ("float32", "bfloat16"):
            config = config_lib.base()
            config.backbone.update(name=name, dtype=dtype)
            config.dataset.image_size = size
            config.batch_size = 2 if smoke else 64
            (member,) = pipeline_lib.members(config)
            made = programs.abstract(member, None)
            given = made.method, made.backbone, {"backbone": made.variables}
            (one,) = base.programs(*given, (*size, 3), config.batch_size, None)
            taken = seconds_of(one, 0.0 if smoke else 1.0)
            rates.append(f"{config.batch_size / taken:,.0f}")
        yield f"| {name} | {size[0]} | {rates[0]} | {rates[1]} |"


def of_bank(smoke: bool) -> Iterator[str]:
    """Coreset and search, beside those who know the same."""
    n, d, size, queries = (
        (2000, 16, 20, 200) if smoke else (214_016, 1024, 2140, 65_536)
    )
    rows = np.random.default_rng(0).random((n, d), np.float32)
    yield f"| {n:,} rows of {d} | jaxad, s | peer, s |"
    yield "|---|--:|--:|"
    on_device = jnp.asarray(rows)

    def timed(function) -> float:
        function()
        start = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - start

    ours = timed(lambda: memory_bank.greedy_coreset(on_device, size))
    yield f"| coreset of {size:,} | {ours:.3g} | {_anomalib(rows, size)} |"
    bank, asked = on_device[: 10 * size], on_device[:queries]
    ours = timed(lambda: memory_bank.nearest(asked, bank, 1))
    theirs = _faiss(rows[: 10 * size], rows[:queries])
    yield f"| search of {queries:,} in {len(bank):,} | {ours:.3g} | {theirs} |"


def _anomalib(rows: np.ndarray, size: int) -> str:
    if importlib.util.find_spec("anomalib") is None:
        return "anomalib is not installed"
    import torch
    from anomalib.models.components.sampling import KCenterGreedy

    features = torch.from_numpy(rows).to("cuda" if torch.cuda.is_available() else "cpu")
    sampler = KCenterGreedy(features, (size + 0.5) / len(rows))
    start = time.perf_counter()
    sampler.select_coreset_idxs()
    taken = time.perf_counter() - start
    return f"{taken:.3g} (anomalib {importlib.metadata.version('anomalib')})"


def _faiss(bank: np.ndarray, queries: np.ndarray) -> str:
    if importlib.util.find_spec("faiss") is None:
        return "faiss is not installed"
    import faiss

    index = faiss.IndexFlatL2(bank.shape[1])
    where = "CPU"
    if hasattr(faiss, "StandardGpuResources"):
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
        where = "GPU"
    index.add(bank)
    index.search(queries, 1)
    start = time.perf_counter()
    index.search(queries, 1)
    return f"{time.perf_counter() - start:.3g} (faiss {faiss.__version__}, {where})"


def of_a_whole_run(smoke: bool) -> Iterator[str]:
    """PatchCore from files to scores, and what reading the files alone takes."""
    train, test, categories = (8, 4, 1) if smoke else _PICTURES
    side = 96 if smoke else 1024
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        _draw(
            root / "images", train // categories, test // categories, categories, side
        )
        config = config_of("patchcore_mvtec", "", smoke)
        config.dataset.update(name="folder", path=str(root / "images"), category="all")
        config.dataset.update(check=False, limit=0)
        config.backbone.weights = "random"  # which takes as long
        config.overlays = 0
        start = time.perf_counter()
        found = experiment.run(config, str(root / "run"))
        whole = time.perf_counter() - start
        (member,) = pipeline_lib.members(config)
        start = time.perf_counter()
        for name in data.categories(member.dataset):
            for split in ("train", "test"):
                loaded = data.load(member.dataset, name, split)
                for _ in data.eval_batches(loaded, member.batch_size):
                    pass
        reading = time.perf_counter() - start
    yield f"| {train + test:,} pictures of {side} x {side} | s |"
    yield "|---|--:|"
    for phase, spent in found["seconds"].items():
        yield f"| {phase} | {spent:.1f} |"
    yield f"| from the command to the report | {whole:.1f} |"
    yield f"| reading alone, on the host | {reading:.1f} |"


def _draw(
    root: pathlib.Path, train: int, test: int, categories: int, side: int
) -> None:
    """Noise on a gradient, as JPEG; half of the test pictures have a square."""
    random = np.random.default_rng(0)
    ramp = np.linspace(60, 180, side)[None, :, None]
    for i in range(categories):
        for kind, count in (("train/good", train), ("test/good", test // 2)):
            _save(root / f"c{i:02}" / kind, count, random, ramp, side, False)
        _save(
            root / f"c{i:02}" / "test/square",
            test - test // 2,
            random,
            ramp,
            side,
            True,
        )


def _save(folder, count, random, ramp, side, bad) -> None:
    folder.mkdir(parents=True)
    for j in range(count):
        pixels = ramp + random.normal(scale=12, size=(side, side, 3))
        if bad:
            pixels[side // 4 : side // 3, side // 4 : side // 3] = 250
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{j:04}.jpg", quality=90)


PARTS = {
    "Backbones": of_backbones,
    "Coreset and search": of_bank,
    "Programs": of_programs,
    "A whole run": of_a_whole_run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true")
    smoke = parser.parse_args().smoke
    device = jax.devices()[0]
    if device.platform != "gpu" and not smoke:
        sys.exit(
            f"JAX has no GPU here, only {device.device_kind}: nothing is measured or "
            "written; install jaxad[cuda12] on a machine with one"
        )
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("jaxad", "jax")
    )
    page = [f"# On a GPU\n\n{device.device_kind}; {versions}.\n"]
    for title, part in PARTS.items():
        page.append(f"## {title}\n")
        for line in part(smoke):
            print(line, flush=True)
            page.append(line)
        page.append("")
    if not smoke:
        _PAGE.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
