"""SPD on ELPV, small: each base alone and with the term, over seeds.

  python benchmarks/spd.py run [--network NETWORK] [--epochs N] [--seeds 0 1 2]
  python benchmarks/spd.py table [--network NETWORK] [--epochs N]

`run` pre-trains a narrow ResNet on the normal training cells of both types, with every
base and weight of the term, and tries what it leaves on monocrystalline cells: PaDiM
and PatchCore; classifiers fine-tuned on 5, 10 and all labelled cells; a U-Net on cells
with generated defects. Views of 32 x 32 are cut from cells brought to 64 x 64, so that
a step takes a CPU a sixth of a second.

`--network efficientnet_lite0` begins at ImageNet's weights, and goes by the recipes and
the configs for ELPV, with fewer steps and at 64 x 64: PaDiM, PatchCore and classifiers
of 10 shots.

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

from configs import (  # noqa: E402
    patchcore_elpv,
    spd_elpv,
    spd_folder,
    two_class_elpv,
    two_class_folder,
)
from jaxad import config as config_lib  # noqa: E402
from jaxad import data, statistics  # noqa: E402
from jaxad.data import protocol  # noqa: E402
from jaxad.devices import compilation  # noqa: E402
from jaxad.run import experiment, pretrain, results  # noqa: E402

ETAS = (0.0, 0.1, 0.5, 1.0)
# What differs from the recipes: a batch of 64 and 200 steps need other rates.
BASES = {
    "simsiam": dict(learning_rate=0.3),
    "moco": dict(learning_rate=0.3, queue=512, groups=4, momentum=0.99),
    "simclr": dict(optimiser="sgd"),
    "supervised": {},
}
_NARROW, _EFFICIENTNET = "narrow_resnet", "efficientnet_lite0"
_BACKBONE = "benchmarks.narrow_resnet"
_SIDE = 128  # of the cells as they are kept
_PROBES = (
    *("cosine_to_positive", "cosine_to_negative", "knn_accuracy", "linear_accuracy"),
    *("rank", "spread"),
)
# AU-ROCs, and AU-PRs: of images, the last of pixels.
DETECTORS = ("padim", "patchcore")
LABELLED = ("shots5", "shots10", "highshot", "segmentation")
# Of either network: what becomes of a backbone, epochs of pre-training, and draws of
# few shots, with every seed others.
TRIED = {
    _NARROW: (*DETECTORS, *LABELLED),
    _EFFICIENTNET: (*DETECTORS, "shots10"),
}
EPOCHS = {_NARROW: 20, _EFFICIENTNET: 4}
_DRAWS = {_NARROW: 3, _EFFICIENTNET: 5}
_KEY = ("network", "base", "eta", "epochs", "seed")
COLUMNS = (
    *_KEY,
    *("steps", "cpu_seconds"),
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


def draws(network: str, seed: int) -> range:
    """Of few shots."""
    return range(_DRAWS[network] * seed, _DRAWS[network] * (seed + 1))


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
            for number in draws(_NARROW, seed):
                rows = protocol.few_shot("mono", number, shots, labels)
                lists[f"shots{shots}-{number}"] = [train[row] for row in rows]
    for name, chosen in lists.items():
        with open(workdir / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "split", "label"))
            writer.writerows((path, "train", label) for path, label in chosen)
            writer.writerows((path, "test", label) for path, label in test)


def pretraining(arguments, base: str, eta: float, seed: int):
    """The config of a run that leaves a backbone."""
    if arguments.network == _EFFICIENTNET:
        config = spd_elpv.get_config(f"base={base},eta={eta}")
        config.backbone.update(name=_EFFICIENTNET, weights="default")
        config.method.update(batch_size=32, zero_residuals=False)
    else:
        path = arguments.workdir / "cells"
        config = spd_folder.get_config(f"path={path},base={base},eta={eta}")
        config.backbone.name, config.batch_size = _BACKBONE, 64
        config.method.update(batch_size=64, learning_rate=0.2, bottleneck=64)
        config.method.view_size = (32, 32)
        config.method.projector = (256,) * len(config.method.projector)
        # Of milder changes all bases learn in so few steps: cells are grey and small.
        config.method.strong.update(scale=(0.3, 0.9), jitter=(0.2, 0.2, 0.2, 0.05))
        config.method.update(BASES[base])
    config.seed, config.method.epochs = seed, arguments.epochs
    config.dataset.image_size = (64, 64)
    config.train.log_every = 11
    return config


def detection(arguments, detector: str, weights: str, seed: int):
    """The config of a detector on the features of a backbone."""
    if arguments.network == _EFFICIENTNET:
        config = patchcore_elpv.get_config()
        config.dataset.image_size = (64, 64)
        if detector == "padim":
            config.detector.dim = 50
    else:
        config = config_lib.base()
        cells = str(arguments.workdir / "cells")
        config.dataset.update(name="folder", path=cells, category="mono")
        config.dataset.image_size = (_SIDE, _SIDE)
        config.backbone.name, config.batch_size = _BACKBONE, 64
        if detector == "padim":
            config.backbone.taps = ("layer1", "layer2", "layer3")
    config.backbone.weights = weights
    config.seed, config.overlays = seed, 0
    config.detector.name = detector.replace("patchcore", "knn")
    config.threshold.calibration = "none"
    return config


def labelled(arguments, name: str, weights: str, seed: int):
    """The config of a two-class model: a U-Net where defects have been generated."""
    column, _, draw = name.partition("-")
    if arguments.network == _EFFICIENTNET:
        config = two_class_elpv.get_config(f"shots=10,draw={draw},epochs=50,size=64")
    else:
        pixels = column == "segmentation"
        task = "segmentation" if pixels else "classification"
        path = arguments.workdir / ("generated/list.csv" if pixels else f"{name}.csv")
        config = two_class_folder.get_config(
            f"path={path},task={task},protocol=1cls,size=64"
        )
        config.backbone.name, config.batch_size = _BACKBONE, 64
        config.threshold.calibration = "none"
        # Some 340 steps of all cells, 315 of generated defects, 100 of few shots.
        config.method.update(learning_rate=1e-3, epochs=5)
        if pixels:
            config.method.update(learning_rate=1e-2, epochs=15)
            config.method.widths = (64, 32, 16, 8, 4)  # a quarter, as the backbone
        if column.startswith("shots"):
            shots = int(column.removeprefix("shots"))
            steps = 2 * shots // config.method.batch_size  # an epoch
            config.method.update(epochs=100 // steps, encoder_factor=0.1)
    config.backbone.weights = weights
    config.seed, config.overlays = seed, 0
    return config


def epochs(arguments, base: str) -> int:
    """Of pre-training."""
    return 0 if base == "none" else arguments.epochs


def measure(arguments, base: str, eta: float, seed: int) -> dict:
    """One row: pre-training, its probes, and what becomes of the backbone."""
    workdir, network, start = arguments.workdir, arguments.network, time.process_time()
    row = dict.fromkeys(COLUMNS, "") | {"network": network, "base": base, "eta": eta}
    row |= {"epochs": epochs(arguments, base), "seed": seed, "steps": 0}
    folder = workdir / "-".join(str(row[column]) for column in _KEY)
    if base == "none":
        config = pretraining(arguments, "simsiam", 0.0, seed)
        config.method.epochs = 1  # its probes before training are what counts
        weights = config.backbone.weights
        probes = experiment.run(config, str(folder))["probes"]["before"]
    else:
        config = pretraining(arguments, base, eta, seed)
        outcome = experiment.run(config, str(folder))
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

    def found(config, name: str) -> dict:
        return experiment.run(config, f"{folder}-{name}")["mean"]

    for detector in DETECTORS:
        config = detection(arguments, detector, weights, seed)
        row[detector] = found(config, detector)["image_auroc"]
    for column in TRIED[network][len(DETECTORS) :]:
        metric = "pixel_aupr" if column == "segmentation" else "image_aupr"
        names = [column]
        if column.startswith("shots"):
            names = [f"{column}-{draw}" for draw in draws(network, seed)]
        values = []
        for name in names:
            config = labelled(arguments, name, weights, seed)
            values.append(found(config, name)[metric])
        row[column] = float(np.mean(values))
    row["cpu_seconds"] = round(time.process_time() - start)
    return row


def run(arguments) -> None:
    workdir = arguments.workdir
    compilation.use_cache(str(workdir / "xla"))
    workdir.mkdir(parents=True, exist_ok=True)
    if arguments.network == _NARROW:
        prepare(workdir / "cells")
        divide(workdir, arguments.seeds)
        if not (workdir / "generated/list.csv").exists():
            generated_defects.write(workdir / "generated", "mono", 64, 200)
    tried = TRIED[arguments.network]
    for seed in arguments.seeds:
        wanted = [("none", 0.0)]
        wanted += [(base, eta) for base in arguments.bases for eta in arguments.etas]
        for base, eta in wanted:
            done = {tuple(r[c] for c in _KEY): r for r in rows(arguments.out)}
            key = arguments.network, base, eta, epochs(arguments, base), seed
            if None not in [done.get(key, {}).get(column) for column in tried]:
                continue
            row = done[key] = measure(arguments, base, eta, seed)
            save(arguments.out, done.values())
            print({column: row[column] for column in (*_KEY, *tried)}, flush=True)


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
        for name in COLUMNS[2:]:
            row[name] = float(row[name]) if row.get(name) else None
        row |= {name: int(row[name]) for name in ("epochs", "seed")}
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
_COMPARED |= {"cosine_to_negative": "to negative"}


def table(arguments) -> None:
    found = [
        row
        for row in rows(arguments.out)
        if row["network"] == arguments.network
        and row["epochs"] == epochs(arguments, row["base"])
    ]
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
    used = {column: _USED[column] for column in TRIED[arguments.network]}
    show("eta", used, mean, settings)
    several = [one for one in settings if one[1] and len(of(*one, "padim")) > 1]
    show("eta less 0", _COMPARED | used, difference, several)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--network", choices=TRIED, default=_NARROW)
    parser.add_argument("--epochs", type=int, help="of pre-training")
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs/spd_small")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks/spd.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    parser.add_argument("--etas", type=float, nargs="+", default=list(ETAS))
    arguments = parser.parse_args()
    arguments.epochs = arguments.epochs or EPOCHS[arguments.network]
    run(arguments) if arguments.what == "run" else table(arguments)


if __name__ == "__main__":
    main()
