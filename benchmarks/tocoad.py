"""ToCoAD on ELPV mono: what the two stages change, and what they cost.

  python benchmarks/tocoad.py table [--study stages] [--workdir DIR] [--seeds 0 1 2]
                                    [--size 128] [--rates 1e-5 1e-4]
  python benchmarks/tocoad.py time [--size 128] [--batch 16]

`table` trains and scores configs/tocoad_elpv.py without training and in the ways that a
study names: `stages` is the paper's claim, with and without a guide; the others vary
one choice. Image AUROC is on the real test images: the run's own, and, since a greedy
coreset is chaotic, the mean over banks that start at ten other patches, with their
standard deviation. Pixel metrics are on its normal images with defects drawn by
generators that training never used, whose masks are known. "CKA" says how like the test
images' patch descriptors are to the untrained ones, but for a rotation, shift and scale
(1: just like them), and "rank" how many directions they fill evenly. The trained rows
come once for every seed and learning rate of F. A run that was stopped goes on where it
was.

`time` measures a step of either stage, and images a second of every generator.
"""

import argparse
import functools
import itertools
import pathlib
import sys
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from configs import tocoad_elpv  # noqa: E402
from jaxad import data, losses, methods, models, rng
from jaxad.augment import anomalies, views  # noqa: E402
from jaxad.bank import memory_bank
from jaxad.detectors import base, knn  # noqa: E402
from jaxad.inference import folder, places  # noqa: E402
from jaxad.methods import tocoad_parts  # noqa: E402
from jaxad.metrics import PixelMetrics, auroc  # noqa: E402
from jaxad.run import experiment, features
from jaxad.run import pipeline as pipeline_lib

UNTRAINED = {"stages": ()}
UNGUIDED = {"stages": ("ncl",), "guide": "none"}
# A plain sum of the losses.
LIGHT = {"lambda_neg.gradient": 1.0}
# What each trained row changes in config.method.
STUDIES = {
    "stages": {
        "stages I and II": {},
        "lambda_neg 1": LIGHT,
        "stage II, no guide": UNGUIDED,
    },
    "levels": {
        f"{name}, no guide": UNGUIDED | {"levels": levels}
        for name, levels in (
            ("layer3", ("layer3",)),
            ("layer4", ("layer4",)),
            ("layer2 and 3", ("layer2", "layer3")),
        )
    },
    "guide": {
        "lambda_neg 10": {"lambda_neg.gradient": 10.0},
        "lambda_neg 1000": {"lambda_neg.gradient": 1000.0},
        "feature, lambda_neg 1": {"guide": "feature"},
        "feature, lambda_neg 10": {"guide": "feature", "lambda_neg.feature": 10.0},
        "no skips": {"decoder.skip": "none"},
    },
    "views": {
        "equal views, no guide": UNGUIDED
        | {"views.scale": (1.0, 1.0), "views.jitter": 0.0},
        "crops alone, no guide": UNGUIDED | {"views.jitter": 0.0},
        "colours alone, no guide": UNGUIDED | {"views.scale": (1.0, 1.0)},
        "strong views, no guide": UNGUIDED
        | {"views.scale": (0.3, 1.0), "views.jitter": 0.4, "views.flip": True},
    },
    "steps": {
        f"{steps} steps, no guide": UNGUIDED | {"ncl.min_steps": steps}
        for steps in (50, 450)
    },
}
# Training draws Perlin noise.
HELD_OUT = {"cutpaste": anomalies.cutpaste, "nsa": anomalies.nsa}


def table(arguments) -> None:
    cache = pathlib.Path(tocoad_elpv.get_config().compilation_cache).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(cache))
    columns = ["", "rate of F", "seed", "CKA", "rank", "image AUROC", "over 10 banks"]
    for name in HELD_OUT:
        columns += [f"{name} pixel AUROC", f"{name} AUPRO 0.3"]
    print("| " + " | ".join([*columns, "seconds"]) + " |")
    print("|" + "---|" * (len(columns) + 1))
    # Nothing in the first row is random.
    _row(arguments, "no training", UNTRAINED, arguments.seeds[0], rate=None)
    for seed, rate in itertools.product(arguments.seeds, arguments.rates):
        for row, changes in STUDIES[arguments.study].items():
            _row(arguments, row, changes, seed, rate)


