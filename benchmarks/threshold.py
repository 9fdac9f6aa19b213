"""Promised and real false-alarm rates on ELPV mono, for every way of calibration.

    python benchmarks/threshold.py --out docs/threshold.png
    python benchmarks/threshold.py --smoke

The detector of configs/patchcore_elpv.py: EfficientNet-Lite0, a 1 % coreset, image
scores that are the largest distance of a patch. All 588 normal cells, training and test
images alike, are described once. Then, again and again, a random half of them is there
to fit and calibrate, and the other half tells how often normal cells are called
anomalous ("false alarms"); the 313 anomalous cells tell how many are "found".

* split: half of the half is fitted, the rest calibrates.
* left_out: all of the half is fitted, every cell scored without its own bank entries.
* folds: all of the half is fitted, every cell scored by one of five detectors, each of
  which was fitted on the other four fifths.
* own: all of the half is fitted, and scored as if it were new, which nobody should do.

Prints Markdown tables; --out is the figure.
"""

import argparse
import collections
import itertools
import pathlib
import runpy
import time

import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxad import command_line, data
from jaxad.bank import memory_bank
from jaxad.detectors import base, threshold
from jaxad.detectors.threshold import calibrate
from jaxad.run import features
from jaxad.run import pipeline as pipeline_lib

ROOT = pathlib.Path(__file__).parents[1]
RATES = (0.02, 0.05, 0.1)
CURVE = np.arange(10, 201, 5) / 1000
FOLDS = 5
BRIGHTNESS = (1.0, 1.1, 1.25)
_IMAGES = 60  # of a call of the search


def described(limit: int):
    """All cells, float32 [n, patches, d].

    Returns:
      (normal ones in the order of their files by factor of brightness, anomalous ones).
    """
    config = runpy.run_path(str(ROOT / "configs/patchcore_elpv.py"))["get_config"]()
    config.dataset.limit = limit
    command_line.use_compilation_cache(config)
    (config,) = pipeline_lib.members(config)
    pipeline = pipeline_lib.load(config)
    params = {"backbone": pipeline.variables}

    def of(split, factor=1.0):
        def describe(images):
            images = pipeline.place(np.minimum(images * np.float32(factor), 1))
            return base.describe(pipeline.method, pipeline.backbone, params, images)

        rows = features.extract(
            describe, split, pipeline.images_a_call, label=f"{split.name} x {factor:g}"
        )
        return rows.reshape(len(rows), -1, rows.shape[-1])

    train, test = (data.load(config.dataset, "mono", x) for x in ("train", "test"))
    labels = np.asarray(test.labels)
    normal = train, test.take(np.flatnonzero(labels == 0))
    order = np.argsort([name for split in normal for name in split.filenames])
    by_factor = {
        factor: np.concatenate([of(split, factor) for split in normal])[order]
        for factor in BRIGHTNESS
    }
    return by_factor, of(test.take(np.flatnonzero(labels)))


def fit(images: np.ndarray, ratio: float = 0.01):
    """(memory bank, the image that each entry is of)."""
    rows = images.reshape(-1, images.shape[-1])
    chosen = memory_bank.greedy_coreset(rows, max(1, int(ratio * len(rows))))
    return jnp.asarray(rows[chosen]), chosen // images.shape[1]


def score(images: np.ndarray, bank, owners=None) -> np.ndarray:
    """Image scores [n]; with owners, each without the entries that are its own."""
    found = []
    for first in range(0, len(images), _IMAGES):
        part = images[first : first + _IMAGES]
        queries = part.reshape(-1, part.shape[-1])
        if owners is None:
            distance, _ = memory_bank.nearest(queries, bank, 1)
        else:
            mine = first + np.arange(len(part)).repeat(part.shape[1])
            distance, _ = memory_bank.nearest_of_others(queries, mine, bank, owners, 1)
        found.append(np.asarray(distance).reshape(len(part), -1).max(1))
    return np.concatenate(found)


