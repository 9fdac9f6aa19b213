r"""ToCoAD's map on descriptors, and what may hold F in stage II, beside no training.

  python benchmarks/tocoad_map.py [--study report] [--category mono] [--seeds 0 1 2]
                                  [--banks 10] [--pixel_banks 3] [--workdir DIR]

On ELPV. F is frozen: rows differ in the map on its descriptors, and in whether these
hold what D sees, trained as configs/tocoad_elpv.py does. `--study report` has the rows
of a table; the others, from which settings are chosen, are for poly. In `--study
stage2` F is trained, for 50 steps at a rate that folds its descriptors, in `--study
place` by place, for 100 where heads learn first. Image AUROC is on the real test
images, over banks that start at the same patches in all rows. Pixel metrics are on its
normal images with defects of generators that training never used. Every number is kept
in the workdir as it is found, and not found twice.

The differences to no training: banks are averaged within a seed, the interval of 95 %
(Student's) is over seeds; of whitening, which has nothing random, over banks. `--leak`
tells, row by row, where scores rise: the share of patches above the 95 % quantile of
those of normal test images, by their distance to the mask in patches.
"""

import argparse
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
from scipy import ndimage

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from configs import tocoad_elpv  # noqa: E402
from jaxad import command_line, data, models, rng, scores, statistics  # noqa: E402
from jaxad.augment import anomalies  # noqa: E402
from jaxad.bank import memory_bank  # noqa: E402
from jaxad.detectors import base, knn  # noqa: E402
from jaxad.methods import tocoad_fields  # noqa: E402
from jaxad.metrics import PixelMetrics, auroc  # noqa: E402
from jaxad.run import features, fit  # noqa: E402
from jaxad.run import pipeline as pipeline_lib  # noqa: E402
from jaxad.run.passes import Passes  # noqa: E402

