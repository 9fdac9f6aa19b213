"""The fields that every run has: their table, its defaults and its checks."""

import ml_collections

from jaxad.fields import (
    ABOVE_0,
    NOT_ALL,
    NOT_NEGATIVE,
    ODD,
    PART,
    SOME,
    TEXTS,
    Field,
    acting,
    at_least,
    check,
    defaults,
    numbers_of,
    one_of,
    or_word,
    require,
)
from jaxad.names import BACKBONES, DETECTORS, METHODS, require_known

_DATASET = dict(
    name=Field("", "elpv, mvtec_ad, visa, btad or folder; see docs/data.md"),
    category=Field("all", 'one name, a comma-separated list, or "all"'),
    data_dir=Field(
        "", 'where prepared data goes; "" is the default of tensorflow-datasets'
    ),
    manual_dir=Field("", "folder of a downloaded archive, or of one extracted"),
    download=Field(False, "fetches an archive of gigabytes that is not here"),
    path=Field("", 'only "folder": own images, or a CSV; see docs/own_images.md'),
    anomalous_path=Field(
        "", "folder of anomalous images, where path is one of normal images"
    ),
    normal_names=Field(
        (),
        "names of folders and labels of normal images, beside good, ok and normal",
        TEXTS,
    ),
    textures=Field(
        "",
        "folder of the pictures that ToCoAD's Perlin noise pastes, such as DTD's "
        'images; "" is DTD where tensorflow-datasets has prepared it',
        under=("method.name", "tocoad"),
    ),
    test_share=Field(
        0.2,
        "share of the normal images that is held out for test where path is a plain "
        "folder, or has good and bad side by side",
        NOT_ALL,
    ),
    protocol=Field(
        "1cls",
        "what trains: 1cls, as the data set has it; 2cls_highshot, 60 % of the normal "
        "and of the anomalous images; 2cls_fewshot, 20 % of both, from which draws "
        "take shots; see docs/data.md",
        one_of("1cls", "2cls_highshot", "2cls_fewshot"),
    ),
    shots=Field(
        0,
        "only 2cls_fewshot: images of each class that a draw takes from the pool; 0 "
        "takes the pool whole",
        NOT_NEGATIVE,
    ),
    draw=Field(
        0,
        "only 2cls_fewshot: which draw, 0 to 4 of five; in a study it is the seed",
        NOT_NEGATIVE,
    ),
    image_size=Field(
        (0, 0),
        "(height, width) that the backbone sees; (0, 0) is the backbone's own",
        numbers_of("two sizes in pixels, (height, width)", lambda x: x >= 0, 2),
    ),
    resize=Field(
        "resize",
        '"resize" to image_size; "resize_crop": shorter side to resize_to, then the '
        'centre; "pad": keep the aspect ratio, pad with the mean',
        one_of("resize", "resize_crop", "pad"),
    ),
    resize_to=Field(
        0,
        'only "resize_crop": shorter side in pixels before the crop',
        NOT_NEGATIVE,
        under=("dataset.resize", "resize_crop"),
    ),
    max_pixels=Field(
        500_000_000,
        "an image of more pixels is refused, since it takes gigabytes or is broken; 0 "
        "is no limit",
        NOT_NEGATIVE,
    ),
    cache=Field(
        "",
        "folder of decoded images, 8 bits a channel at the run's size, which all runs "
        'share: each is decoded once; "" keeps none; see docs/data.md',
    ),
    check=Field(True, "look through all images before a run, and stop at errors"),
    limit=Field(
        0, "at most so many images of each label in a split; 0 takes all", NOT_NEGATIVE
    ),
)
# Two-class models judge what a network gives, and SPD leaves one.
_OF_PATCHES = ("method.name", "patchcore", "reconpatch", "tocoad")
_BACKBONE = dict(
    name=Field("efficientnet_lite0", "one of jaxad.models.names(), or a dotted path"),
    weights=Field(
        "default",
        '"default", a file, "hf:repository[@revision]" or "random"; in a study '
        '"{seed}" is the seed of the run',
    ),
    taps=Field(
        (),
        "feature maps that describe patches; () is the backbone's default",
        TEXTS,
        under=_OF_PATCHES,
    ),
    dtype=Field(
        "float32",
        "of the computation; parameters are float32",
        one_of("float32", "bfloat16"),
    ),
)
_POOLED = ("patches.descriptor", "pooled")
_PATCHES = acting(
    dict(
        descriptor=Field(
            "concat",
            '"concat": mean over the neighbourhood, levels concatenated; "pooled": '
            "PatchCore's adaptive pooling to a target width",
            one_of("concat", "pooled"),
        ),
        neighbourhood=Field(3, "side of the square that a patch is averaged over", ODD),
        level_dim=Field(
            1024, 'only "pooled": width of a level', at_least(1), under=_POOLED
        ),
        target_dim=Field(
            1024, 'only "pooled": width of the descriptor', at_least(1), under=_POOLED
        ),
    ),
    *_OF_PATCHES,
)
_TRAIN = dict(
    log_every=Field(100, "steps between two lines of the curves", at_least(1)),
    save_every=Field(1000, "steps between two checkpoints", at_least(1)),
    keep=Field(2, "checkpoints that a stage keeps", at_least(1)),
    stage_cache=Field(
        "",
        "folder of first stages that several runs have in common (ToCoAD's stage I), "
        'which are trained once; "" keeps each in its run',
    ),
)
_OF_BANKS = ("detector.name", "knn")
_OF_PADIM = ("detector.name", "padim")
_CORESET = acting(
    dict(
        ratio=Field(0.01, "share of the training patches that the bank keeps", SOME),
        projection_dim=Field(
            0,
            "width of a random projection for the selection; 0 is none (exact)",
            NOT_NEGATIVE,
        ),
    ),
    *_OF_BANKS,
)
_DETECTOR = dict(
    name=Field("knn", "a file of jaxad.detectors, or a dotted path"),
    max_device_bytes=Field(
        0,
        "bytes of a device that the coreset and the search may take; what is larger "
        "stays in host memory, or in the feature cache's file, and passes through; 0 "
        "is no bound",
        NOT_NEGATIVE,
    ),
    search=Field(
        "exact",
        '"approximate" is faster on TPUs; it may miss the nearest entry and take a '
        "farther one, so scores rise; results.json has the recall on patches of the "
        "run's own test images; CPUs miss only what products cannot tell apart",
        one_of("exact", "approximate"),
        under=_OF_BANKS,
    ),
    recall_target=Field(
        0.95,
        'share of the nearest entries that "approximate" is to find',
        SOME,
        under=("detector.search", "approximate"),
    ),
    image_score=Field(
        "max",
        'from the patches\' scores; "reweighted" is eq. 7 of PatchCore, eq. 10 of '
        "ReConPatch, of the highest patch alone",
        one_of("max", "mean", "reweighted", "top_fraction"),
    ),
    reweight_neighbours=Field(
        9,
        'bank entries that "reweighted" looks at',
        at_least(1),
        under=("detector.image_score", "reweighted"),
    ),
    top_fraction=Field(
        0.01,
        'share of the patches that "top_fraction" averages',
        SOME,
        under=("detector.image_score", "top_fraction"),
    ),
    blur_sigma=Field(
        4.0, "deviation in pixels of the Gaussian over the anomaly map", NOT_NEGATIVE
    ),
    dim=Field(
        100,
        "channels that PaDiM draws at random; 0 takes all",
        NOT_NEGATIVE,
        under=_OF_PADIM,
    ),
    regularisation=Field(
        0.01,
        "PaDiM adds this to the covariance's diagonal",
        ABOVE_0,
        under=_OF_PADIM,
    ),
)
_THRESHOLD = dict(
    false_alarms=Field(
        0.01,
        "share of good images that may be called anomalous; 0 is no decision",
        NOT_ALL,
    ),
    confidence=Field(
        0.0,
        "with which the share holds, given the calibration images, such as 0.95; 0: it "
        "holds on average over them",
        NOT_ALL,
        under=("threshold.calibration", "auto", "left_out", "folds", "split"),
    ),
    calibration=Field(
        "auto",
        "where the scores of images that the detector was not fitted on come from",
        one_of("auto", "left_out", "folds", "split", "none"),
    ),
    folds=Field(
        5,
        'parts of the images for "folds"',
        at_least(2),
        under=("threshold.calibration", "auto", "folds"),
    ),
    share=Field(
        0.2,
        'share of the images that "split" holds out',
        PART,
        under=("threshold.calibration", "auto", "split"),
    ),
)
_ENSEMBLE = dict(
    members=Field(
        (),
        "backbones whose scores are averaged (ReConPatch, eq. 11), each with its "
        "default taps in place of config.backbone.name; () is one",
        TEXTS,
    ),
    mean_deviation=Field(
        False,
        "the mean absolute deviation, which the paper names, in place of the median "
        "one, which its constant belongs to (ours)",
    ),
)
# What is done to test images, as in ReConPatch's Table 4: `augment.disturbance`.
_DISTURBANCE = dict(
    rotation=Field(0.0, "test images turn by at most so many degrees", NOT_NEGATIVE),
    translation=Field(
        0.0, "test images shift by at most so much of their sides", NOT_NEGATIVE
    ),
    brightness=Field(0.0, "test images brighten by a factor in 1 ± this", NOT_NEGATIVE),
    contrast=Field(0.0, "their contrast changes by a factor in 1 ± this", NOT_NEGATIVE),
    blur=Field(
        0.0, "test images blur by a Gaussian of at most so many pixels", NOT_NEGATIVE
    ),
)

