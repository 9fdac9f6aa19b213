"""A ResNet a quarter as wide and half as deep as ResNet-18, for trials on CPUs.

A config takes it by `config.backbone.name = "benchmarks.narrow_resnet"`.
"""

import functools

from jaxad import models
from jaxad.models import resnet


def spec() -> models.Spec:
    return models.Spec(
        name=__name__,
        taps=("layer2", "layer3"),
        weights="random",
        module=functools.partial(
            resnet.ResNet, depths=(1, 1, 1, 1), bottleneck=False, width=16
        ),
        rename=resnet.rename,
        image_size=(64, 64),
        zero_residuals=resnet.zero_residuals,
    )
