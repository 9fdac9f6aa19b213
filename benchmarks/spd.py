"""SPD on ELPV, small: each base alone and with the term, over seeds.

  python benchmarks/spd.py run [--workdir DIR] [--seeds 0 1 2] [--out FILE]
  python benchmarks/spd.py table [--out FILE]

`run` pre-trains a narrow ResNet on the normal training cells of both types, with every
base and weight of the term, and tries what it leaves on monocrystalline cells: PaDiM
and PatchCore; classifiers fine-tuned on 5, 10 and all labelled cells; a U-Net on cells
with generated defects. Views of 32 x 32 are cut from cells brought to 64 x 64, so that
a step takes a CPU a sixth of a second.

Every finished run is a line of --out. Lines that are complete are not run again, so it
can be stopped at any time; a run that was stopped goes on from its checkpoint. `table`
prints what --out holds, with the differences that the term makes within a seed and
their 95 % intervals.

Rates were chosen on the training cells: the loss has to fall, and no test image had a
say. No cell that tests has been pre-trained on: the good ones that train, here and
with labels, are those of the data set's own division, and of the defective ones, which
no pre-training sees, 60 % train with labels.
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

import generated_defects  # noqa: E402

from configs import spd_folder, two_class_folder  # noqa: E402
from jaxad import config as config_lib  # noqa: E402
from jaxad import data, statistics  # noqa: E402
from jaxad.data import protocol  # noqa: E402
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
_BACKBONE = "benchmarks.narrow_resnet"
_SIDE = 128  # of the cells as they are kept
_PROBES = (
    *("cosine_to_positive", "cosine_to_negative", "knn_accuracy", "linear_accuracy"),
    *("rank", "spread"),
)
# AU-ROCs, and AU-PRs: of images, the last of pixels.
DETECTORS = ("padim", "patchcore")
LABELLED = ("shots5", "shots10", "highshot", "segmentation")
_DRAWS = 3  # of few shots, with every seed others
COLUMNS = (
    *("base", "eta", "seed", "steps", "cpu_seconds"),
    *("base_loss", "z_to_positive", "z_to_negative"),
    *_PROBES,
    *DETECTORS,
    *LABELLED,
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


def divide(workdir: pathlib.Path, seeds) -> None:
    """CSVs in `workdir` of the mono cells that train with labels, and that test."""

    def of(part: str, kind: str) -> list:
        found = sorted((workdir / "cells/mono" / part / kind).iterdir())
        return [path.relative_to(workdir) for path in found]

    defective = np.random.default_rng(0).permutation(of("test", "defective"))
    count = round(protocol.SHARES["2cls_highshot"] * len(defective))
    train = [(path, 0) for path in of("train", "good")]
    train += [(path, 1) for path in sorted(defective[:count])]
    test = [(path, 0) for path in of("test", "good")]
    test += [(path, 1) for path in sorted(defective[count:])]
    lists, labels = {"highshot": train}, [label for _, label in train]
    for shots in (5, 10):
        for seed in seeds:
            for draw in range(_DRAWS):
                number = _DRAWS * seed + draw
                rows = protocol.few_shot("mono", number, shots, labels)
                lists[f"shots{shots}-{number}"] = [train[row] for row in rows]
    for name, chosen in lists.items():
        with open(workdir / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "split", "label"))
            writer.writerows((path, "train", label) for path, label in chosen)
            writer.writerows((path, "test", label) for path, label in test)


def pretraining(cells, base: str, eta: float, seed: int):
    """The config of a run that leaves a backbone."""
    config = spd_folder.get_config(f"path={cells},base={base},eta={eta}")
    config.seed, config.batch_size = seed, 64
    config.dataset.image_size = (64, 64)
    config.backbone.name = _BACKBONE
    config.method.update(batch_size=64, epochs=20, learning_rate=0.2, bottleneck=64)
    config.method.view_size = (32, 32)
    config.method.projector = (256,) * len(config.method.projector)
    # Cells are grey and small: of milder changes all bases learn in so few steps.
    config.method.strong.update(scale=(0.3, 0.9), jitter=(0.2, 0.2, 0.2, 0.05))
    config.method.update(BASES[base])
    config.train.log_every = 11
    return config


def detection(workdir, detector: str, weights: str, seed: int):
    """The config of a detector on the features of a backbone."""
    config = config_lib.base()
    config.seed, config.batch_size, config.overlays = seed, 64, 0
    config.dataset.update(name="folder", path=str(workdir / "cells"), category="mono")
    config.dataset.image_size = (_SIDE, _SIDE)
    config.backbone.update(name=_BACKBONE, weights=weights)
    config.detector.name = detector.replace("patchcore", "knn")
    config.threshold.calibration = "none"
    if detector == "padim":
        config.backbone.taps = ("layer1", "layer2", "layer3")
    return config


def labelled(path, weights: str, seed: int):
    """The config of a two-class model: a U-Net where defects have been generated."""
    pixels = path.parent.name == "generated"
    task = "segmentation" if pixels else "classification"
    config = two_class_folder.get_config(
        f"path={path},task={task},protocol=1cls,size=64"
    )
    config.seed, config.batch_size, config.overlays = seed, 64, 0
    config.backbone.update(name=_BACKBONE, weights=weights)
    config.threshold.calibration = "none"
    # Some 340 steps of all cells, 315 of generated defects, 100 of few shots.
    config.method.update(learning_rate=1e-3, epochs=5)
    if pixels:
        config.method.update(learning_rate=1e-2, epochs=15)
        config.method.widths = (64, 32, 16, 8, 4)  # a quarter, as the backbone
    if path.stem.startswith("shots"):
        shots = int(path.stem.removeprefix("shots").split("-")[0])
        steps = 2 * shots // config.method.batch_size  # an epoch
        config.method.update(epochs=100 // steps, encoder_factor=0.1)
    return config


def measure(arguments, base: str, eta: float, seed: int) -> dict:
    """One row: pre-training, its probes, and what becomes of the backbone."""
    workdir, start = arguments.workdir, time.process_time()
    name, cells = f"{base}-{eta}-{seed}", workdir / "cells"
    row, weights = dict.fromkeys(COLUMNS, ""), "random"
    row |= {"base": base, "eta": eta, "seed": seed, "steps": 0}
    folder = workdir / name
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

    def found(config, column: str) -> dict:
        return experiment.run(config, str(workdir / f"{name}-{column}"))["mean"]

    for detector in DETECTORS:
        config = detection(workdir, detector, weights, seed)
        row[detector] = found(config, detector)["image_auroc"]
    for column in LABELLED:
        lists = [column]
        if column.startswith("shots"):
            draws = range(_DRAWS * seed, _DRAWS * (seed + 1))
            lists = [f"{column}-{draw}" for draw in draws]
        elif column == "segmentation":
            lists = ["generated/list"]
        metric = "pixel_aupr" if column == "segmentation" else "image_aupr"
        values = []
        for one in lists:
            config = labelled(workdir / f"{one}.csv", weights, seed)
            values.append(found(config, one.replace("/", "-"))[metric])
        row[column] = float(np.mean(values))
    row["cpu_seconds"] = round(time.process_time() - start)
    return row


def run(arguments) -> None:
    workdir = arguments.workdir
    compilation.use_cache(str(workdir / "xla"))
    workdir.mkdir(parents=True, exist_ok=True)
    prepare(workdir / "cells")
    divide(workdir, arguments.seeds)
    if not (workdir / "generated/list.csv").exists():
        generated_defects.write(workdir / "generated", "mono", 64, 200)
    for seed in arguments.seeds:
        wanted = [("none", 0.0)]
        wanted += [(base, eta) for base in arguments.bases for eta in arguments.etas]
        for base, eta in wanted:
            done = {(r["base"], r["eta"], r["seed"]): r for r in rows(arguments.out)}
            if None not in [done.get((base, eta, seed), {}).get(c) for c in LABELLED]:
                continue
            row = measure(arguments, base, eta, seed)
            done[base, eta, seed] = row
            save(arguments.out, done.values())
            print({k: row[k] for k in ("base", "eta", "seed", *DETECTORS, *LABELLED)})


def save(path: pathlib.Path, found) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    with open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in found:
            writer.writerow(
                {k: f"{v:.5g}" if isinstance(v, float) else v
                 for k, v in row.items() if k in COLUMNS}
            )  # fmt: skip
    partial.replace(path)


def rows(path: pathlib.Path) -> list[dict]:
    """What is finished."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        for name in COLUMNS[1:]:
            row[name] = float(row[name]) if row.get(name) else None
        row["seed"] = int(row["seed"])
        row["gap"] = row["cosine_to_positive"] - row["cosine_to_negative"]
    return found


