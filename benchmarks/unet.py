"""U-Net on a ResNet-50: jaxad beside segmentation_models.pytorch, in one run.

  python benchmarks/unet.py [--peer-python PYTHON] [--size 256] [--batch 2]

Both have the same seeded weights, copied over by name, and see the same images: the
numbers of parameters, the largest difference of a logit, and seconds of a forward pass
and of a training step (focal loss, AdamW) on the same `--threads` cores, the fastest of
`--repeats`. The peer has an environment of its own, whose interpreter is named: `pip
install segmentation-models-pytorch==0.6.0`, which brings torch and torchvision. CPU
seconds are what a shared machine tells best.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np


def seeded(name: str, shape) -> np.ndarray:
    """float32 values of a PyTorch parameter, which keep the signal's magnitude."""
    random = np.random.default_rng([len(shape), *name.encode()])
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 4:
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return values.astype(np.float32)
    return np.asarray(0.1 * random.standard_normal(shape), np.float32)


def images_and_masks(batch: int, size: int):
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, size, size, 3)).astype(np.float32)
    masks = np.zeros((batch, size, size), np.float32)
    masks[:, : size // 4, : size // 4] = 1
    return images, masks


def measured(run, repeats: int) -> dict[str, float]:
    """Wall-clock and CPU seconds of the fastest call, after a first one."""
    run()
    spent = []
    for _ in range(repeats):
        start, cpu = time.perf_counter(), time.process_time()
        run()
        spent.append((time.process_time() - cpu, time.perf_counter() - start))
    return {"wall": min(s for _, s in spent), "cpu": min(s for s, _ in spent)}


def peer(folder: pathlib.Path, options) -> dict:
    import torch

    # A torchvision of another build has no operators, and none is needed here.
    torch.library.register_fake = lambda name: lambda function: function
    import segmentation_models_pytorch as smp

    torch.set_num_threads(options.threads)
    network = smp.Unet("resnet50", encoder_weights=None, classes=1)
    shapes = {name: tuple(x.shape) for name, x in network.state_dict().items()}
    kept = {n: s for n, s in shapes.items() if not n.endswith("num_batches_tracked")}
    state = {name: seeded(name, shape) for name, shape in kept.items()}
    np.savez(folder / "state.npz", **state)
    tensors = {name: torch.tensor(x) for name, x in state.items()}
    network.load_state_dict(tensors, strict=False)
    images, masks = images_and_masks(options.batch, options.size)
    images, masks = torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(masks)
    network.eval()
    with torch.inference_mode():
        np.save(folder / "logits.npy", network(images)[:, 0].numpy())
        forward = measured(lambda: network(images), options.repeats)
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-4, weight_decay=1e-4)
    loss_of = smp.losses.FocalLoss("binary", alpha=None, gamma=2.0)

    def step():
        optimiser.zero_grad()
        loss_of(network(images)[:, 0], masks).backward()
        optimiser.step()

    return {
        "name": f"segmentation_models.pytorch {smp.__version__}",
        "parameters": sum(x.numel() for x in network.parameters()),
        "forward": forward,
        "step": measured(step, options.repeats),
    }


