"""A backbone of one's own that a U-Net can have as its encoder: strides 2 to 32."""

import functools

from jaxad import models
from plugins import levels


def spec():
    return models.Spec(
        name=__name__,
        taps=("layer1", "layer2"),
        weights="random",
        module=functools.partial(
            levels.Tiny,
            names=("stem", "layer1", "layer2", "layer3", "layer4"),
            widths=(4, 4, 6, 6, 8),
        ),
        rename=str,
        image_size=(32, 32),
    )