def _row(arguments, row, changes, seed, rate) -> None:
    config = tocoad_elpv.get_config()
    config.dataset.image_size = (arguments.size,) * 2
    config.seed, config.overlays = seed, 0
    config.train.stage_cache = str(pathlib.Path(arguments.workdir, "stages"))
    config.method.update_from_flattened_dict(changes)
    if rate:
        config.method.ncl.backbone_learning_rate = rate
    name = f"{seed}-{rate}-{row.replace(' ', '_')}"
    workdir = pathlib.Path(arguments.workdir, name)
    outcome = experiment.run(config, str(workdir))
    (detector,) = folder.load(places.find(workdir / "mono")).members
    pixels = [
        value
        for generator in HELD_OUT.values()
        for value in _pixels(config, detector, generator)
    ]
    banks, likeness, rank = _over_banks(config, detector)
    print(
        f"| {row} | {rate or ''} | {seed} | {likeness:.3f} | {rank:.1f} | "
        f"{outcome['mean']['image_auroc']:.4f} | "
        f"{np.mean(banks):.4f} ± {np.std(banks, ddof=1):.4f} | "
        + " | ".join(f"{number:.4f}" for number in pixels)
        + f" | {outcome['seconds']['total']:.0f} |",
        flush=True,
    )


def _over_banks(config, detector) -> tuple[list[float], float, float]:
    """Image AUROC with coresets that start at ten patches drawn once for all rows; CKA
    and rank of the test descriptors."""

    def describe(split, params=detector.params):
        return features.extract(
            functools.partial(
                base.describe, detector.method, detector.backbone, params
            ),
            split,
            config.batch_size,
            label=split.name,
        )

    train = data.load(config.dataset, "mono", "train").normal()
    test = data.load(config.dataset, "mono", "test")
    normal, queries = describe(train), describe(test)
    rows = normal.reshape(-1, normal.shape[-1])
    size = knn.coreset_size(config.coreset.ratio, len(rows))
    found = []
    for start in np.random.default_rng(0).integers(0, len(rows), 10):
        bank = rows[memory_bank.greedy_coreset(rows, size, start=int(start))]
        distances, _ = memory_bank.nearest(
            queries.reshape(-1, queries.shape[-1]), bank, 1
        )
        scores = np.asarray(distances).reshape(len(test), -1).max(1)
        found.append(auroc(scores, test.labels))
    untrained = describe(test, {"backbone": _pretrained(config.backbone.name)})
    return found, *_likeness(queries, untrained)


def _likeness(one, other) -> tuple[float, float]:
    """Linear centred kernel alignment of descriptors [..., d], and the first one's
    participation ratio.

    References:
      Kornblith et al., Similarity of neural network representations revisited, ICML
      2019 (arXiv:1905.00414), section 3.
    """
    one, other = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (one, other))
    one, other = one - one.mean(0), other - other.mean(0)
    mine, theirs, both = one.T @ one, other.T @ other, one.T @ other
    alike = np.square(both).sum() / np.linalg.norm(mine) / np.linalg.norm(theirs)
    return float(alike), float(np.trace(mine) ** 2 / np.square(mine).sum())


@functools.cache
def _pretrained(name: str):
    module, variables = models.load(name)
    return models.fold(module, variables)


def _pixels(config, detector, generator) -> tuple[float, float]:
    """Pixel AUROC and AUPRO on normal test images with drawn defects."""
    split = data.load(config.dataset, "mono", "test")
    normal = np.flatnonzero(split.labels == 0)
    key = rng.stream(0, "held-out anomalies")

    @jax.jit
    def draw(indices, images):
        keys, others = rng.per_example(key, indices), jnp.roll(images, 1, 0)
        if generator is anomalies.nsa:
            return jax.vmap(generator)(keys, images, others)
        return jax.vmap(generator)(keys, images)

    metrics, size = PixelMetrics(), config.batch_size
    for start in range(0, len(normal) - size + 1, size):
        indices = normal[start : start + size]
        images = np.stack([split[int(i)]["image"] for i in indices])
        defects, masks = draw(indices, images)
        _, maps = base.predict(detector, defects)
        metrics.update(np.asarray(maps), np.asarray(masks).astype(np.uint8))
    values = metrics.compute()
    return values["pixel_auroc"], values["aupro_0.3"]


