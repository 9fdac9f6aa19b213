"""The fields of the two-class models: `config.method` of `jaxad.methods.two_class`.

(ours) marks what the papers do not say.
"""

import ml_collections

from jaxad import config as config_lib
from jaxad import fields as fields_lib
from jaxad.fields import (
    ABOVE_0,
    NOT_NEGATIVE,
    Field,
    at_least,
    defaults,
    numbers_of,
    one_of,
    require,
)

TASKS = ("classification", "segmentation")
WIDTHS = numbers_of("five widths of 1 or more, deepest first", lambda x: x >= 1, 5)

FIELDS = dict(
    name=Field("two_class", "this method"),
    task=Field("classification", "of images, or of pixels", one_of(*TASKS)),
    level=Field(
        "layer4",
        'only "classification": the feature map that is pooled and classified',
        under=("task", "classification"),
    ),
    widths=Field(
        (256, 128, 64, 32, 16),
        'only "segmentation": of the decoder\'s blocks',
        WIDTHS,
        under=("task", "segmentation"),
    ),
    gamma=Field(
        0.0,
        "of the focal loss, without a weight of the classes; 2 for segmentation, as "
        "the library has it that the paper uses; 0, the cross-entropy, for "
        "classification (ours)",
        NOT_NEGATIVE,
    ),
    flip=Field(True, "half of the images are mirrored, the only augmentation"),
    statistics=Field(
        "batch",
        'of batch normalisation in the backbone (ours): "batch" as in training, or '
        '"frozen", as they come',
        one_of("batch", "frozen"),
    ),
    batch_size=Field(8, "images a batch", at_least(2)),
    epochs=Field(50, "passes over the images (ours); 200 for few shots", at_least(1)),
    learning_rate=Field(1e-4, "of AdamW, to 0 by a cosine (ours)", ABOVE_0),
    encoder_factor=Field(
        1.0, "of the rate, for the backbone (ours); 0.1 for few shots", NOT_NEGATIVE
    ),
    weight_decay=Field(1e-4, "of AdamW (ours)", NOT_NEGATIVE),
)

FEW_SHOT = dict(epochs=200, encoder_factor=0.1)


def fields(task: str = "classification") -> ml_collections.ConfigDict:
    """`config.method` with the values of a task.

    Raises:
      InputError: there is no such task.
    """
    config_lib.choose("method.task", task, TASKS)
    options = defaults(FIELDS)
    options.update(task=task, gamma=2.0 if task == "segmentation" else 0.0)
    return options


def _few(shots: int, draw: int) -> dict:
    """The fields of a config that make it one of few shots."""
    options = {f"method.{name}": value for name, value in FEW_SHOT.items()}
    return {
        "dataset.protocol": "2cls_fewshot",
        "dataset.shots": shots,
        "dataset.draw": draw,
        # Every one of the few trains.
        "threshold.calibration": "none",
        **options,
    }


def configured(
    config: ml_collections.ConfigDict,
    task: str,
    shots: int = 0,
    draw: int = 0,
    epochs: int = 0,
) -> ml_collections.ConfigDict:
    """A config of a task, for all labelled images or for few.

    The detector goes by the logits as they are. An image of segmentation scores its
    highest pixel (ours).

    Args:
      config: changed in place.
      shots, draw: of `config.dataset`; without shots it is 2cls_highshot.
      epochs: of `config.method`; 0 leaves them as they are.
    """
    config.method = fields(task)
    config.dataset.protocol = "2cls_highshot"
    pixels = task == "segmentation"
    config.detector.name = "logits"
    config.detector.image_score = "max" if pixels else "mean"
    if pixels:
        config.detector.blur_sigma = 0.0
    if shots or draw:
        config.update_from_flattened_dict(_few(shots, draw))
    if epochs:
        config.method.epochs = epochs
    return config


def check(config) -> None:
    """Raises InputError, naming the field, for what cannot work."""
    options, detector = config.method, config.detector
    fields_lib.check(FIELDS, options, "method")
    require(
        detector.name == "logits",
        "detector.name",
        detector.name,
        "logits with config.method.name=two_class: the method has learnt all there is",
    )
    require(
        not config.ensemble.members,
        "ensemble.members",
        tuple(config.ensemble.members),
        "left out with config.method.name=two_class: logits of several networks are "
        "not of one scale",
    )
    require(
        options.task == "segmentation" or detector.image_score == "mean",
        "detector.image_score",
        detector.image_score,
        "mean with config.method.task=classification: the mean of its map is the "
        "classifier's logit",
    )
