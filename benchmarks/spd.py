"""SPD on ELPV, small: each base alone and with the term, over seeds.

  python benchmarks/spd.py run [--workdir DIR] [--seeds 0 1 2] [--out FILE]
  python benchmarks/spd.py table [--out FILE]

`run` pre-trains a narrow ResNet on the normal training cells of both types, with every
base and weight of the term, and has PaDiM and PatchCore of its features tell defective
monocrystalline cells. Every finished run adds a line to --out, and the lines that are
there are not run again, so it can be stopped at any time; a run that was stopped goes
on from its checkpoint. `table` prints what --out holds, with the differences that the
term makes within a seed and their 95 % intervals.

Views of 32 x 32 are cut from cells brought to 64 x 64, so that a step takes a CPU a
sixth of a second. Rates were chosen on the training cells: the base's loss has to
fall, and no test image had a say.
"""

import argparse
import csv
import pathlib
import sys
import time

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from configs import spd_folder  # noqa: E402
from jaxad import config as config_lib  # noqa: E402
from jaxad import data, statistics  # noqa: E402
from jaxad.devices import compilation  # noqa: E402
from jaxad.run import experiment, pretrain, results  # noqa: E402

ETAS = (0.0, 0.1, 1.0)
# What differs from the recipes: a batch of 64 and 200 steps need other rates.
BASES = {
    "simsiam": dict(learning_rate=0.3),
    "moco": dict(learning_rate=0.3, queue=512, groups=4, momentum=0.99),
    "simclr": dict(optimiser="sgd"),
    "supervised": {},
}
_SIDE = 128  # of the cells as they are kept
_PROBES = (
    *("cosine_to_positive", "cosine_to_negative", "knn_accuracy", "linear_accuracy"),
    *("rank", "spread"),
)
COLUMNS = (
    *("base", "eta", "seed", "steps", "cpu_seconds"),
    *("base_loss", "z_to_positive", "z_to_negative"),
    *_PROBES,
    *("padim", "patchcore"),
)


def prepare(folder: pathlib.Path) -> None:
    """The cells of both types with their split, as small PNGs in `folder`."""
    if folder.exists():
        return
    config = config_lib.base().dataset
    config.update(name="elpv", image_size=(_SIDE, _SIDE))
    partial = folder.with_name(f".{folder.name}.tmp")
    for category in ("mono", "poly"):
        for part in ("train", "test"):
            split = data.load(config, category, part)
            for item in (split[i] for i in range(len(split))):
                kind = "defective" if item["label"] else "good"
                name = pathlib.Path(item["filename"]).with_suffix(".png").name
                path = partial / category / part / kind / name
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.round(255 * item["image"]).astype(np.uint8)
                Image.fromarray(pixels).save(path)
    partial.rename(folder)


def pretraining(cells, base: str, eta: float, seed: int):
    """The config of a run that leaves a backbone."""
    config = spd_folder.get_config(f"path={cells},base={base},eta={eta}")
    config.seed, config.batch_size = seed, 64
    config.dataset.image_size = (64, 64)
    config.backbone.name = "benchmarks.narrow_resnet"
    config.method.update(batch_size=64, epochs=20, learning_rate=0.2, bottleneck=64)
    config.method.update(view_size=(32, 32))
    config.method.projector = (256,) * len(config.method.projector)
    # Cells are grey and small: of milder changes all bases learn in so few steps.
    config.method.strong.update(scale=(0.3, 0.9), jitter=(0.2, 0.2, 0.2, 0.05))
    config.method.update(BASES[base])
    config.train.log_every = 11
    return config


def detection(cells, detector: str, weights: str, seed: int):
    """The config of a detector on the features of such a backbone."""
    config = config_lib.base()
    config.seed, config.batch_size, config.overlays = seed, 64, 0
    config.dataset.update(name="folder", path=str(cells), category="mono")
    config.dataset.image_size = (_SIDE, _SIDE)
    config.backbone.update(name="benchmarks.narrow_resnet", weights=weights)
    config.detector.name, config.threshold.calibration = detector, "none"
    if detector == "padim":
        config.backbone.taps = ("layer1", "layer2", "layer3")
    return config


