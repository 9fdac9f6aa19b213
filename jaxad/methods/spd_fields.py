"""What `config.method` of SPot-the-Difference may be, and the recipes of its bases.

The paper's term, its weight and its four bases are known; magnitudes of the changes are
not, and its code was never released. `FIELDS` says which is which. `RECIPES` are the
official hyper-parameters of the bases, which the paper leaves as they are.
"""

import ml_collections

from jaxad import config as config_lib
from jaxad import fields as fields_lib
from jaxad import names
from jaxad.augment import fields as augment
from jaxad.fields import (
    ABOVE_0,
    NOT_ALL,
    NOT_NEGATIVE,
    SHARE,
    Field,
    acting,
    at_least,
    defaults,
    numbers_of,
    one_of,
    require,
)

BASES = ("simsiam", "moco", "simclr", "supervised")
WIDTHS = numbers_of("widths of 1 or more", lambda x: x >= 1)
SIZE = numbers_of("two sizes in pixels, (height, width)", lambda x: x >= 0, 2)

# What acts with which base.
_SIMSIAM, _MOCO = ("base", "simsiam"), ("base", "moco")
_CONTRASTIVE = ("base", "simsiam", "moco", "simclr")

FIELDS = dict(
    name=Field("spd", "this method"),
    base=Field(
        "simsiam",
        "what the term is added to; the config files' argument base= also sets its "
        "recipe",
        one_of(*BASES),
    ),
    # L_SPD
    eta=Field(0.1, "weight of the term; the paper's best; 0 is the base", NOT_NEGATIVE),
    term=Field(
        "cosine",
        '"cosine": L_SPD; "classifier": a linear layer tells negatives from positives, '
        "which is all that a supervised base can do",
        one_of("cosine", "classifier"),
    ),
    anchor=Field(
        "view",
        'what positive and negative are made of (ours): the base\'s first "view", or '
        'the "plain" image, which costs one pass more',
        one_of("view", "plain"),
    ),
    perturbation=Field(
        "smooth_blend",
        'the local change; "cutpaste" is the paper\'s ablation',
        one_of("smooth_blend", "cutpaste"),
    ),
    stop_positive=Field(
        False,
        "no gradient through the positive (ours), as SimSiam's stop",
        under=("term", "cosine"),
    ),
    smooth_blend=acting(augment.SMOOTH_BLEND, "perturbation", "smooth_blend"),
    cutpaste=acting(
        dict(jitter=augment.CUTPASTE["jitter"], **augment.CUTPASTE["patch"]),
        *("perturbation", "cutpaste"),
    ),
    weak=augment.WEAK_GLOBAL_VIEW,
    # The base
    strong=augment.STRONG_VIEW,
    view_size=Field(
        (0, 0),
        "(height, width) of views, cut from images of dataset.image_size; (0, 0) is "
        "that (ours)",
        SIZE,
    ),
    level=Field("layer4", "the feature map that is pooled and projected"),
    projector=Field(
        (2048, 2048, 2048),
        "widths of the projection's layers",
        WIDTHS,
        under=_CONTRASTIVE,
    ),
    norm=Field(
        "batch",
        'normalisation in the heads, without a scale in the last layer; with "none" '
        "layers have a bias",
        one_of(*names.NORMS, "none"),
        under=_CONTRASTIVE,
    ),
    bottleneck=Field(
        512, "hidden width of SimSiam's predictor", at_least(1), under=_SIMSIAM
    ),
    temperature=Field(
        0.2, "of MoCo and SimCLR", ABOVE_0, under=("base", "moco", "simclr")
    ),
    queue=Field(65536, "keys that MoCo remembers", at_least(1), under=_MOCO),
    momentum=Field(0.999, "of MoCo's slow networks", SHARE, under=_MOCO),
    classes=Field(
        0,
        "of the corpus, for a supervised base; 0 is as many as it has",
        NOT_NEGATIVE,
        under=("base", "supervised"),
    ),
    # Training
    batch_size=Field(512, "images a batch", at_least(2)),
    epochs=Field(
        100,
        "passes over the images; 0 leaves the weights as they are, for the linear "
        "evaluation alone",
        at_least(0),
    ),
    optimiser=Field("sgd", "see jaxad.optim", one_of(*names.OPTIMISERS)),
    betas=Field(
        (0.9, 0.999),
        "decay of the optimiser's moments",
        numbers_of("two numbers of 0 or more, below 1", lambda x: 0 <= x < 1, 2),
    ),
    weight_decay=Field(1e-4, "of all parameters, with lars of kernels", NOT_NEGATIVE),
    learning_rate=Field(0.05, "for a batch of 256", ABOVE_0),
    scaling=Field(
        "linear",
        'of the rate with the batch: "linear", or "root", which SimCLR recommends for '
        "small ones",
        one_of("linear", "root"),
    ),
    warmup=Field(
        0.0, "share of the steps in which the rate rises; then a cosine", NOT_ALL
    ),
    predictor_decays=Field(
        False, "whether the predictor's rate falls, too", under=_SIMSIAM
    ),
    groups=Field(
        1,
        "parts of the batch that are normalised each by itself, whatever the devices; "
        "1 is the whole batch; MoCo, which cheats across it, has its paper's 8 GPUs",
        at_least(1),
    ),
    zero_residuals=Field(
        False, "residual blocks begin as the identity; of random weights alone"
    ),
    # What is looked at
    held_out=Field(
        0.1,
        "share of the corpus that is only looked at, by the probes (ours); none where "
        "there is a validation set, which is looked at",
        NOT_ALL,
    ),
    collapsed=Field(
        0.02,
        "training stops where projections are spread less than this, after a tenth of "
        "the steps; of 1, which a Gaussian cloud has (ours); 0 never",
        NOT_NEGATIVE,
    ),
    linear=dict(
        optimiser=Field(
            "none",
            "of the papers' linear evaluation, a stage of its own behind the "
            'pre-training; "none" leaves it out',
            one_of("none", "sgd", "lars"),
        ),
        **acting(
            dict(
                learning_rate=Field(0.1, "for a batch of 256", ABOVE_0),
                drops=Field(
                    (),
                    "shares of its steps after each of which the rate is a tenth; () "
                    "is a cosine",
                    numbers_of("shares between 0 and 1", lambda x: 0 < x < 1),
                ),
                epochs=Field(90, "passes over all training pictures", at_least(1)),
                batch_size=Field(256, "pictures a batch", at_least(1)),
            ),
            *("linear.optimiser", "sgd", "lars"),
        ),
    ),
)