# Training draws Perlin noise.
HELD_OUT = {"cutpaste": anomalies.cutpaste, "nsa": anomalies.nsa}
UNTRAINED = {"stages": ()}
WHITENING = {"stages": ("whitening",), "whitening.log_odds": 0.0}
SEEN = {"stages": ("dnp", "whitening")}
RANKED = {"stages": ("whitening", "ranking"), "whitening.log_odds": 0.0}
SEEN_AND_RANKED = {"stages": ("dnp", "whitening", "ranking")}
STAGE_2 = {
    "stages": ("dnp", "ncl"),
    "grey": True,
    "ncl.epochs": 0,
    "ncl.min_steps": 50,
    "ncl.backbone_learning_rate": 1e-3,
}
PLACE = STAGE_2 | {"positives": "place", "heads.width": 256, "heads.bottleneck": 64}
MIDDLE = {"levels": ("layer2", "layer3")}
BY_D = MIDDLE | {"guide": "feature", "negatives": "discriminator"}
UNGUIDED = {"stages": ("ncl",), "guide": "none"}
SLOWER = {"ncl.backbone_learning_rate": 3e-4}
BOTH = {"stages": ("dnp", "ncl")}
BEHIND = {"stages": ("dnp", "ncl", "whitening"), "whitening.log_odds": 0.0}
# Stage II and the map of reading=place; it has D's negatives.
FIRST = tocoad_fields.READINGS["place"]
SLOW = {"ncl.backbone_learning_rate": 6e-3}
FAST = {"ncl.backbone_learning_rate": 0.2}
# What each row changes in config.method of reading=map. The first is the baseline.
STUDIES = {
    "report": {
        "no training": UNTRAINED,
        "whitening": WHITENING,
        "whitening and D": SEEN,
        "D": SEEN | {"whitening.shrinkage": 1e6},
        "whitening and ranking": RANKED,
        "whitening, D and ranking": SEEN_AND_RANKED,
    },
    "shrinkage": {
        "no training": UNTRAINED,
        **{
            f"shrinkage {s:g}": WHITENING | {"whitening.shrinkage": s}
            for s in (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
        },
    },
    "log_odds": {
        "no training": UNTRAINED,
        **{
            f"log-odds {x:g}": SEEN | {"whitening.log_odds": x}
            for x in (0.25, 1.0, 4.0)
        },
    },
    "stage2": {
        "no training": UNTRAINED,
        "no guide": STAGE_2 | UNGUIDED,
        "gradient": STAGE_2,
        "anchor": STAGE_2 | {"ncl.anchor": 1.0},
        "VICReg": STAGE_2 | {"ncl.vicreg": 1.0},
        "slow target": STAGE_2 | {"ncl.target": 0.99},
        "normalisation": STAGE_2 | {"ncl.trains": "normalisation"},
        "tapped": STAGE_2 | {"ncl.trains": "tapped"},
        "place, no guide": PLACE | UNGUIDED,
        "place, gradient": PLACE,
        "place, F's negatives": PLACE | {"guide": "feature"},
        "place, D's negatives": PLACE | BY_D,
        "place, D's negatives, slow target": PLACE | BY_D | {"ncl.target": 0.99},
        "place, D's negatives, anchor": PLACE | BY_D | {"ncl.anchor": 1.0},
    },
    "place": {
        "no training": UNTRAINED,
        "whitening": WHITENING,
        "no guide": PLACE | MIDDLE | SLOWER | UNGUIDED,
        "D's negatives": PLACE | BY_D | SLOWER,
        "D's negatives, whitening": PLACE | BY_D | SLOWER | BEHIND,
        "D's negatives, whitening and D": PLACE
        | BY_D
        | SLOWER
        | {"stages": ("dnp", "ncl", "whitening")},
        "heads first, no guide": FIRST | UNGUIDED,
        "heads first, no guide, whitening": FIRST
        | BEHIND
        | UNGUIDED
        | {"stages": ("ncl", "whitening")},
        "heads first, gradient": FIRST | BOTH | {"guide": "gradient"},
        "heads first, D's negatives": FIRST | BOTH,
        "heads first, D's negatives, whitening": FIRST | BEHIND,
        **{
            f"heads first, D's negatives, whitening and D {x:g}": FIRST
            | {"whitening.log_odds": x}
            for x in (0.06, 0.25, 1.0)
        },
        "heads first, images, no guide": FIRST | UNGUIDED | {"positives": "image"},
        "heads first, fast, no guide": FIRST | UNGUIDED | FAST,
        "heads first, slow, no guide": FIRST | UNGUIDED | SLOW,
        "heads first, slow, D's negatives": FIRST | BOTH | SLOW,
    },
    "ranking": {
        "no training": UNTRAINED,
        **{
            f"ranking {x:g}{name}": row | {"ranking.learning_rate": x}
            for x in (3e-4, 1e-3, 3e-3)
            for name, row in (("", RANKED), (" and D", SEEN_AND_RANKED))
        },
    },
}


def pipeline_of(arguments, changes, seed: int):
    config = tocoad_elpv.get_config(f"reading=map,category={arguments.category}")
    command_line.use_compilation_cache(config)
    config.seed = seed
    config.method.update_from_flattened_dict(changes)
    config.feature_cache = str(arguments.workdir / "features")
    config.train.stage_cache = str(arguments.workdir / "stages")
    (config,) = pipeline_lib.members(config)
    return pipeline_lib.load(config)


def is_random(changes) -> bool:
    return bool({"dnp", "ncl", "ranking"} & set(changes["stages"]))


class Images:
    """Both splits, and generated defects: the normal test images with a defect each,
    and its mask."""

    def __init__(self, arguments):
        dataset = pipeline_of(arguments, UNTRAINED, 0).config.dataset
        self.train = data.load(dataset, arguments.category, "train").normal()
        self.test = data.load(dataset, arguments.category, "test")
        normal = self.test.normal()
        images = np.stack([normal[i]["image"] for i in range(len(normal))])
        indices = np.arange(len(images))
        keys = rng.per_example(rng.stream(0, "held-out anomalies"), indices)
        self.held_out = {}
        for name, generator in HELD_OUT.items():
            others = (np.roll(images, 1, 0),) if generator is anomalies.nsa else ()
            made = jax.jit(jax.vmap(generator))(keys, images, *others)
            self.held_out[name] = tuple(np.asarray(x) for x in made)


class Described:
    """Descriptors before the map of both splits, and of generated defects."""

    def __init__(self, images: Images, pipeline, params):
        size = pipeline.config.batch_size

        def describe(images):
            return base.features(pipeline.method, pipeline.backbone, params, images)

        def of(images):
            padded = np.pad(images, ((0, -len(images) % size), *[(0, 0)] * 3))
            parts = padded.reshape(-1, size, *images.shape[1:])
            return np.concatenate([describe(part) for part in parts])[: len(images)]

        self.config = pipeline.config
        self.rows, self.test = (
            features.extract(describe, split, size, label=split.name)
            for split in (images.train, images.test)
        )
        self.held_out = {
            name: (of(defects), masks)
            for name, (defects, masks) in images.held_out.items()
        }


def learn(arguments, images: Images, folder: pathlib.Path, changes, seed: int):
    """(pipeline, what the stages of a row learn).

    Stage II of a row with a map behind it is that of the row without, if it is there.
    """
    pipeline = pipeline_of(arguments, changes, seed)
    folder.mkdir(parents=True, exist_ok=True)
    row, _, number = folder.name.rpartition(" ")
    trained = folder.with_name(f"{row.partition(', whitening')[0]} {number}") / "ncl"
    if trained.exists() and not (folder / "ncl").exists():
        shutil.copytree(trained, folder / "ncl")
    with Passes(folder / "unfinished", every=60) as passes:
        params, _ = fit.learn(
            pipeline, images.train, folder, passes, {}, label=arguments.category
        )
    if params["backbone"] is not pipeline.variables:
        folded = models.fold(pipeline.backbone.module, params["backbone"])
        params = params | {"backbone": folded}
    return pipeline, params


def patch_scores(described: np.ndarray, bank) -> np.ndarray:
    distances, _ = memory_bank.nearest(
        described.reshape(-1, described.shape[-1]), bank, 1
    )
    return np.asarray(distances).reshape(described.shape[:3])


def mapped(x: np.ndarray, params) -> np.ndarray:
    return x @ np.asarray(params["map"]) if "map" in params else x


def bank_of(described: Described, params, start: int) -> np.ndarray:
    """The bank whose coreset begins at the patch `start`."""
    rows = mapped(described.rows, params)
    rows = rows.reshape(-1, rows.shape[-1])
    size = knn.coreset_size(described.config.coreset.ratio, len(rows))
    return rows[memory_bank.greedy_coreset(rows, size, start=start)]


def measured(described, labels, params, bank, pixels: bool) -> dict[str, float]:
    """The metrics of one bank."""
    highest = patch_scores(mapped(described.test, params), bank).max((1, 2))
    found = {"image AUROC": auroc(highest, labels)}
    for name, (of_defects, masks) in described.held_out.items() if pixels else ():
        maps = scores.anomaly_map(
            patch_scores(mapped(of_defects, params), bank),
            masks.shape[1:],
            sigma=described.config.detector.blur_sigma,
        )
        metrics = PixelMetrics()
        metrics.update(np.asarray(maps), masks.astype(np.uint8))
        values = metrics.compute()
        found[f"{name} pixel AUROC"] = values["pixel_auroc"]
        found[f"{name} AUPRO 0.3"] = values["aupro_0.3"]
    return found


def table(arguments) -> None:
    images, found = Images(arguments), {}
    described: dict[object, Described] = {}  # by the seed of D; one of a trained F
    for row, changes in STUDIES[arguments.study].items():
        if row not in (arguments.rows or [row]):
            continue
        for seed in arguments.seeds if is_random(changes) else arguments.seeds[:1]:
            place = arguments.workdir / arguments.category / f"{row} {seed}"
            pipeline, params = learn(arguments, images, place, changes, seed)
            of = seed if "discriminator" in params else None
            if params["backbone"] is not pipeline.variables:
                of = row, seed
                described = {}
            if of not in described:
                described[of] = Described(images, pipeline, params)
            for i, start in enumerate(starts_of(arguments, described[of])):
                path = place / f"{i}.json"
                pixels = i < arguments.pixel_banks
                cell = json.loads(path.read_text()) if path.exists() else {}
                if not cell or pixels and len(cell) == 1:
                    bank = bank_of(described[of], params, start)
                    both = described[of], images.test.labels
                    cell = measured(*both, params, bank, pixels)
                    path.write_text(json.dumps(cell))
                found.setdefault(row, {})[seed, i] = cell
            tell(found, row, seed)
            if arguments.leak:
                # Of the last bank, which may be from an earlier call.
                bank = bank_of(described[of], params, start)
                leak(described[of], images.test.labels, params, bank)
    compare(found, arguments.baseline or next(iter(found)))


def starts_of(arguments, described: Described) -> list[int]:
    patches = described.rows[..., 0].size
    return np.random.default_rng(0).integers(0, patches, arguments.banks).tolist()


def leak(described: Described, labels, params, bank) -> None:
    """Shares of high patches by the distance to the mask, in patches."""
    normal = patch_scores(mapped(described.test[labels == 0], params), bank)
    high = np.quantile(normal, 0.95)
    for name, (of_defects, masks) in described.held_out.items():
        is_high = patch_scores(mapped(of_defects, params), bank) > high
        shares = jax.image.resize(masks, is_high.shape, "linear", antialias=True)
        shares = np.asarray(shares)
        far = np.stack([ndimage.distance_transform_edt(x <= 0.01) for x in shares])
        line = [f"within {is_high[shares > 0.5].mean():.3f}"]
        for low in (0, 1, 2):
            ring = (far > low) & (far <= low + 1)
            line.append(f"{low} to {low + 1} {is_high[ring].mean():.3f}")
        print(f"  {name}: {', '.join(line)}", flush=True)


def tell(found, row: str, seed: int) -> None:
    cells = [cell for (one, _), cell in found[row].items() if one == seed]
    numbers = []
    for metric in cells[0]:
        values = [cell[metric] for cell in cells if metric in cell]
        spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        numbers.append(f"{metric} {np.mean(values):.4f}{spread}")
    print(f"{row}, seed {seed}: {', '.join(numbers)} (over banks)", flush=True)


def compare(found, baseline: str) -> None:
    """The table: means, and differences to one of the rows."""
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


def gained(found, row: str, other: str, metric: str) -> str:
    """The paired difference of two rows, and its interval; one of them with one seed
    is paired with every seed of the other."""
    seeds = [list(dict.fromkeys(seed for seed, _ in found[x])) for x in (row, other)]
    count = max(map(len, seeds))
    pairs = zip(*(x * count if len(x) == 1 else x for x in seeds), strict=False)
    by_seed = []
    for mine, theirs in list(pairs)[:count]:
        by_seed.append(
            [
                cell[metric] - found[other][theirs, bank][metric]
                for (seed, bank), cell in found[row].items()
                if seed == mine and metric in cell
            ]
        )
    mean = statistics.mean([np.mean(x) for x in by_seed] if count > 1 else by_seed[0])
    if mean.low is None:
        return f"{mean.value:+.4f}"
    return f"{mean.value:+.4f}, {mean.low:+.4f} to {mean.high:+.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", choices=STUDIES, default="report")
    parser.add_argument("--rows", nargs="+", help="some of the study's; else all")
    parser.add_argument("--category", choices=("mono", "poly"), default="mono")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--banks", type=int, default=10)
    parser.add_argument("--pixel_banks", type=int, default=3)
    parser.add_argument("--baseline", help="a row; the first one if left out")
    parser.add_argument("--leak", action="store_true")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/tocoad_map")
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    table(arguments)


if __name__ == "__main__":
    main()