def measure(arguments, base: str, eta: float, seed: int) -> dict:
    """One row: pre-training, its probes, and both detectors."""
    cells, start = arguments.workdir / "cells", time.process_time()
    name = f"{base}-{eta}-{seed}"
    row, weights = dict.fromkeys(COLUMNS, ""), "random"
    row |= {"base": base, "eta": eta, "seed": seed, "steps": 0}
    folder = arguments.workdir / name
    if base == "none":
        # The probes before training are those of random weights.
        config = pretraining(cells, "simsiam", 0.0, seed)
        config.method.epochs = 1
        probes = experiment.run(config, str(folder))["probes"]["before"]
    else:
        outcome = experiment.run(pretraining(cells, base, eta, seed), str(folder))
        row["steps"], probes = outcome["backbone"]["steps"], outcome["probes"]["after"]
        weights = str(folder / pretrain.WEIGHTS)
        lines = (folder / "spd/metrics.jsonl").read_text().splitlines()[-3:]
        curves = [results.json.loads(line) for line in lines]

        def last(curve: str) -> float | str:
            if curve not in curves[0]:
                return ""
            return float(np.mean([line[curve] for line in curves]))

        row["base_loss"] = last("base")
        row["z_to_positive"] = last("cosine_to_positive")
        row["z_to_negative"] = last("cosine_to_negative")
    row |= {probe: probes[probe] for probe in _PROBES}
    for detector in ("padim", "patchcore"):
        config = detection(cells, detector.replace("patchcore", "knn"), weights, seed)
        found = experiment.run(config, str(arguments.workdir / f"{name}-{detector}"))
        row[detector] = found["mean"]["image_auroc"]
    row["cpu_seconds"] = round(time.process_time() - start)
    return row


def run(arguments) -> None:
    compilation.use_cache(str(arguments.workdir / "xla"))
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    prepare(arguments.workdir / "cells")
    done = {(row["base"], row["eta"], row["seed"]) for row in rows(arguments.out)}
    for seed in arguments.seeds:
        wanted = [("none", 0.0)]
        wanted += [(base, eta) for base in arguments.bases for eta in arguments.etas]
        for base, eta in wanted:
            if (base, eta, seed) in done:
                continue
            row = measure(arguments, base, eta, seed)
            new = not arguments.out.exists()
            with open(arguments.out, "a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(
                    {k: f"{v:.5g}" if isinstance(v, float) else v
                     for k, v in row.items()}
                )  # fmt: skip
            print({k: row[k] for k in ("base", "eta", "seed", "padim", "patchcore")})


def rows(path: pathlib.Path) -> list[dict]:
    """What is finished."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        for name in COLUMNS[1:]:
            row[name] = float(row[name]) if row[name] else None
        row["seed"] = int(row["seed"])
    return found


_SHOWN = {
    "base_loss": "base's loss",
    "z_to_positive": "z, to positive",
    "z_to_negative": "z, to negative",
    "cosine_to_positive": "to positive",
    "cosine_to_negative": "to negative",
    "gap": "gap",
    "knn_accuracy": "kNN",
    "linear_accuracy": "linear",
    "rank": "rank",
    "padim": "PaDiM",
    "patchcore": "PatchCore",
}


def table(arguments) -> None:
    found = rows(arguments.out)
    for row in found:
        row["gap"] = row["cosine_to_positive"] - row["cosine_to_negative"]
    order = ["none", *BASES]
    settings = {(row["base"], row["eta"]) for row in found}
    settings = sorted(settings, key=lambda one: (order.index(one[0]), one[1]))

    def of(base, eta, column, seeds=None):
        values = {
            row["seed"]: row[column]
            for row in found
            if (row["base"], row["eta"]) == (base, eta) and row[column] is not None
        }
        return values if seeds is None else [values[seed] for seed in seeds]

    print("| base | eta | seeds | " + " | ".join(_SHOWN.values()) + " |")
    print("|---|--:|--:|" + "--:|" * len(_SHOWN))
    for base, eta in settings:
        cells = [
            f"{statistics.mean(list(values.values())).value:.3f}" if values else ""
            for values in (of(base, eta, column) for column in _SHOWN)
        ]
        count = len(of(base, eta, "padim"))
        print(f"| {base} | {eta} | {count} | " + " | ".join(cells) + " |")

    compared = ("gap", "cosine_to_positive", "cosine_to_negative", "padim", "patchcore")
    names = " | ".join(_SHOWN[column] for column in compared)
    print(f"\n| base | eta less 0 | seeds | {names} |")
    print("|---|--:|--:|" + "---|" * len(compared))
    for base, eta in settings:
        if not eta:
            continue
        cells = []
        for column in compared:
            ours, alone = of(base, eta, column), of(base, 0.0, column)
            seeds = sorted(ours.keys() & alone.keys())
            if len(seeds) < 2:
                cells.append("")
                continue
            apart = statistics.paired_difference(
                of(base, 0.0, column, seeds), of(base, eta, column, seeds)
            )
            cells.append(f"{apart.value:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})")
        print(f"| {base} | {eta} | {len(seeds)} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs/spd_small")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks/spd.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    parser.add_argument("--etas", type=float, nargs="+", default=list(ETAS))
    arguments = parser.parse_args()
    run(arguments) if arguments.what == "run" else table(arguments)


if __name__ == "__main__":
    main()
