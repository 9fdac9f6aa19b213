"""How often intervals hold the truth, over simulated test sets and runs.

  python benchmarks/intervals.py [--draws 2000] [--normal 60] [--anomalous 60]

Scores of two detectors are drawn from Gaussians: normal images around 0, anomalous ones
around 1 and 1.3, what an image gets from both with a correlation of 0.6. AUROCs of such
scores are known; the truth of the other metrics is that of a million images. An
interval of 95 % should hold it in 95 of 100 draws.

Pixel metrics are those of maps of 16 x 16 pixels, rounded to tenths. A pixel gets what
its image gets, as above, and as much noise of its own; a defect, a rectangle of 2 to 6
pixels a side, stands 2 and 2.3 above that. AUROC is known here as well; the truth of
the others is the mean of 20 sets of 20,000 images.
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
PIXEL_SHIFTS, SIDE = (2.0, 2.3), 16
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_0.3")
SETS, IMAGES = 20, 20_000


def noise(random, *shape: int) -> np.ndarray:
    """Of both detectors, [2, ...]."""
    first, own = random.normal(size=(2, *shape))
    return np.stack([first, CORRELATION * first + (1 - CORRELATION**2) ** 0.5 * own])


def draw(random, normal: int, anomalous: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of both detectors [2, n], and labels [n]."""
    labels = np.repeat([0, 1], [normal, anomalous])
    return noise(random, labels.size) + np.multiply.outer(SHIFTS, labels), labels


def draw_pixels(random, normal: int, anomalous: int) -> list[resampled.PixelCounts]:
    """What the maps of both detectors have of each image."""
    n, at = normal + anomalous, np.arange(SIDE)
    sides = random.integers(2, 7, (n, 2))
    starts = random.integers(0, SIDE - sides + 1)
    inside = (starts[..., None] <= at) & (at < (starts + sides)[..., None])
    masks = inside[:, 0, :, None] & inside[:, 1, None, :]
    masks[:normal] = False
    maps = noise(random, n, 1, 1) + noise(random, n, SIDE, SIDE)
    maps = np.round(maps + np.multiply.outer(PIXEL_SHIFTS, masks), 1)
    found = []
    for of_detector in maps.astype(np.float32):
        found.append(resampled.PixelCounts())
        for i, (one, mask) in enumerate(zip(of_detector, masks, strict=True)):
            found[-1].add(i, one, mask)
    return found


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
    both = [resampled.of_images(one, labels) for one in scores]
    yield from bootstrapped(random, METRICS, both, labels, arguments.replicates)
    pixels = draw_pixels(random, arguments.normal, arguments.anomalous)
    both = [one.metrics() for one in pixels]
    yield from bootstrapped(random, PIXEL_METRICS, both, labels, arguments.replicates)


def bootstrapped(random, names, both, labels, replicates: int):
    """Of the differences of two detectors: name, low and high."""
    drawn = statistics.bootstrap_differences(
        *both, labels, replicates=replicates, seed=int(random.integers(1 << 31))
    )
    for name in names:
        low, high = drawn[name].low, drawn[name].high
        yield f"difference of {name}, bootstrap", low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--normal", type=int, default=60)
    parser.add_argument("--anomalous", type=int, default=60)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--replicates", type=int, default=statistics.REPLICATES)
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
    many = int(IMAGES * share), int(IMAGES * (1 - share))
    found, everything = [], np.ones((1, sum(many)))
    for _ in range(SETS):
        one, other = (x.metrics()(everything) for x in draw_pixels(random, *many))
        found.append([float(other[name][0] - one[name][0]) for name in PIXEL_METRICS])
    areas = scipy.stats.norm.cdf(np.array(PIXEL_SHIFTS) / 2)
    truths += [areas[1] - areas[0], *np.mean(found, axis=0)[1:]]
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
