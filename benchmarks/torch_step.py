"""The peer's side of spd_step.py: a SimSiam step in plain PyTorch.

python torch_step.py NETWORK BATCH SIDE THREADS

A line on stdin asks for a step; the answer is its seconds by the clock and by the CPU.
Channels lie last where that is faster, which is tried first.
"""

import functools
import sys
import time

import torch
from torch import nn
from torch.nn import functional


def conv_norm(inside, outside, size, stride=1, groups=1, act=nn.ReLU):
    conv = nn.Conv2d(
        inside, outside, size, stride, size // 2, groups=groups, bias=False
    )
    return nn.Sequential(
        conv, nn.BatchNorm2d(outside), *([act(inplace=True)] if act else [])
    )


class Residual(nn.Module):
    def __init__(self, body, shortcut=None, relu=False):
        super().__init__()
        self.body, self.shortcut, self.relu = body, shortcut or nn.Identity(), relu

    def forward(self, x):
        x = self.body(x) + self.shortcut(x)
        return functional.relu(x, inplace=True) if self.relu else x


def resnet18():
    layers, width = [conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)], 64
    for i, planes in enumerate((64, 128, 256, 512)):
        for stride in (2 if i else 1, 1):
            body = nn.Sequential(
                conv_norm(width, planes, 3, stride),
                conv_norm(planes, planes, 3, act=None),
            )
            same = width == planes and stride == 1
            shortcut = None if same else conv_norm(width, planes, 1, stride, act=None)
            layers.append(Residual(body, shortcut, relu=True))
            width = planes
    return nn.Sequential(*layers), 512


def efficientnet_lite0():
    stages = ((3, 1, 1, 1, 16), (3, 2, 2, 6, 24), (5, 2, 2, 6, 40), (3, 3, 2, 6, 80))
    stages += ((5, 3, 1, 6, 112), (5, 4, 2, 6, 192), (3, 1, 1, 6, 320))
    conv = functools.partial(conv_norm, act=nn.ReLU6)
    layers, width = [conv(3, 32, 3, 2)], 32
    for size, blocks, first, expansion, planes in stages:
        for stride in (first, *[1] * (blocks - 1)):
            hidden = width * expansion
            wide = [conv(width, hidden, 1)] if expansion > 1 else []
            depthwise = conv(hidden, hidden, size, stride, hidden)
            body = nn.Sequential(
                *wide, depthwise, conv_norm(hidden, planes, 1, act=None)
            )
            same = width == planes and stride == 1
            layers.append(Residual(body) if same else body)
            width = planes
    return nn.Sequential(*layers), 320


def mlp(widths, *last, affine=False):
    layers = []
    for i, (inside, outside) in enumerate(zip(widths, widths[1:], strict=False)):
        layers.append(nn.Linear(inside, outside, bias=False))
        affine_here = affine or i < len(widths) - 2
        layers.append(nn.BatchNorm1d(outside, affine=affine_here))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers[:-1], *last)


def make_step(network, batch, side, form):
    torch.manual_seed(0)
    features, width = {f.__name__: f for f in (resnet18, efficientnet_lite0)}[network]()
    projector = mlp((width, 2048, 2048, 2048))
    end = nn.ReLU(inplace=True), nn.Linear(512, 2048)
    predictor = mlp((2048, 512), *end, affine=True)
    model = nn.ModuleList([features, projector, predictor]).to(memory_format=form)
    views = torch.rand(2, batch, 3, side, side)
    views = [view.contiguous(memory_format=form) for view in views]
    optimiser = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4)

    def step():
        z = [projector(features(view).mean((2, 3))) for view in views]
        p = [predictor(one) for one in z]
        cosine = functional.cosine_similarity
        loss = -0.5 * (cosine(p[0], z[1].detach()) + cosine(p[1], z[0].detach())).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def timed(step):
    clock, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - clock, time.process_time() - cpu


def main():
    network, (batch, side, threads) = sys.argv[1], map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    forms = torch.contiguous_format, torch.channels_last
    steps = [make_step(network, batch, side, form) for form in forms]
    cost = [min(timed(step)[1] for _ in range(3)) for step in steps]
    best = cost.index(min(cost))
    print(torch.__version__, forms[best], flush=True)
    for _ in sys.stdin:
        print(*timed(steps[best]), flush=True)


if __name__ == "__main__":
    main()