def partition(normal, anomalous, rng) -> dict[str, dict[str, np.ndarray]]:
    """Scores of one random half, by way of calibration.

    Each: `calibration`, and with the final detector `held_out` and `anomalous`.
    """
    order = rng.permutation(len(normal))
    half = len(order) // 2
    there, held_out = normal[order[:half]], normal[order[half:]]

    def with_detector(bank):
        return {
            "held_out": score(held_out, bank),
            "anomalous": score(anomalous, bank),
        }

    bank, _ = fit(there[: half // 2])
    split = {"calibration": score(there[half // 2 :], bank), **with_detector(bank)}
    bank, owners = fit(there)
    final = with_detector(bank)
    folds = np.zeros(half)
    for out in np.array_split(np.arange(half), FOLDS):
        folds[out] = score(there[out], fit(np.delete(there, out, 0))[0])
    ways = {"left_out": score(there, bank, owners), "folds": folds}
    ways["own"] = score(there, bank)
    return {
        "split": split,
        **{name: {"calibration": found, **final} for name, found in ways.items()},
    }


def share_above(part: dict[str, np.ndarray], rate: float, new: str) -> float:
    """Which share of the new scores is called anomalous."""
    found = calibrate(part["calibration"], method="split", rate=rate)
    return found.verdicts(part[new]).mean()


def promised(part: dict[str, np.ndarray], rate: float) -> float:
    return calibrate(part["calibration"], method="split", rate=rate).promised


def table(*rows) -> None:
    head, *body = ([str(cell) for cell in row] for row in rows)
    print(f"\n| {' | '.join(head)} |\n|---|{'--:|' * (len(head) - 1)}")
    for row in body:
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def of_splits(parts, splits: int, rng):
    """Counts of false alarms [splits] by rate, and their law: one promise, kept.

    The held-out scores of every partition are split into halves again and again.
    """
    counts = {rate: np.zeros(splits, int) for rate in RATES}
    for i in range(splits):
        scores = rng.permutation(parts[i % len(parts)]["left_out"]["held_out"])
        n = len(scores) // 2
        for rate in RATES:
            found = calibrate(scores[:n], method="split", rate=rate)
            counts[rate][i] = found.verdicts(scores[n:]).sum()
    m = len(scores) - n
    rows = [("asked", "k", "promised", "false alarms", "standard error", "KS", "p")]
    laws = {}
    for rate, found in counts.items():
        k = max(1, threshold.rank(n, rate))
        laws[rate] = law = scipy.stats.betabinom(m, k, n + 1 - k)
        steps = np.arange(m + 1)
        share = np.searchsorted(np.sort(found), steps, "right") / splits
        distance = np.abs(share - law.cdf(steps)).max()
        rows.append(
            (percent(rate), k, percent(k / (n + 1)), percent(found.mean() / m))
            + (percent(law.std() / m / np.sqrt(splits)), f"{distance:.4f}")
            + (f"{scipy.stats.kstwo.sf(distance, splits):.2f}",)
        )
    print(f"{splits:,} random splits of held-out cells: {n} calibrate, {m} are new.")
    table(*rows)
    return counts, laws, m


def of_ways(parts) -> None:
    """What comes of each way of calibration."""
    rows = [("", "asked", "calibration cells", "promised", "false alarms", "found")]
    for way, rate in itertools.product(parts[0], RATES):
        alarms, found = (
            [share_above(part[way], rate, new) for part in parts]
            for new in ("held_out", "anomalous")
        )
        first = parts[0][way]
        spread = percent(np.std(alarms, ddof=1))
        rows.append(
            (way, percent(rate), len(first["calibration"]))
            + (percent(promised(first, rate)),)
            + (f"{percent(np.mean(alarms))} ± {spread}", percent(np.mean(found)))
        )
    print(f"{len(parts)} random halves; mean and standard deviation over them.")
    table(*rows)


def of_confidence(parts, draws: int, rng) -> None:
    """How often the real rate is above one that is promised with confidence."""
    rate, confidence = 0.05, 0.95
    n = threshold.images_needed(rate, confidence)
    population = np.sort(np.concatenate([p["left_out"]["held_out"] for p in parts]))
    rows = [("scores", "draws", f"rate above {100 * rate:g} %", "most")]
    for name in ("uniform", "held-out cells, drawn again"):
        real = np.zeros(draws)
        for i in range(draws):
            drawn = rng.random(n) if name == "uniform" else rng.choice(population, n)
            value = calibrate(
                drawn, method="split", rate=rate, confidence=confidence
            ).value
            if name == "uniform":
                real[i] = 1 - value
            else:
                above = np.searchsorted(population, value, "right")
                real[i] = 1 - above / len(population)
        limit = 1 - confidence + 3 * np.sqrt(confidence * (1 - confidence) / draws)
        above = (real > rate).mean()
        rows.append((name, f"{draws:,}", percent(above), percent(limit)))
    print(f"5 % with 95 % confidence from {n} cells; most: 5 % + 3 standard errors.")
    table(*rows)
    print(threshold.shortage(n - 1, rate, confidence) + ".\n")


def of_batches(parts, batches: int, rng) -> None:
    """What is reported of batches at a false discovery rate, split calibration."""
    rows = [("normal", "anomalous", "rate", "false share of reported", "found")]
    normal = 90
    for anomalous, rate in itertools.product((5, 10, 30), (0.1, 0.2)):
        false, found = np.zeros(batches), np.zeros(batches)
        for i in range(batches):
            part = parts[i % len(parts)]["split"]
            drawn = [
                rng.permutation(part["held_out"])[:normal],
                rng.permutation(part["anomalous"])[:anomalous],
            ]
            batch = np.concatenate(drawn)
            values = threshold.p_values(batch, part["calibration"])
            reported = threshold.discoveries(values, rate)
            is_normal = np.arange(len(batch)) < len(drawn[0])
            false[i] = reported[is_normal].sum() / max(reported.sum(), 1)
            found[i] = reported[~is_normal].mean()
        rows.append(
            (normal, anomalous, percent(rate), percent(false.mean()))
            + (percent(found.mean()),)
        )
    n = len(part["calibration"])
    print(f"{batches:,} batches each, {n} calibration cells.")
    table(*rows)
    for anomalous, rate in itertools.product((5, 10), (0.1, 0.2)):
        missing = threshold.batch_shortage(n, normal + anomalous, anomalous, rate)
        if missing:
            print(f"{missing}.\n")


def of_change(normal, repeats: int, rng) -> None:
    """What becomes of a promise where new images come from somewhere else."""
    cells = np.arange(len(normal[1.0]))
    earlier, later = np.array_split(cells, 2)
    alarms = collections.defaultdict(list)
    for _ in range(repeats):
        chosen, others = np.array_split(rng.permutation(cells), 2)
        shone = {f"other half, x {factor:g}": factor for factor in BRIGHTNESS}
        for name, there, away, kinds in (
            ("random half", chosen, others, shone),
            ("earlier half of the files", earlier, later, {"later half": 1.0}),
            ("later half of the files", later, earlier, {"earlier half": 1.0}),
        ):
            fitted, rest = np.array_split(rng.permutation(there), 2)
            bank, _ = fit(normal[1.0][fitted])
            part = {"calibration": score(normal[1.0][rest], bank)}
            for kind, factor in kinds.items():
                part["new"] = score(normal[factor][away], bank)
                found = [share_above(part, rate, "new") for rate in RATES]
                alarms[name, kind].append(found)
    rows = [("calibrated on", "new cells", *(f"asked {100 * r:g} %" for r in RATES))]
    for names, found in alarms.items():
        rows.append((*names, *map(percent, np.mean(found, 0))))
    print(f"Split calibration, new normal cells of another kind: false alarms, mean of "
          f"{repeats} draws.")  # fmt: skip
    table(*rows)


def plot(parts, counts, laws, m: int, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = dict(zip(RATES, ("#0072b2", "#e69f00", "#009e73"), strict=True))
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(11, 4.2), layout="constrained"
    )
    for rate, found in counts.items():
        top = int(laws[rate].ppf(0.9999))
        at = np.arange(top + 1)
        share = np.bincount(found, minlength=top + 1)[: top + 1] / len(found)
        left.bar(at, share, 0.9, color=colours[rate], alpha=0.45)
        label = f"asked {100 * rate:g} %"
        left.plot(
            at, laws[rate].pmf(at), "o-", ms=3, lw=1, color=colours[rate], label=label
        )
    left.set_xlabel(f"false alarms among {m} new normal cells")
    left.set_ylabel(f"share of {len(found):,} splits")
    left.set_title("Split: measured (bars) and beta-binomial (dots)")
    left.legend(frameon=False)

    styles = {
        "split": ("#0072b2", "split"),
        "left_out": ("#d55e00", "left out"),
        "folds": ("#009e73", f"{FOLDS} folds"),
    }
    for way, (colour, label) in styles.items():
        alarms = 100 * np.array(
            [[share_above(part[way], a, "held_out") for part in parts] for a in CURVE]
        )
        x = [100 * promised(parts[0][way], a) for a in CURVE]
        mean, spread = alarms.mean(1), alarms.std(1, ddof=1)
        right.plot(x, mean, "o-", ms=3, color=colour, label=label)
        right.fill_between(
            x, mean - spread, mean + spread, color=colour, alpha=0.12, lw=0
        )
    limits = [0, 100 * CURVE[-1]]
    right.plot(limits, limits, "k--", lw=1, label="as promised")
    right.set(xlim=limits, ylim=limits)
    right.set_xlabel("promised on average, %")
    right.set_ylabel("false alarms among held-out cells, %")
    right.set_title(f"{len(parts)} random halves: mean and standard deviation")
    right.legend(frameon=False)
    for axis in (left, right):
        axis.grid(alpha=0.2)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="path of the figure")
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--smoke", action="store_true", help="half a minute in all")
    flags = parser.parse_args()
    if flags.smoke:
        flags.partitions, flags.splits, flags.draws = 2, 40, 200
    start = time.perf_counter()
    rng = np.random.default_rng(0)
    normal, anomalous = described(24 if flags.smoke else 0)
    parts = [partition(normal[1.0], anomalous, rng) for _ in range(flags.partitions)]
    print(f"\n{len(normal[1.0])} normal and {len(anomalous)} anomalous cells.\n")
    found = of_splits(parts, flags.splits, rng)
    of_ways(parts)
    of_confidence(parts, flags.draws, rng)
    of_batches(parts, flags.splits, rng)
    of_change(normal, min(5, flags.partitions), rng)
    if flags.out:
        plot(parts, *found, flags.out)
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
