"""How often intervals hold the truth, over simulated test sets and runs.

  python benchmarks/intervals.py [--draws 2000] [--normal 60] [--anomalous 60]

Scores of two detectors are drawn from Gaussians: normal images around 0, anomalous ones
around 1 and 1.3, what an image gets from both with a correlation of 0.6. AUROCs of such
scores are known; the truth of the other metrics is that of a million images. An
interval of 95 % should hold it in 95 of 100 draws.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
import scipy.stats

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from jaxad import resampled, statistics  # noqa: E402

SHIFTS, CORRELATION = (1.0, 1.3), 0.6
METRICS = ("image_ap", "image_f1_max")


def draw(random, normal: int, anomalous: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of both detectors [2, n], and labels [n]."""
    labels = np.repeat([0, 1], [normal, anomalous])
    noise = random.normal(size=(2, labels.size))
    noise[1] = CORRELATION * noise[0] + (1 - CORRELATION**2) ** 0.5 * noise[1]
    return noise + np.array(SHIFTS)[:, None] * labels, labels


def intervals(random, arguments) -> Iterator[tuple[str, float, float]]:
    """Of one draw: name, low and high."""
    runs = random.normal(size=(2, arguments.runs))
    one = statistics.mean(runs[0])
    yield f"mean of {arguments.runs} runs, Student", one.low, one.high
    found = statistics.paired_difference(*runs)
    yield f"difference of {arguments.runs} runs, Student", found.low, found.high
    scores, labels = draw(random, arguments.normal, arguments.anomalous)
    yield "AUROC, DeLong (logit)", *statistics.auroc_interval(scores[0], labels)
    found = statistics.auroc_difference(*scores, labels)
    yield "difference of AUROCs, DeLong", found.low, found.high
    drawn = statistics.bootstrap_differences(
        *(resampled.of_images(one, labels) for one in scores),
        labels,
        replicates=arguments.replicates,
        seed=int(random.integers(1 << 31)),
    )
    for name in METRICS:
        low, high = drawn[name].low, drawn[name].high
        yield f"difference of {name}, bootstrap", low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--normal", type=int, default=60)
    parser.add_argument("--anomalous", type=int, default=60)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--replicates", type=int, default=500)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    areas = scipy.stats.norm.cdf(np.array(SHIFTS) / 2**0.5)
    truths = [0.0, 0.0, areas[0], areas[1] - areas[0]]
    share = arguments.normal / (arguments.normal + arguments.anomalous)
    many = int(1e6 * share), int(1e6 * (1 - share))
    scores, labels = draw(random, *many)
    everything = np.ones((1, labels.size))
    one, other = (resampled.of_images(x, labels)(everything) for x in scores)
    truths += [float(other[name][0] - one[name][0]) for name in METRICS]
    held: dict[str, list[bool]] = {}
    for _ in range(arguments.draws):
        found = intervals(random, arguments)
        for truth, (name, low, high) in zip(truths, found, strict=True):
            held.setdefault(name, []).append(low <= truth <= high)
    print(
        f"{arguments.normal} normal, {arguments.anomalous} anomalous images,", end=" "
    )
    print(f"{arguments.draws} draws\n\n| interval of 95 % | holds the truth |")
    print("|---|--:|")
    for name, draws in held.items():
        print(f"| {name} | {np.mean(draws):.3f} |")


if __name__ == "__main__":
    main()