def ours(folder: pathlib.Path, options) -> dict:
    import jax
    import jax.numpy as jnp
    import optax

    from jaxad import losses, models
    from jaxad.models import pretrained, resnet, unet

    spec = models.spec("resnet50")
    encoder, decoder = spec.module(), unet.Decoder()
    size = (options.size, options.size)
    images, masks = map(jnp.asarray, images_and_masks(options.batch, options.size))

    def levels(variables, images, **more):
        found = encoder.apply(variables, images, **more)
        (_, maps), moved = found if more else (found, None)
        return [maps[level] for level in unet.LEVELS], moved

    with np.load(folder / "state.npz") as file:
        state = dict(file)
    parts = {"encoder": {}, "decoder": {}}
    for name, value in state.items():
        part = "encoder" if name.startswith("encoder.") else "decoder"
        parts[part][name.removeprefix("encoder.")] = value
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images[:1]))
    fc = shapes["params"].pop("fc")  # which the peer has not
    variables = {
        "encoder": pretrained.assign("peer", parts["encoder"], shapes, resnet.rename)
    }
    whole = jax.tree.map(lambda x: jnp.zeros(x.shape), fc)
    params = variables["encoder"]["params"]
    variables["encoder"]["params"] = params | {"fc": whole}
    shown = jax.eval_shape(lambda: levels(variables["encoder"], images)[0])
    zeros = [jnp.zeros((1, *x.shape[1:])) for x in shown]
    shapes = jax.eval_shape(lambda: decoder.init(jax.random.key(0), zeros, size))
    variables["decoder"] = pretrained.assign(
        "peer", parts["decoder"], shapes, unet.rename
    )
    count = sum(
        x.size for x in jax.tree.leaves([params, variables["decoder"]["params"]])
    )
    folded = {
        "encoder": models.fold(encoder, variables["encoder"]),
        "decoder": models.fold(decoder, variables["decoder"]),
    }

    @jax.jit
    def forward(variables, images):
        maps, _ = levels(variables["encoder"], images)
        return decoder.apply(variables["decoder"], maps, size)[..., 0]

    optimiser = optax.adamw(1e-4, weight_decay=1e-4)

    def loss_of(learnt, statistics):
        made = {p: {"params": learnt[p], "batch_stats": statistics[p]} for p in learnt}
        training = dict(train=True, mutable=["batch_stats"])
        maps, first = levels(made["encoder"], images, **training)
        logits, second = decoder.apply(made["decoder"], maps, size, **training)
        moved = {"encoder": first["batch_stats"], "decoder": second["batch_stats"]}
        return losses.binary_focal_loss(logits[..., 0], masks), moved

    @jax.jit
    def step(learnt, statistics, moments):
        grads, statistics = jax.grad(loss_of, has_aux=True)(learnt, statistics)
        updates, moments = optimiser.update(grads, moments, learnt)
        return optax.apply_updates(learnt, updates), statistics, moments

    logits = np.asarray(forward(folded, images))
    expected = np.load(folder / "logits.npy")
    learnt = {part: variables[part]["params"] for part in variables}
    statistics = {part: variables[part]["batch_stats"] for part in variables}
    moments = optimiser.init(learnt)
    return {
        "name": f"jaxad, jax {jax.__version__}",
        "parameters": count,
        "difference": float(np.abs(logits - expected).max()),
        "largest": float(np.abs(expected).max()),
        "forward": measured(
            lambda: jax.block_until_ready(forward(folded, images)), options.repeats
        ),
        "step": measured(
            lambda: jax.block_until_ready(step(learnt, statistics, moments)),
            options.repeats,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--worker", default="")
    parser.add_argument("--folder", default="")
    options = parser.parse_args()
    if options.worker:
        mine = sorted(os.sched_getaffinity(0))[: options.threads]
        os.sched_setaffinity(0, mine)
        run = {"peer": peer, "ours": ours}[options.worker]
        print(json.dumps(run(pathlib.Path(options.folder), options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for worker, python in (("peer", options.peer_python), ("ours", sys.executable)):
            command = [python, __file__, "--worker", worker, "--folder", folder]
            for name in ("size", "batch", "repeats", "threads"):
                command += [f"--{name}", str(getattr(options, name))]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{worker} failed:\n{done.stderr[-2000:]}")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    print("| | parameters | forward, s (CPU s) | training step, s (CPU s) |")
    print("|---|--:|--:|--:|")
    for row in rows:
        cells = [
            f"{row[n]['wall']:.2f} ({row[n]['cpu']:.2f})" for n in ("forward", "step")
        ]
        print(f"| {row['name']} | {row['parameters']:,} | {' | '.join(cells)} |")
    theirs, mine = rows
    ratios = [theirs[n]["cpu"] / mine[n]["cpu"] for n in ("forward", "step")]
    print(f"| ratio of CPU seconds | | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    print(
        f"Largest difference of a logit: {mine['difference']:.1e}, of logits up to "
        f"{mine['largest']:.2f}"
    )


if __name__ == "__main__":
    main()
