"""ToCoAD's map on descriptors beside no training: what it changes on ELPV.

  python benchmarks/tocoad_map.py [--category mono] [--seeds 0 1 2] [--banks 10]
                                  [--pixel_banks 3] [--workdir DIR]

F is frozen, so that all rows share one feature pass: an untrained detector, whitening,
and whitening and ranking with every seed, as configs/tocoad_elpv.py trains them. Image
AUROC is on the real test images, over banks that start at the same patches in all rows.
Pixel metrics are on its normal images with defects of generators that training never
used. Every number is kept in the workdir as it is found, and not found twice.

The differences to no training: banks are averaged within a seed, the interval of 95 %
(Student's) is over seeds; of whitening, which has nothing random, over banks.
"""

import argparse
import json
import pathlib
import sys

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from configs import tocoad_elpv  # noqa: E402
from jaxad import command_line, data, rng, scores, statistics  # noqa: E402
from jaxad.augment import anomalies  # noqa: E402
from jaxad.bank import memory_bank  # noqa: E402
from jaxad.detectors import base, knn  # noqa: E402
from jaxad.metrics import PixelMetrics, auroc  # noqa: E402
from jaxad.run import features, fit  # noqa: E402
from jaxad.run import pipeline as pipeline_lib  # noqa: E402
from jaxad.run.passes import Passes  # noqa: E402

# Training draws Perlin noise.
HELD_OUT = {"cutpaste": anomalies.cutpaste, "nsa": anomalies.nsa}
ROWS = {
    "no training": (),
    "whitening and ranking": ("whitening", "ranking"),
    "whitening": ("whitening",),
}


def pipeline_of(arguments, stages, seed: int):
    config = tocoad_elpv.get_config(f"reading=map,category={arguments.category}")
    command_line.use_compilation_cache(config)
    config.method.stages, config.seed = stages, seed
    config.feature_cache = str(arguments.workdir / "features")
    (config,) = pipeline_lib.members(config)
    return pipeline_lib.load(config)


def defects(test: data.Split, generator) -> tuple[np.ndarray, np.ndarray]:
    """The normal images with a defect each [n, H, W, 3], and its masks [n, H, W]."""
    normal = test.normal()
    images = np.stack([normal[i]["image"] for i in range(len(normal))])
    keys = rng.per_example(rng.stream(0, "held-out anomalies"), np.arange(len(images)))
    if generator is anomalies.nsa:
        made = jax.jit(jax.vmap(generator))(keys, images, np.roll(images, 1, 0))
    else:
        made = jax.jit(jax.vmap(generator))(keys, images)
    return tuple(np.asarray(x) for x in made)


class Frozen:
    """Descriptors before any map: of both splits, and of generated defects."""

    def __init__(self, arguments):
        pipeline = pipeline_of(arguments, (), 0)
        self.config = pipeline.config
        self.train = data.load(self.config.dataset, arguments.category, "train")
        self.train = self.train.normal()
        test = data.load(self.config.dataset, arguments.category, "test")
        params = {"backbone": pipeline.variables}

        def describe(images):
            return base.features(pipeline.method, pipeline.backbone, params, images)

        size = self.config.batch_size

        def all_of(split):
            return features.extract(describe, split, size, label=split.name)

        def of(images):
            padded = np.pad(images, ((0, -len(images) % size), *[(0, 0)] * 3))
            parts = [
                describe(part) for part in padded.reshape(-1, size, *images.shape[1:])
            ]
            return np.concatenate(parts)[: len(images)]

        self.rows, self.test = all_of(self.train), all_of(test)
        self.labels = test.labels
        self.held_out = {}
        for name, generator in HELD_OUT.items():
            images, masks = defects(test, generator)
            self.held_out[name] = of(images), masks


def patch_scores(described: np.ndarray, bank) -> np.ndarray:
    distances, _ = memory_bank.nearest(
        described.reshape(-1, described.shape[-1]), bank, 1
    )
    return np.asarray(distances).reshape(described.shape[:3])


