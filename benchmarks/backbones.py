"""Images a second of every backbone up to its deepest default tap, beside PyTorch.

  python benchmarks/backbones.py [--peer-python PATH] [--names wide_resnet50_2,...]

The peers are PyTorch eager (as it comes, and in channels_last) and `torch.compile` (in
channels_last), with the same networks from timm and torchvision cut behind the same
tap. They run in this interpreter or in the one that --peer-python names; without
PyTorch their columns stay empty. All on the CPU, on all of its cores, the same images,
one process a measurement: the first call (compilation included), then the fastest of
the calls in --seconds, which other programs on the machine disturb least. Where they
never rest, --cpu-time counts the processor's seconds; `taskset` to one core for it.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time

NAMES = (
    "efficientnet_lite0",
    "resnet18",
    "resnet50",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext101_32x8d",
    "densenet201",
    "dinov2_vits14",
    "dinov2_vitb14",
    "dinov2_vits14_reg",
    "dinov2_vitb14_reg",
    "dinov3_vits16",
    "dinov3_vitb16",
)
RUNNERS = ("jaxad", "eager", "channels_last", "compile")


def cores():
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def jaxad(name, dtype, images):
    """A call without arguments that computes the taps of `images`."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxad import models

    spec = models.spec(name)
    module = spec.module(dtype=getattr(jnp, dtype))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.asarray(images[:1]))
    random = np.random.default_rng(0)

    def fill(path, shape):
        # Values do not matter for speed as long as they stay finite and normal.
        if path[-1].key in ("var", "scale"):
            return jnp.ones(shape.shape)
        scale = 1 / np.sqrt(max(np.prod(shape.shape[:-1]), 1))
        return jnp.asarray(random.normal(0, scale, shape.shape), jnp.float32)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    features = models.extractor(module, spec.taps)
    params = models.fold(module, variables)
    compute, images = jax.jit(features), jnp.asarray(images)
    return lambda: jax.block_until_ready(compute(params, images))


def torch_peer(name, dtype, images, *, channels_last, compiled):
    import torch

    torch.set_num_threads(cores())
    model = _torch_model(name).eval().to(getattr(torch, dtype))
    images = torch.tensor(images).permute(0, 3, 1, 2).to(getattr(torch, dtype))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images, model = (x.to(memory_format=layout) for x in (images, model))
    if compiled:
        model = torch.compile(model)

    def compute():
        with torch.inference_mode():
            model(images)

    return compute


def _torch_model(name):
    import timm
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor

    if name.startswith("dino"):
        family, size = name.split("_")[0], {"s": "small", "b": "base"}[name[10]]
        patch = "patch14" if family == "dinov2" else "patch16"
        registers = "reg4_" if name.endswith("_reg") else ""
        network = f"vit_{size}_{patch}_{registers}{family}"
        # timm fixes the size of DINOv2's images; DINOv3 takes any.
        options = dict(dynamic_img_size=True)
        return timm.create_model(network, **options)
    if name == "efficientnet_lite0":
        network = "tf_efficientnet_lite0"
        return timm.create_model(network, features_only=True, out_indices=(2, 3))
    model = getattr(torchvision.models, name)(weights=None)
    if name == "densenet201":
        return create_feature_extractor(
            model, ["features.denseblock2", "features.denseblock3"]
        )
    return create_feature_extractor(model, ["layer2", "layer3"])


def worker(runner, name, dtype, batch, size, seconds, clock):
    """Prints what one runner takes, as JSON."""
    import numpy as np

    images = np.random.RandomState(0).randn(batch, size, size, 3).astype(np.float32)
    make = {
        "jaxad": jaxad,
        "eager": functools.partial(torch_peer, channels_last=False, compiled=False),
        "channels_last": functools.partial(
            torch_peer, channels_last=True, compiled=False
        ),
        "compile": functools.partial(torch_peer, channels_last=True, compiled=True),
    }[runner]
    compute = make(name, dtype, images)
    start = clock()
    compute()
    first = clock() - start
    spent = []
    while len(spent) < 3 or sum(spent) < seconds:
        start = clock()
        compute()
        spent.append(clock() - start)
    print(json.dumps({"first": first, "rate": batch / min(spent)}))


def measure(python, runner, name, dtype, options):
    """A worker's result, or None if it fails (no PyTorch, or it cannot do this)."""
    command = [python, __file__, "--worker", runner, "--names", name]
    command += ["--dtypes", dtype, "--batch", str(options.batch)]
    command += ["--size", str(_size(name, options.size))]
    command += ["--seconds", str(options.seconds)]
    command += ["--cpu-time"] if options.cpu_time else []
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{name} {dtype} {runner}: {reason}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def _size(name, size):
    patch = 14 if name.startswith("dinov2") else 16
    return round(size / patch) * patch if name.startswith("dino") else size


def table(options):
    print(
        f"{cores()} cores, batches of {options.batch} at {options.size}x"
        f"{options.size}; images/s (first call in s); ratios: jaxad / peer\n"
    )
    columns = ("backbone", "dtype", *RUNNERS, "/eager", "/ch. last", "/compile")
    widths = (20, 9, *(15 for _ in RUNNERS), 9, 9, 9)

    def row(cells):
        pairs = zip(cells, widths, strict=True)
        print("".join(f"{cell:<{width}}" for cell, width in pairs), flush=True)

    row(columns)
    for name in options.names.split(","):
        for dtype in options.dtypes.split(","):
            results = {
                runner: measure(
                    sys.executable if runner == "jaxad" else options.peer_python,
                    runner, name, dtype, options,
                )
                for runner in options.runners.split(",")
            }  # fmt: skip
            cells = [
                f"{r['rate']:.1f} ({r['first']:.1f})" if r else "-"
                for r in (results.get(runner) for runner in RUNNERS)
            ]
            own = results.get("jaxad")
            ratios = [
                f"{own['rate'] / peer['rate']:.2f}" if own and peer else "-"
                for peer in (results.get(runner) for runner in RUNNERS[1:])
            ]
            row((name, dtype, *cells, *ratios))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--runners", default=",".join(RUNNERS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--worker", choices=RUNNERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    if options.worker:
        worker(options.worker, options.names, options.dtypes, options.batch,
               options.size, options.seconds, clock)  # fmt: skip
    else:
        table(options)