FIELDS = dict(
    seed=Field(0, "of all randomness", NOT_NEGATIVE),
    dataset=_DATASET,
    backbone=_BACKBONE,
    patches=_PATCHES,
    method=dict(name=Field("patchcore", "a file of jaxad.methods, or a dotted path")),
    train=_TRAIN,
    coreset=_CORESET,
    detector=_DETECTOR,
    threshold=_THRESHOLD,
    ensemble=_ENSEMBLE,
    disturbance=_DISTURBANCE,
    bank_starts=Field(
        1,
        "memory banks of a category, each a coreset that begins at another patch; "
        "results have the metrics of each, their mean and their deviation; the first "
        "is the detector that is kept",
        at_least(1),
    ),
    metrics=Field(
        (),
        'beside those of every run: "visa" is what the VisA benchmark goes by (AU-PR, '
        "and of pixels its own 202 thresholds); of one's own, dotted paths of modules "
        "with compute(scores, labels)",
        TEXTS,
    ),
    batch_size=Field(
        16, "images in a batch of the feature pass and of scoring", at_least(1)
    ),
    precision=Field(
        "highest",
        "of float32 products in networks and their training: highest is float32 on "
        "every device; high is three bfloat16 passes on TPUs and TF32 on GPUs, default "
        "one pass and TF32; CPUs have float32 whatever it is; see docs/accelerators.md",
        one_of("highest", "high", "default"),
    ),
    save_seconds=Field(
        60.0,
        "seconds between two saves of the feature pass, of the coreset and of scoring; "
        "what a kill costs at most; training counts steps",
        NOT_NEGATIVE,
    ),
    overlays=Field(
        4,
        "pictures a kind (hits, misses, false alarms, clean passes, suspects); all: of "
        "every test image",
        or_word(NOT_NEGATIVE, "all"),
    ),
    raw_maps=Field(
        "none",
        "anomaly maps of all test images as numbers, in the images' own shape: npz "
        "(float32) or png (16 bits)",
        one_of("none", "npz", "png"),
    ),
    feature_cache=Field(
        "",
        "folder of descriptors of frozen backbones, which all runs share; spares an "
        'ablation study the feature pass; "" keeps none',
    ),
    compilation_cache=Field(
        "~/.cache/jaxad/xla", 'folder of compiled programs; "" keeps none'
    ),
)


