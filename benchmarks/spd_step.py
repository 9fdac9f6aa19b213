"""A training step of SPD: SimSiam beside plain PyTorch, and what the term adds.

  python benchmarks/spd_step.py peer --peer-python PYTHON [--network resnet18]
  python benchmarks/spd_step.py term [--network resnet18]

`peer` has the same network, heads, batch, threads and optimiser on either side, in
float32, and takes steps in turn. jaxad cuts its views in the step, and they are timed
alone as well; PyTorch has them ready, and lays channels last where that is faster.
Ratios are of the step less its views. `term` is the same step without and
with SPD's term, the views of each alone, and the gradient of four views passed through
the network one after the other and all at once, each with its own statistics. CPU
seconds are those of all threads, which other work changes less than the clock's.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from configs import spd_elpv  # noqa: E402
from jaxad import models  # noqa: E402
from jaxad.devices import allocation  # noqa: E402
from jaxad.inference import folder  # noqa: E402
from jaxad.methods import spd  # noqa: E402

_HERE = pathlib.Path(__file__).parent


def make(arguments, eta: float, still: bool):
    """(config, networks, variables, batch)."""
    side = (arguments.side,) * 2
    config = spd_elpv.get_config(f"eta={eta}")
    config.dataset.image_size, config.backbone.name = side, arguments.network
    config.method.update(batch_size=arguments.batch, zero_residuals=False)
    config.method.update(projector=(2048,) * 3, bottleneck=512)
    if still:
        unchanged = dict(jittered=0.0, grey=0.0, blurred=0.0, flipped=0.0)
        config.method.strong.update(unchanged)
    images = np.random.default_rng(0).random((arguments.batch, *side, 3), np.float32)
    index = jnp.arange(arguments.batch, dtype=jnp.int32)
    batch = {"image": jnp.asarray(images), "index": index, "label": index}
    batch["progress"] = jnp.float32(0.5)
    variables = models.load(arguments.network, "random")[1]
    return config, folder.networks(config), variables, batch


def make_step(arguments, eta: float, still: bool):
    _, networks, variables, batch = make(arguments, eta, still)
    (stage,) = networks.method.stages
    init = jax.jit(lambda key, params: stage.init(key, params, None))
    state = [init(jax.random.key(0), {"backbone": variables})]
    program = jax.jit(stage.step, donate_argnums=0)

    def step():
        state[0], curves = program(state[0], batch, jax.random.key(0))
        jax.block_until_ready((state, curves))

    return step


def make_views(arguments, eta: float, still: bool):
    config, _, _, batch = make(arguments, eta, still)
    program = jax.jit(spd._views(config.method, (arguments.side,) * 2))
    return lambda: jax.block_until_ready(program(jax.random.key(0), batch))


def make_gradient(arguments, together: bool):
    """Of a network alone, of four views."""
    config, networks, variables, batch = make(arguments, 0.0, True)
    learnt = {"backbone": variables["params"]}
    images = jnp.stack([batch["image"] * scale for scale in (1.0, 0.9, 0.8, 0.7)])

    def loss(learnt, images):
        def one(view):
            statistics, backbone = variables["batch_stats"], networks.backbone
            found, _ = spd._show(
                config.method, backbone, {}, learnt, statistics, {"view": view}
            )
            return (found["view"]["pooled"] ** 2).sum()

        return jax.vmap(one)(images).sum() if together else sum(map(one, images))

    program = jax.jit(jax.grad(loss))
    return lambda: jax.block_until_ready(program(learnt, images))


def timed(step) -> tuple[float, float]:
    """Seconds by the clock, and by the CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - clock, time.process_time() - cpu


def in_turn(steps: dict, repeats: int) -> dict[str, np.ndarray]:
    """Medians of (clock, CPU), the first call of each apart."""
    for name, step in steps.items():
        cpu = timed(step)[1]
        print(f"{name:<32}first call {cpu:6.1f} CPU s", flush=True)
    found = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            found[name].append(timed(step))
    return {name: np.median(rows, axis=0) for name, rows in found.items()}


def peer(arguments) -> None:
    threads = len(os.sched_getaffinity(0))
    command = [arguments.peer_python, _HERE / "torch_step.py", arguments.network]
    command += [arguments.batch, arguments.side, threads]
    with subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        about = process.stdout.readline().strip()

        def theirs():
            process.stdin.write("\n")
            process.stdin.flush()
            reported.append([float(x) for x in process.stdout.readline().split()])

        reported: list[list[float]] = []
        steps = {
            "jaxad": make_step(arguments, 0.0, True),
            "views": make_views(arguments, 0.0, True),
            "PyTorch": theirs,
        }
        found = in_turn(steps, arguments.repeats)
        process.stdin.close()
    clock, cpu = np.median(reported[1:], axis=0)
    ours, views = found["jaxad"], found["views"]
    print(f"jax {jax.__version__}, torch {about}, {threads} threads")
    print(f"{'':<10}{'clock s':>10}{'CPU s':>10}")
    print(f"{'jaxad':<10}{ours[0]:10.3f}{ours[1]:10.3f}")
    print(f"{'its views':<10}{views[0]:10.3f}{views[1]:10.3f}")
    print(f"{'PyTorch':<10}{clock:10.3f}{cpu:10.3f}")
    ours = ours - views
    print(f"{'ratio':<10}{clock / ours[0]:10.2f}{cpu / ours[1]:10.2f}")


def term(arguments) -> None:
    steps = {
        "step, eta 0": make_step(arguments, 0.0, False),
        "step, eta 0.1": make_step(arguments, 0.1, False),
        "views, eta 0": make_views(arguments, 0.0, False),
        "views, eta 0.1": make_views(arguments, 0.1, False),
        "gradient of 4 views, apart": make_gradient(arguments, False),
        "gradient of 4 views, together": make_gradient(arguments, True),
    }
    for name, (clock, cpu) in in_turn(steps, arguments.repeats).items():
        print(f"{name:<32}{clock:8.3f} s{cpu:8.3f} CPU s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("peer", "term"))
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument(
        "--network", choices=("resnet18", "efficientnet_lite0"), default="resnet18"
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    allocation.keep_freed()  # as every command does
    peer(arguments) if arguments.what == "peer" else term(arguments)


if __name__ == "__main__":
    main()
