"""The fields of ToCoAD: `config.method` of `jaxad.methods.tocoad`.

(ours) marks what the paper does not say. `check` is of what the bounds of the fields
leave open.
"""

import dataclasses

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
    TEXTS,
    Bound,
    Field,
    acting,
    at_least,
    defaults,
    get,
    numbers_of,
    one_of,
    require,
    some_of,
)

STAGES = ("dnp", "ncl", "whitening", "ranking")  # the last two are `tocoad_map`'s
# F's feature maps, shallowest first, under the names that every backbone knows.
LEVELS = ("layer1", "layer2", "layer3", "layer4")

GENERATORS = one_of("perlin", "cutpaste", "cutpaste_patch", "cutpaste_scar", "nsa")
BETAS = numbers_of("two numbers of 0 or more, below 1", lambda x: 0 <= x < 1, 2)
BY_CATEGORY = Bound(
    "a tuple of (category, field, value)",
    lambda x: all(
        isinstance(one, list | tuple)
        and len(one) == 3
        and all(isinstance(name, str) for name in one[:2])
        for one in x
    ),
)
DEPTHS = numbers_of("three numbers of 1 or more", lambda x: x >= 1, 3)
# What may differ from category to category: the constants of the generators.
_OF_CATEGORIES = ("perlin", "cutpaste", "nsa")
DROPS = numbers_of("shares of the steps between 0 and 1", lambda x: 0 < x < 1)


def _training(batch_size, epochs, min_steps, weight_decay, **others):
    """What the training of both stages has."""
    return dict(
        batch_size=Field(batch_size, "images a batch (ours)", at_least(1)),
        epochs=Field(epochs, "passes over the images (ours)", NOT_NEGATIVE),
        min_steps=Field(min_steps, "steps, where those are fewer (ours)", NOT_NEGATIVE),
        optimiser=Field("adam", "see jaxad.optim (ours)", one_of(*names.OPTIMISERS)),
        betas=Field((0.9, 0.999), "decay of the optimiser's moments (ours)", BETAS),
        weight_decay=Field(weight_decay, "of all parameters (ours)", NOT_NEGATIVE),
        statistics=Field(
            "frozen",
            'of batch normalisation in F (ours): "frozen" protects features where '
            'images are few; "batch": of the batch, views and defects together',
            one_of("frozen", "batch"),
        ),
        **others,
    )


_IN_DNP, _IN_NCL = ("stages", "dnp"), ("stages", "ncl")
_DRAWS = ("stages", "dnp", "ranking")


def _in_dnp(**table):
    return acting(table, *_IN_DNP)


def _in_ncl(**table):
    return acting(table, *_IN_NCL)


