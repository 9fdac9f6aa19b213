"""ReConPatch's training step: jaxad beside the same mathematics in PyTorch.

    python benchmarks/reconpatch.py --peer-python .venv-torch/bin/python
    python benchmarks/reconpatch.py --together 2 4 8 --widths 64 512

One step is what the paper trains: slow copies embed a batch of patches, similarities
(1) to (6), loss (7), AdamP, slow copies (8). PyTorch's is written as one writes it
there, with dense matrices and autograd; it gets the same start and the same batches,
and the losses of both are compared before anything is timed. The two take turns, and
the best round of each counts. Ours runs through the program of the training loop.

With --together, steps of so many heads of different seeds in one program
(`train_together`) beside one after the other.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from jaxad import rng
from jaxad.fields import check
from jaxad.methods import reconpatch, reconpatch_fields
from jaxad.training import feed, steps

PEER = """
import json, math, sys, time
import numpy as np, torch

folder = sys.argv[1]
o = json.load(open(folder + "/options.json"))
start = np.load(folder + "/start.npz")
table = torch.from_numpy(np.load(folder + "/table.npy"))
order = torch.from_numpy(np.load(folder + "/order.npy").astype(np.int64))
torch.set_num_threads(o["threads"])

student = {n: torch.from_numpy(start[n].copy()).requires_grad_() for n in start.files}
teacher = {n: torch.from_numpy(start[n].copy()) for n in start.files}
moments = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in student.items()}


def embed(p, x):
    return (x @ p["f_kernel"] + p["f_bias"]) @ p["g_kernel"] + p["g_bias"]


def squared(z):
    products = z @ z.T
    squares = products.diagonal()
    return (squares[:, None] + squares[None] - 2 * products).clamp(min=0)