def base() -> ml_collections.ConfigDict:
    """The fields that every run has, at their defaults."""
    return defaults(FIELDS)


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks the shared fields.

    Raises:
      InputError: names the first field whose value cannot work.
    """
    check(FIELDS, config)
    for field, named, known in (
        ("backbone.name", (config.backbone.name,), BACKBONES),
        ("ensemble.members", config.ensemble.members, BACKBONES),
        ("method.name", (config.method.name,), METHODS),
        ("detector.name", (config.detector.name,), DETECTORS),
    ):
        for name in named:
            require_known(field, name, known)
    require(
        not config.ensemble.members or config.detector.image_score != "reweighted",
        "detector.image_score",
        config.detector.image_score,
        "max, mean or top_fraction with config.ensemble.members: there is no one bank",
    )
    require(
        bool(config.ensemble.members) or not config.ensemble.mean_deviation,
        "ensemble.mean_deviation",
        True,
        "False where config.ensemble.members is (): one backbone's scores need none",
    )
    require(
        config.threshold.false_alarms > 0 or not config.threshold.confidence,
        "threshold.confidence",
        config.threshold.confidence,
        "0 where config.threshold.false_alarms=0 wants no decision",
    )
    if config.dataset.resize == "resize_crop":
        resize_to, size = config.dataset.resize_to, config.dataset.image_size
        require(
            not any(size) or resize_to >= max(size),
            "dataset.resize_to",
            resize_to,
            f"at least as large as the crop, config.dataset.image_size={tuple(size)}",
        )