FIELDS = dict(
    name=Field("tocoad", "this method"),
    stages=Field(
        ("dnp", "ncl"),
        'the paper\'s two; "ncl" alone needs guide="none"; () is PatchCore; '
        '"whitening" and "ranking" learn a linear map on descriptors (ours)',
        some_of(*STAGES),
    ),
    # Anomaly generator G
    generator=Field(
        "perlin",
        "the paper's best; constants (ours) as in each one's code",
        GENERATORS,
        under=_DRAWS,
    ),
    texture=Field(
        "auto",
        'what "perlin" pastes: pictures of config.dataset.textures (DRAEM\'s "dtd"), '
        'other training "images", its "noise"; "auto" is the first that is there',
        one_of("auto", "dtd", "images", "noise"),
        under=("generator", "perlin"),
    ),
    grey=Field(
        False,
        "generated defects have no colours (ours): for grey images",
        under=_DRAWS,
    ),
    perlin=acting(augment.PERLIN, "generator", "perlin"),
    cutpaste=dict(
        jitter=dataclasses.replace(
            augment.CUTPASTE["jitter"],
            under=("generator", "cutpaste", "cutpaste_patch", "cutpaste_scar"),
        ),
        patch=acting(
            augment.CUTPASTE["patch"], "generator", "cutpaste", "cutpaste_patch"
        ),
        scar=acting(augment.CUTPASTE["scar"], "generator", "cutpaste", "cutpaste_scar"),
    ),
    nsa=acting(augment.NSA, "generator", "nsa"),
    by_category=Field(
        (),
        "what categories have otherwise: (category, field of config.method that a "
        'stage reads, value), as ("bottle", "nsa.background", (200, 60)); those of a '
        "generator that is not chosen wait for it",
        BY_CATEGORY,
    ),
    # Discriminative network D and its loss
    decoder=_in_dnp(
        depths=Field((3, 4, 6), "residual blocks a stage of D (ours)", DEPTHS),
        skip=Field("none", "connections from F to D (ours)", one_of(*names.SKIPS)),
        head_width=Field(64, "channels of D's head (ours)", at_least(1)),
    ),
    focal=_in_dnp(
        alpha=Field(0.5, "weight of anomalous pixels; the paper's best", SHARE),
        gamma=Field(2.0, "the paper's best; 0 is half the cross-entropy", NOT_NEGATIVE),
    ),
    guide_focal=dict(
        alpha=Field(
            0.5,
            "of the loss by which a gradient guides (ours)",
            SHARE,
            under=("guide", "gradient", "per_class"),
        ),
        gamma=Field(
            2.0,
            "of the same (ours): apart from method.focal.gamma, which would make the "
            "guide weaker as it makes D's loss smaller",
            NOT_NEGATIVE,
            under=("guide", "gradient", "per_class"),
        ),
    ),
    # Stage I
    dnp=_in_dnp(
        **_training(
            batch_size=16,
            epochs=100,
            min_steps=2000,
            weight_decay=0.0,
            learning_rate=Field(1e-4, "of D (ours)", NOT_NEGATIVE),
            drop=Field(0.2, "factor of the rate at each of drop_at, as DRAEM's (ours)"),
            drop_at=Field((0.8, 0.9), "when the rate drops, as DRAEM's (ours)", DROPS),
        )
    ),
    in_score=Field(
        False,
        "D has a say in the score (ours): a patch scores the mean of two z-scores, of "
        "its distance to the bank and of D's log-odds",
        under=_IN_DNP,
    ),
    # Stage II
    levels=Field(
        ("layer3", "layer4"),
        'of the contrastive loss; the paper\'s best is "3 and 4", read as these two '
        "(ours); the other reading is layer2 and layer3",
        TEXTS,
        under=_IN_NCL,
    ),
    positives=Field(
        "image",
        'what is alike in two views: the "image", each level by its mean; "place": all '
        "that lies in one place of a level, of views that differ in colours (ours)",
        one_of("image", "place"),
        under=_IN_NCL,
    ),
    negatives=Field(
        "backbone",
        "whose features of a synthetic anomaly that guide pushes views from (ours); "
        '"discriminator": of D, which has such of layer1, layer2 and layer3',
        one_of("backbone", "discriminator"),
        under=("guide", "feature"),
    ),
    contrastive=Field(
        "simsiam",
        'the paper\'s; "ntxent" contrasts with the images of the batch',
        one_of("simsiam", "ntxent"),
        under=_IN_NCL,
    ),
    temperature=Field(
        0.5, 'of "ntxent" (ours)', ABOVE_0, under=("contrastive", "ntxent")
    ),
    guide=Field(
        "gradient",
        "how the frozen D guides (ours): its loss on synthetic anomalies flows into F; "
        '"per_class": the same, the mean over anomalous pixels plus that over normal '
        'ones; "feature": views are pushed from what it shows where the mask is; '
        '"none" is stage II without one',
        one_of("gradient", "per_class", "feature", "none"),
        under=_IN_NCL,
    ),
    sight=Field(
        0.0,
        "stage II ends where D's pixel AUROC on defects drawn anew is less than this "
        "(ours): it guides to nothing then; 0 never",
        Bound("0, or 0.5 (blind) to 1", lambda x: x == 0 or 0.5 <= x <= 1),
        under=("guide", "gradient", "per_class", "feature"),
    ),
    lambda_neg=dict(
        gradient=Field(
            100.0,
            "weight of that guide (ours): a focal loss, which is small; at 1 it hardly "
            "guides (docs/tocoad.md has the measurements)",
            NOT_NEGATIVE,
            under=("guide", "gradient"),
        ),
        per_class=Field(
            1.0,
            "weight of that guide (ours): a sum of two means, of order one",
            NOT_NEGATIVE,
            under=("guide", "per_class"),
        ),
        feature=Field(
            1.0,
            "weight of that guide (ours): a cosine, like the contrastive loss",
            NOT_NEGATIVE,
            under=("guide", "feature"),
        ),
    ),
    heads=_in_ncl(
        width=Field(2048, "of a projection; SimSiam's", at_least(1)),
        bottleneck=Field(
            512,
            "of a predictor; SimSiam's",
            at_least(1),
            under=("contrastive", "simsiam"),
        ),
        norm=Field("batch", "their normalisation (ours)", one_of(*names.NORMS)),
    ),
    views=acting(
        augment.WEAK_VIEW
        | dict(jitter=dataclasses.replace(augment.WEAK_VIEW["jitter"], under=_IN_NCL)),
        *("positives", "image"),
    ),
    ncl=_in_ncl(
        **_training(
            batch_size=32,
            epochs=20,
            min_steps=500,
            weight_decay=1e-5,
            backbone_learning_rate=Field(1e-5, "of F (ours)", NOT_NEGATIVE),
            heads_learning_rate=Field(1e-4, "of the heads (ours)", NOT_NEGATIVE),
            heads_first=Field(
                0.0,
                "share of the steps in which the heads learn and F waits (ours): a "
                "predictor that has learnt nothing pulls F anywhere; they keep their "
                "rate to the end then, as SimSiam's predictor does",
                NOT_ALL,
            ),
            anchor=Field(
                0.0,
                "weight of the squared distance of descriptors to those before stage "
                "II, in units of their variance (ours); 0 leaves F free",
                NOT_NEGATIVE,
            ),
            vicreg=Field(
                0.0,
                "weight of VICReg's variance and covariance of the views' descriptors, "
                "in units of their deviation before stage II (ours)",
                NOT_NEGATIVE,
            ),
            target=Field(
                0.0,
                "momentum of a slow copy of F and its projections, which predictions "
                "aim at as BYOL's do (ours); 0 is SimSiam's: F itself",
                NOT_ALL,
                under=("contrastive", "simsiam"),
            ),
            trains=Field(
                "all",
                'of F (ours): "normalisation": scales and shifts alone; "tapped": what '
                "lies behind the last level that the memory bank sees none of",
                one_of("all", "normalisation", "tapped"),
            ),
            schedule=Field(
                "cosine",
                "of both rates, to 0; of F's alone with heads_first (ours)",
                one_of("cosine", "constant"),
            ),
        )
    ),
    # The map on descriptors
    whitening=acting(
        dict(
            batch_size=Field(1024, "patches a batch (ours)", at_least(1)),
            shrinkage=Field(
                0.01,
                "added to all variances, in units of their mean (ours); directions in "
                "which normal patches do not vary are divided by its root",
                ABOVE_0,
            ),
            log_odds=Field(
                0.0,
                "variance of D's log-odds as one more channel of descriptors, in units "
                "of all others' together (ours); 0 leaves D out",
                NOT_NEGATIVE,
            ),
        ),
        "stages",
        "whitening",
    ),
    ranking=acting(
        dict(
            batch_size=Field(
                8, "images a batch (ours): the others are an image's bank", at_least(2)
            ),
            steps=Field(150, "of the training (ours)", at_least(1)),
            learning_rate=Field(
                3e-3, "of the map, by Adam and a cosine (ours)", ABOVE_0
            ),
            temperature=Field(0.1, "of differences of log distances (ours)", ABOVE_0),
            patches=Field(
                128, "drawn of an image, and as many for the banks (ours)", at_least(1)
            ),
        ),
        "stages",
        "ranking",
    ),
)