def soft_labels(z):
    z = torch.nn.functional.normalize(z)
    d = squared(z)
    nearest = d.topk(o["k"], largest=False).values
    near = (d <= nearest[:, -1:]).float()
    closer = (d <= nearest[:, o["k"] // 2 - 1, None]).float()
    shared = near @ near.T / near.sum(1, keepdim=True) * near
    mutual = closer * closer.T
    expanded = mutual @ shared / mutual.sum(1, keepdim=True)
    contextual = (expanded + expanded.T) / 2
    return o["alpha"] * torch.exp(-d / o["sigma"]) + (1 - o["alpha"]) * contextual


def loss_of(z, w):
    d = (squared(z) + 1e-9).sqrt()
    delta = d / d.mean(1, keepdim=True)
    push = (o["margin"] - delta).clamp(min=0)
    return (w * delta**2 + (1 - w) * push**2).sum() / len(z)


def project(u, g, w):
    for view in (lambda x: x.T, lambda x: x.reshape(1, -1)):
        gv, wv = view(g), view(w)
        cosine = torch.nn.functional.cosine_similarity(gv, wv, eps=1e-8).abs()
        if cosine.max() < 0.1 / math.sqrt(wv.shape[1]):
            unit = wv / (wv.norm(dim=1, keepdim=True) + 1e-8)
            radial = unit * (unit * view(u)).sum(1, keepdim=True)
            return u - (radial.T if radial.shape == wv.shape and wv.shape[0] > 1
                        else radial.reshape(u.shape)), 0.1
    return u, 1.0


@torch.no_grad()
def adamp(t, rate):
    for name, p in student.items():
        g, (m, v) = p.grad, moments[name]
        m.mul_(0.9).add_(g, alpha=0.1)
        v.mul_(0.999).addcmul_(g, g, value=0.001)
        u = m / (v.sqrt() / math.sqrt(1 - 0.999**t) + 1e-8)
        ratio = 1.0
        if p.ndim > 1:
            u, ratio = project(u, g, p)
        p.mul_(1 - rate * o["weight_decay"] * ratio)
        p.add_(u, alpha=-rate / (1 - 0.9**t))
        p.grad = None


def step(t):
    x = table[order[t % len(order)]]
    with torch.no_grad():
        w = soft_labels(embed(teacher, x))
    z = embed(student, x)
    loss = loss_of(z, w)
    loss.backward()
    adamp(t + 1, o["rate"] * 0.5 * (1 + math.cos(math.pi * t / o["total"])))
    with torch.no_grad():
        for name, p in student.items():
            teacher[name].lerp_(p, 1 - o["ema"])
    return loss.item()


done = 0
for line in sys.stdin:
    count, begin, loss = int(line), time.perf_counter(), None
    for t in range(done, done + count):
        loss = step(t)
    done += count
    print(json.dumps({"seconds": time.perf_counter() - begin, "loss": loss,
                      "version": torch.__version__}), flush=True)
"""


class Jaxad:
    """Steps of our stage, as the training loop runs them."""

    def __init__(self, stage, state, table, order, total):
        source = feed.Table(stage, table, 0, None)
        self._run = steps.alone(stage, source)
        self._states, self._order, self._source = [state], order, source
        self._key, self._done = rng.stream(0, stage.name), 0
        self._total = np.int32(total)

    def __call__(self, count):
        rows = np.zeros((self._source.steps_a_call, self._order.shape[1]), np.int32)
        steps = np.arange(self._done, self._done + count)
        rows[:count] = self._order[steps % len(self._order)]
        begin = time.perf_counter()
        self._states, (metrics,), _ = self._run(
            self._states,
            self._source.batches(rows),
            np.int32(0),
            self._done,
            self._done + count,
            key=self._key,
            total=self._total,
        )
        loss = float(metrics["loss"])
        self._done += count
        return time.perf_counter() - begin, loss


class Torch:
    """The peer, in an interpreter of its own; idle while it is not its turn."""

    def __init__(self, python, folder):
        command = [python, "-c", PEER, str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = None

    def __call__(self, count):
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self.version = answer["version"]
        return answer["seconds"], answer["loss"]

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def compare(width, args):
    options = reconpatch.fields()
    options.update({"dim": width, "batch_size": args.batch, "learning_rate": 1e-4})
    check(reconpatch_fields.FIELDS, options, "method")
    stage = reconpatch._stage(options)
    random = np.random.default_rng(0)
    latent = random.normal(size=(8 * args.batch, 16)) @ random.normal(size=(16, width))
    noise = random.normal(size=latent.shape)
    table = np.maximum(latent + noise, 0).astype(np.float32)
    order = random.permutation(len(table)).reshape(-1, args.batch)
    total = args.rounds * args.steps + 2
    state = jax.jit(stage.init, static_argnums=2)(jax.random.key(0), {}, (width,))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        np.save(folder / "table.npy", table)
        np.save(folder / "order.npy", order)
        start = {
            f"{network}_{name}": np.asarray(value)
            for network, values in state["student"].items()
            for name, value in values.items()
        }
        np.savez(folder / "start.npz", **start)
        fields = dict(options, rate=options.learning_rate, total=total)
        fields["threads"] = args.threads
        (folder / "options.json").write_text(json.dumps(fields))
        ours = Jaxad(stage, state, table, order, total)
        theirs = Torch(args.peer_python, folder) if args.peer_python else None
        _, loss = ours(2)
        if theirs is not None:
            _, other = theirs(2)
            np.testing.assert_allclose(loss, other, rtol=1e-3)
        best, peer = np.inf, np.inf
        for _ in range(args.rounds):
            best = min(best, ours(args.steps)[0])
            if theirs is not None:
                peer = min(peer, theirs(args.steps)[0])
        if theirs is not None:
            theirs.close()
    return args.steps / best, args.steps / peer, theirs and theirs.version


def together(width, heads, args):
    """Best seconds of a round of so many heads: (one after the other, in one program).

    Steps alone, as the training loop runs them; the two take turns.
    """
    options = reconpatch.fields()
    options.update({"dim": width, "batch_size": args.batch, "learning_rate": 1e-4})
    stage = reconpatch._stage(options)
    rows = np.random.default_rng(0).normal(size=(8 * args.batch, args.inputs))
    rows = rows.astype(np.float32)
    tables = feed.Tables(stage, [rows] * heads, range(heads), None)
    total = np.int32(10**6)
    keys = [rng.stream(seed, stage.name) for seed in range(heads)]
    one = steps.alone(stage, tables.tables[0])
    all_ = steps.together(stage, heads, tables)
    start = jax.jit(stage.init, static_argnums=2)
    states = [start(key, {}, (args.inputs,)) for key in keys]
    # Its arrays share memory, which donation may not.
    apart, joint = (jax.tree.map(jax.numpy.copy, states) for _ in range(2))
    key = jax.numpy.stack(keys)
    spans = np.zeros(heads, np.int32), np.full(heads, total)
    best = [np.inf, np.inf]
    zero = np.int32(0)
    for round_ in range(args.rounds + 1):
        start, end = round_ * args.steps, (round_ + 1) * args.steps
        begin = time.perf_counter()
        for i, (table, k) in enumerate(zip(tables.tables, keys, strict=True)):
            drawn = table.draw(start, end)
            (apart[i],), _, _ = one(
                [apart[i]], drawn, zero, start, end, key=k, total=total
            )
        jax.block_until_ready(apart)
        middle = time.perf_counter()
        drawn = tables.draw(start, end)
        joint, _, _ = all_(joint, drawn, zero, start, end, key=key, total=spans)
        jax.block_until_ready(joint)
        spent = middle - begin, time.perf_counter() - middle
        if round_:  # the first compiles
            best = [min(pair) for pair in zip(best, spent, strict=True)]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3),
        apart,
        joint,
    )
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", help="an interpreter that has PyTorch")
    parser.add_argument("--widths", type=int, nargs="+", default=[152, 512, 1024])
    parser.add_argument(
        "--inputs", type=int, default=152, help="width of descriptors, with --together"
    )
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument(
        "--together", type=int, nargs="+", default=(), help="runs in one program"
    )
    args = parser.parse_args()
    if args.steps > feed.STEPS_A_CALL:
        parser.error(f"--steps must be at most {feed.STEPS_A_CALL}, a call's")
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}, batch {args.batch}")
    if args.together:
        print("| width | heads | steps/s, one by one | together | ratio |")
        print("|--:|--:|--:|--:|--:|")
        for width in args.widths:
            for heads in args.together:
                loop, one = together(width, heads, args)
                rates = [heads * args.steps / seconds for seconds in (loop, one)]
                cells = f"{rates[0]:.1f} | {rates[1]:.1f} | {loop / one:.2f}"
                print(f"| {width} | {heads} | {cells} |", flush=True)
        return
    print("| width | jaxad steps/s | PyTorch steps/s | ratio |\n|--:|--:|--:|--:|")
    for width in args.widths:
        ours, theirs, version = compare(width, args)
        ratio = "-" if version is None else f"{ours / theirs:.1f}"
        peer = "not run" if version is None else f"{theirs:.1f} ({version})"
        print(f"| {width} | {ours:.1f} | {peer} | {ratio} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