_PRETRAINED = {
    "base_loss": "base's loss",
    "z_to_positive": "z, to positive",
    "z_to_negative": "z, to negative",
    "cosine_to_positive": "to positive",
    "cosine_to_negative": "to negative",
    "gap": "gap",
    "knn_accuracy": "kNN",
    "linear_accuracy": "linear",
    "rank": "rank",
}
_USED = {
    "padim": "PaDiM",
    "patchcore": "PatchCore",
    "shots5": "5 shots",
    "shots10": "10 shots",
    "highshot": "60 %",
    "segmentation": "segmentation",
}
_COMPARED = {"gap": "gap", "cosine_to_positive": "to positive"}
_COMPARED |= {"cosine_to_negative": "to negative"} | _USED


def table(arguments) -> None:
    found = rows(arguments.out)
    order = ("none", *BASES)
    settings = {(row["base"], row["eta"]) for row in found}
    settings = sorted(settings, key=lambda one: (order.index(one[0]), one[1]))

    def of(base: str, eta: float, column: str) -> dict[int, float]:
        """By seed."""
        return {
            row["seed"]: row[column]
            for row in found
            if (row["base"], row["eta"]) == (base, eta) and row[column] is not None
        }

    def mean(base: str, eta: float, column: str) -> str:
        values = list(of(base, eta, column).values())
        return f"{np.mean(values):.3f}" if values else ""

    def difference(base: str, eta: float, column: str) -> str:
        ours, alone = of(base, eta, column), of(base, 0.0, column)
        seeds = sorted(ours.keys() & alone.keys())
        if len(seeds) < 2:
            return ""
        pairs = [alone[seed] for seed in seeds], [ours[seed] for seed in seeds]
        apart = statistics.paired_difference(*pairs)
        return f"{apart.value:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})"

    def show(title: str, columns: dict, cell, settings: list) -> None:
        print(f"| base | {title} | seeds | " + " | ".join(columns.values()) + " |")
        print("|---|--:|--:|" + "---|" * len(columns))
        for base, eta in settings:
            cells = [cell(base, eta, column) for column in columns]
            seeds = len(of(base, eta, "padim"))
            print(f"| {base} | {eta} | {seeds} | " + " | ".join(cells) + " |")
        print()

    show("eta", _PRETRAINED, mean, settings)
    show("eta", _USED, mean, settings)
    show("eta less 0", _COMPARED, difference, [one for one in settings if one[1]])


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