def fields() -> ml_collections.ConfigDict:
    """`config.method` with its defaults."""
    return defaults(FIELDS)


# What a config's argument `reading` sets. "paper": nothing. "map": in place of stage II
# a map on descriptors and on what D sees. "place": that map behind a stage II by place,
# away from what D makes of anomalies, with heads that learn first, by the optimiser of
# SimSiam. Both (ours) are chosen on ELPV's poly.
READINGS = {
    "paper": {},
    "map": {
        "stages": ("dnp", "whitening"),
        "whitening.shrinkage": 1.0,
        "whitening.log_odds": 1.0,
    },
    "place": {
        "stages": ("dnp", "ncl", "whitening"),
        "whitening.shrinkage": 1.0,
        "whitening.log_odds": 0.25,
        "levels": ("layer2", "layer3"),
        "positives": "place",
        "guide": "feature",
        "negatives": "discriminator",
        "heads.width": 256,
        "heads.bottleneck": 64,
        "ncl.batch_size": 32,
        "ncl.epochs": 0,
        "ncl.min_steps": 100,
        "ncl.heads_first": 0.5,
        "ncl.optimiser": "sgd",
        "ncl.weight_decay": 0.0,
        "ncl.heads_learning_rate": 0.05,
        "ncl.backbone_learning_rate": 0.06,
    },
}