_IMAGENET_CROPS = dict(scale=(0.08, 1.0), jittered=0.0, grey=0.0, blurred=0.0)
RECIPES = dict(
    simsiam=dict(zero_residuals=True),
    moco=dict(
        projector=(2048, 128),
        norm="none",
        batch_size=256,
        epochs=200,
        learning_rate=0.03,
        groups=8,
    ),
    simclr=dict(
        projector=(2048, 128),
        temperature=0.1,
        batch_size=4096,
        optimiser="lars",
        # Of its command for 100 epochs; the paper has 1e-6.
        learning_rate=0.3,
        warmup=0.1,
        zero_residuals=True,
        strong=dict(scale=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2)),
    ),
    supervised=dict(
        term="classifier",
        batch_size=256,
        epochs=90,
        learning_rate=0.1,
        strong=_IMAGENET_CROPS,
    ),
)


# The linear evaluation as the bases' papers have it on ImageNet.
LINEAR = dict(
    simsiam=dict(optimiser="lars", batch_size=4096),
    moco=dict(optimiser="sgd", learning_rate=30.0, epochs=100, drops=(0.6, 0.8)),
    simclr=dict(optimiser="sgd", batch_size=4096),
    supervised={},
)


def fields(base: str = "simsiam") -> ml_collections.ConfigDict:
    """`config.method` with the official hyper-parameters of a base.

    Raises:
      InputError: there is no such base.
    """
    config_lib.choose("method.base", base, BASES)
    options = defaults(FIELDS)
    options.update(base=base, **RECIPES[base])
    return options


def runlocal(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks a run to seconds: few small images, few steps, the same code paths."""
    overlays = config.overlays
    config = config_lib.runlocal(config)
    config.overlays = overlays  # which no such run draws
    config.dataset.update(image_size=(32, 32), resize="resize", resize_to=0)
    config.method.update(batch_size=8, epochs=2, view_size=(0, 0), collapsed=0.0)
    if config.method.linear.optimiser != "none":
        config.method.linear.update(batch_size=8, epochs=2)
    if config.method.base != "supervised":
        config.method.projector = (32,) * len(config.method.projector)
    if config.method.base == "simsiam":
        config.method.bottleneck = 8
    if config.method.base == "moco":
        config.method.queue = 16
    config.method.groups = min(config.method.groups, 4)
    return config


def check(config) -> None:
    """Raises InputError for a field that cannot work, apart from the networks."""
    options, image_size = config.method, tuple(config.dataset.image_size)
    fields_lib.check(FIELDS, options, "method")

    def need(field, holds, must_be):
        require(holds, f"method.{field}", options[field], must_be)

    need(
        "view_size",
        # (0, 0) is the backbone's own, and known once that is.
        not any(image_size)
        or all(a <= b for a, b in zip(options.view_size, image_size, strict=True)),
        f"at most what views are cut from, config.dataset.image_size={image_size}",
    )
    rows = options.batch_size // options.groups
    need(
        "batch_size",
        options.batch_size % options.groups == 0 and rows > 1,
        f"a multiple of config.method.groups={options.groups}, and at least twice it",
    )
    if options.base == "moco":
        need(
            "queue",
            options.queue % options.batch_size == 0,
            f"a multiple of config.method.batch_size={options.batch_size}",
        )
    supervised = options.base == "supervised"
    need(
        "term",
        not supervised or options.term == "classifier" or not options.eta,
        '"classifier" for a supervised base: it has no projections to compare',
    )
    need(
        "projector",
        len(options.projector) > 0 or supervised,
        "at least one layer",
    )
    zeroed, backbone = options.zero_residuals and options.epochs, config.backbone.name
    need(
        "zero_residuals",
        not zeroed or "." in backbone or backbone in names.RESIDUAL,
        f"False: {backbone} has no blocks that could begin as the identity",
    )
    need(
        "zero_residuals",
        not zeroed or config.backbone.weights == "random",
        'False unless config.backbone.weights is "random": weights that are given '
        "would lose a part of themselves",
    )