def timings(arguments) -> None:
    side, batch_size = arguments.size, arguments.batch
    config = tocoad_elpv.get_config()
    config.dataset.image_size = (side, side)
    config.method.dnp.batch_size = config.method.ncl.batch_size = batch_size
    pipeline = pipeline_lib.load(config)
    images = np.random.default_rng(0).random((batch_size, side, side, 3), np.float32)
    images = jnp.asarray(images)
    index = jnp.arange(batch_size, dtype=jnp.int32)
    batch = {"image": images, "index": index, "progress": jnp.float32(0.1)}

    print(f"{side} x {side}, batches of {batch_size}, {jax.devices()[0].device_kind}")
    print("| | ms an image | images a second | of a step I without | of a step II |")
    print("|---|---|---|---|---|")
    params, steps = {"backbone": pipeline.variables}, []
    for stage in pipeline.method.stages:
        init = jax.jit(stage.init, static_argnums=2)
        state = init(jax.random.key(0), params, images.shape[1:])
        steps.append(_seconds(stage.step, state, batch, jax.random.key(0)))
        _line(f"step of stage {stage.name}", steps[-1] / batch_size)
        if stage.name == "dnp":
            bare = _nothing_drawn(pipeline)
            seconds = _seconds(bare.step, state, batch, jax.random.key(0))
            _line("the same, nothing drawn", seconds / batch_size)
            added, steps[-1] = steps[-1] / seconds - 1, seconds
            params = stage.finish(state, params)
    for name, function, *inputs in _parts(pipeline, params, state, images):
        seconds = _seconds(function, *inputs)
        _line(name, seconds / batch_size, "", seconds / steps[-1])
    keys, others = jax.random.split(jax.random.key(0), batch_size), images[::-1]
    for name, function, *inputs in (
        ("perlin, texture", anomalies.perlin, images, others),
        (
            "perlin, noise",
            functools.partial(anomalies.perlin, texture=None),
            images,
        ),
        ("cutpaste", anomalies.cutpaste, images),
        ("cutpaste_patch", anomalies.cutpaste_patch, images),
        ("cutpaste_scar", anomalies.cutpaste_scar, images),
        ("nsa", anomalies.nsa, images, others),
        ("weak view", views.weak_view, images),
    ):
        seconds = _seconds(jax.vmap(function), keys, *inputs)
        _line(name, seconds / batch_size, *(seconds / step for step in steps))
    print(f"\nPerlin noise with textures adds {added:.1%} to a step of stage I.")


def _nothing_drawn(pipeline):
    """Stage I on images as they are."""

    def leave(key, batch):
        return batch["image"], (batch["image"][..., 0] > 0.9).astype(jnp.float32)

    with mock.patch.object(tocoad_parts, "generator", lambda options: leave):
        return methods.build(pipeline.config, pipeline.backbone).stages[0]


def _parts(pipeline, params, state, images):
    """(name, function, inputs) of what a step of stage II is made of."""
    config, backbone = pipeline.config, pipeline.backbone
    weights, statistics = (params["backbone"][n] for n in ("params", "batch_stats"))
    three = jnp.concatenate([images] * 3)

    def maps_of(weights, images):
        variables = {"params": weights, "batch_stats": statistics}
        return backbone.module.apply(variables, images)[1]

    def backward(weights, images):
        return jax.grad(
            lambda weights: sum(
                x.mean() for x in jax.tree.leaves(maps_of(weights, images))
            )
        )(weights)

    yield "F forward, three images", maps_of, weights, three
    yield "F forward and backward, three images", backward, weights, three

    discriminator = tocoad_parts.discriminator(
        config.method, backbone, config.dataset.image_size
    )
    maps = [jax.jit(maps_of)(weights, images)[level] for level in tocoad_parts.LEVELS]

    def guide(maps):
        logits = discriminator.apply(
            params["discriminator"], maps, config.dataset.image_size
        )
        return losses.focal_loss(logits, jnp.zeros(logits.shape[:-1]))

    yield "D forward, and backward to its input", jax.grad(guide), maps

    optimiser = tocoad_parts.optimiser(config.method.ncl)
    yield "Adam", optimiser.update, state["learnt"], state["optimiser"], state["learnt"]


def _line(name, seconds, *shares) -> None:
    shares = [share and f"{share:.1%}" for share in shares] or ["", ""]
    print(
        f"| {name} | {1e3 * seconds:.2f} | {1 / seconds:.0f} | {' | '.join(shares)} |",
        flush=True,
    )


def _seconds(function, *inputs, repeats: int = 15) -> float:
    """The fastest of a few calls, compilation left out."""
    function, spent = jax.jit(function), []
    jax.block_until_ready(function(*inputs))
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        spent.append(time.perf_counter() - start)
    return min(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("table", "time"))
    parser.add_argument("--study", choices=STUDIES, default="stages")
    parser.add_argument("--workdir", default="runs/tocoad_benchmark")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 1e-4])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    (table if arguments.what == "table" else timings)(arguments)


if __name__ == "__main__":
    main()