def read(config: ml_collections.ConfigDict, reading: str) -> None:
    """Sets the stages of a config's argument `reading`, one of `READINGS`.

    Raises:
      InputError: it is none of them.
    """
    config_lib.require_argument("reading", reading, tuple(READINGS))
    config.method.update_from_flattened_dict(READINGS[reading])


def runlocal(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Few small images, few steps, the same code paths: a minute or two on a laptop."""
    config = config_lib.runlocal(config)
    config.dataset.image_size = (64, 64)
    config.backbone.name = "efficientnet_lite0"
    config.backbone.taps = ()
    config.method.decoder.depths = (1, 1, 1)
    config.method.heads.update(width=32, bottleneck=8)
    for stage in (config.method.dnp, config.method.ncl):
        stage.update(batch_size=4, epochs=0, min_steps=3)
    config.method.ranking.update(batch_size=4, steps=3, patches=32)
    return config


def check(config) -> None:
    """Raises InputError, naming the field, for what cannot work."""
    options = config.method
    fields_lib.check(FIELDS, options, "method")
    pastes_images = options.generator == "nsa" or (
        options.generator == "perlin" and options.texture == "images"
    )

    def need(field, holds, must_be):
        require(holds, f"method.{field}", get(options, field), must_be)

    for stage in [name for name in options.stages if name in ("dnp", "ncl")]:
        need(
            f"{stage}.batch_size",
            options[stage].batch_size > 1 or not pastes_images,
            "at least 2: what is pasted comes from another image of the batch",
        )
    if "ncl" in options.stages:
        need(
            "ncl.batch_size",
            options.ncl.batch_size > 1 or options.heads.norm != "batch",
            'at least 2, or method.heads.norm "layer"',
        )
        need(
            "guide",
            weight_of_guide(options) == 0 or "dnp" in options.stages,
            '"none" where method.stages has no "dnp": nothing has taught the guide',
        )
        need("levels", len(options.levels) > 0, "at least one")
        of_d = options.guide == "feature" and options.negatives == "discriminator"
        need(
            "levels",
            not of_d or set(options.levels) <= set(LEVELS[:3]),
            'some of layer1, layer2 and layer3 with method.negatives "discriminator"',
        )
    else:
        need(
            "dnp.statistics",
            options.dnp.statistics == "frozen",
            '"frozen" where method.stages has no "ncl": F is then an inference network',
        )
    need(
        "whitening.log_odds",
        not in_map(options) or "dnp" in options.stages,
        '0 where method.stages has no "dnp": nothing has taught D',
    )
    need(
        "whitening.log_odds",
        not (in_map(options) and options.in_score),
        "0 with method.in_score: D has its say there",
    )
    need(
        "in_score",
        not options.in_score or "dnp" in options.stages,
        'false where method.stages has no "dnp": nothing has taught D',
    )
    for category, name, _ in options.by_category:
        known = name in dict(fields_lib.flat(FIELDS))
        need(
            "by_category",
            known and name.partition(".")[0] in _OF_CATEGORIES,
            f"of fields of {', '.join(_OF_CATEGORIES)}: {name}, which {category} has "
            "otherwise, is none",
        )


def sees(options) -> bool:
    """Whether descriptors hold what D sees, as one more channel."""
    return in_map(options) or options.in_score


def in_map(options) -> bool:
    """Whether what D sees is a part of a distance."""
    return "whitening" in options.stages and options.whitening.log_odds > 0


def weight_of_guide(options) -> float:
    """Of the guide at hand, 0 of none."""
    return 0.0 if options.guide == "none" else options.lambda_neg[options.guide]