def measured(frozen: Frozen, kernel, start: int, pixels: bool) -> dict[str, float]:
    """The metrics of one bank, whose coreset begins at the patch `start`."""

    def mapped(x):
        return x if kernel is None else x @ kernel

    rows = mapped(frozen.rows).reshape(-1, frozen.rows.shape[-1])
    size = knn.coreset_size(frozen.config.coreset.ratio, len(rows))
    bank = rows[memory_bank.greedy_coreset(rows, size, start=start)]
    highest = patch_scores(mapped(frozen.test), bank).max((1, 2))
    found = {"image AUROC": auroc(highest, frozen.labels)}
    for name, (described, masks) in frozen.held_out.items() if pixels else ():
        maps = scores.anomaly_map(
            patch_scores(mapped(described), bank),
            masks.shape[1:],
            sigma=frozen.config.detector.blur_sigma,
        )
        metrics = PixelMetrics()
        metrics.update(np.asarray(maps), masks.astype(np.uint8))
        values = metrics.compute()
        found[f"{name} pixel AUROC"] = values["pixel_auroc"]
        found[f"{name} AUPRO 0.3"] = values["aupro_0.3"]
    return found


def learn(arguments, train: data.Split, stages, seed: int) -> np.ndarray | None:
    """The map that the stages of a row learn."""
    if not stages:
        return None
    folder = arguments.workdir / f"{len(stages)}-{seed}"
    with Passes(folder / "unfinished", every=60) as passes:
        pipeline = pipeline_of(arguments, stages, seed)
        params, _ = fit.learn(
            pipeline, train, folder, passes, {}, label=arguments.category
        )
    return np.asarray(params["map"])


def table(arguments) -> None:
    frozen, found = Frozen(arguments), {}
    patches = frozen.rows[..., 0].size
    starts = np.random.default_rng(0).integers(0, patches, arguments.banks)
    for row, stages in ROWS.items():
        for seed in arguments.seeds if "ranking" in stages else arguments.seeds[:1]:
            kernel = learn(arguments, frozen.train, stages, seed)
            for i, start in enumerate(starts):
                path = arguments.workdir / f"{len(stages)}-{seed}-{i}.json"
                pixels = i < arguments.pixel_banks
                cell = json.loads(path.read_text()) if path.exists() else {}
                if not cell or pixels and len(cell) == 1:
                    cell = measured(frozen, kernel, int(start), pixels)
                    path.write_text(json.dumps(cell))
                found.setdefault(row, {})[seed, i] = cell
            tell(found, row, seed)
    compare(found)


def tell(found, row: str, seed: int) -> None:
    cells = [cell for (one, _), cell in found[row].items() if one == seed]
    numbers = []
    for metric in cells[0]:
        values = [cell[metric] for cell in cells if metric in cell]
        spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        numbers.append(f"{metric} {np.mean(values):.4f}{spread}")
    print(f"{row}, seed {seed}: {', '.join(numbers)} (over banks)", flush=True)


def compare(found) -> None:
    """The table: means, and differences to the first row and to whitening alone."""
    baseline, learnt, whitened = ROWS
    metrics = next(iter(found[baseline].values()))
    print("| | " + " | ".join(metrics) + " |\n|" + "---|" * (len(metrics) + 1))
    for row, cells in found.items():
        line = []
        for metric in metrics:
            values = [cell[metric] for cell in cells.values() if metric in cell]
            gain = (
                "" if row == baseline else f" ({gained(found, row, baseline, metric)})"
            )
            line.append(f"{np.mean(values):.4f}{gain}")
        print(f"| {row} | {' | '.join(line)} |")
    line = [gained(found, learnt, whitened, metric) for metric in metrics]
    print(f"| the second less the third | {' | '.join(line)} |")


def gained(found, row: str, other: str, metric: str) -> str:
    """The paired difference to a row that has one seed, and its interval."""
    ((seed, _), *_) = found[other]
    gains: dict[int, list[float]] = {}
    for (one, bank), cell in found[row].items():
        if metric in cell:
            gain = cell[metric] - found[other][seed, bank][metric]
            gains.setdefault(one, []).append(gain)
    by_seed = [np.mean(values) for values in gains.values()]
    mean = statistics.mean(by_seed if len(by_seed) > 1 else gains[seed])
    if mean.low is None:
        return f"{mean.value:+.4f}"
    return f"{mean.value:+.4f}, {mean.low:+.4f} to {mean.high:+.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--category", choices=("mono", "poly"), default="mono")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--banks", type=int, default=10)
    parser.add_argument("--pixel_banks", type=int, default=3)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/tocoad_map")
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    table(arguments)


if __name__ == "__main__":
    main()
