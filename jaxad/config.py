"""Configs: the fields every run has, typed arguments, and checks that name the field.

A config file defines `get_config(arg=None)` and starts from `base()`:

  from jaxad import config as config_lib

  def get_config(arg=None):
      args = config_lib.parse_arg(arg, runlocal=False, category="mono")
      config = config_lib.base()
      config.dataset.name = "elpv"
      config.dataset.category = args.category
      return config_lib.runlocal(config) if args.runlocal else config

An ablation study also defines `sweep(add)`, see `jaxad.sweep`.

`--config FILE:category=poly,runlocal` sets the arguments, `--config.a.b=v` any field.
"""

from collections.abc import Sequence
from typing import Any

import ml_collections

from jaxad.errors import InputError, did_you_mean

RESIZE_POLICIES = ("resize", "resize_crop", "pad")
IMAGE_SCORES = ("max", "reweighted", "top_fraction")
DESCRIPTORS = ("concat", "pooled")
SEARCHES = ("exact", "approximate")
_RUNLOCAL_CATEGORY = {
    "elpv": "mono",
    "mvtec_ad": "bottle",
    "visa": "candle",
    "btad": "01",
}


def base() -> ml_collections.ConfigDict:
    """The fields that every run has, at their defaults."""
    return ml_collections.ConfigDict(
        dict(
            seed=0,
            dataset=dict(
                name="",
                # One name, a comma-separated list, or "all".
                category="all",
                # Where prepared data goes; "" is the default of tensorflow-datasets.
                data_dir="",
                # The folder that a downloaded archive, or one extracted, lies in.
                manual_dir="",
                # Only "folder": own images, or a CSV that lists them; see docs/data.md.
                path="",
                # Where `path` is a plain folder of normal images: one of anomalous
                # images, and the share of the normal ones that is held out for test.
                anomalous_path="",
                # Folder of the pictures that ToCoAD's Perlin noise pastes, such as
                # DTD's images; "" is DTD where tensorflow-datasets has prepared it.
                textures="",
                test_share=0.2,
                # Only "visa": 1cls, 2cls_highshot or 2cls_fewshot.
                protocol="1cls",
                # Only 2cls_fewshot: images of each class that a draw (0 to 4) takes
                # from the pool; 0 takes the pool whole.
                shots=0,
                draw=0,
                # (height, width) that the backbone sees; (0, 0) is the backbone's own.
                image_size=(0, 0),
                # "resize" to image_size; "resize_crop": shorter side to resize_to,
                # then the centre; "pad": keep the aspect ratio, pad with the mean.
                resize="resize",
                resize_to=0,
                # Look through all images before a run, and stop at errors.
                check=True,
                # At most so many images of each label in a split; 0 takes all.
                limit=0,
            ),
            backbone=dict(
                name="efficientnet_lite0",
                # "default", a file, "hf:repository[@revision]" or "random".
                weights="default",
                # Empty: the backbone's own default taps.
                taps=(),
                # Of the computation, float32 or bfloat16; parameters are float32.
                dtype="float32",
            ),
            patches=dict(
                # "concat": mean over the neighbourhood, levels concatenated.
                # "pooled": PatchCore's adaptive pooling to a target width.
                descriptor="concat",
                neighbourhood=3,
                # Both only for "pooled": the width of a level, and of the descriptor.
                level_dim=1024,
                target_dim=1024,
            ),
            method=dict(name="patchcore"),
            train=dict(
                # Steps between two lines of the curves, and between two checkpoints.
                log_every=100,
                save_every=1000,
                # Checkpoints that a stage keeps.
                keep=2,
                # First stages that several runs have in common (ToCoAD's stage I) are
                # kept here and trained once; "" keeps each in its run.
                stage_cache="",
            ),
            coreset=dict(
                # Share of the training patches that the memory bank keeps.
                ratio=0.01,
                # Width of a random projection for the selection; 0 is none (exact).
                projection_dim=0,
            ),
            detector=dict(
                # Bytes of a device that the coreset and the search may take; what is
                # larger stays in host memory, or in the feature cache's file, and
                # passes through. 0 is no bound.
                max_device_bytes=0,
                # "exact", or "approximate": faster on TPUs. It may miss a patch's
                # nearest entry and take a farther one, so scores rise; results.json
                # has the recall on patches of the run's own test images. CPUs miss
                # only what products cannot tell apart.
                search="exact",
                # Share of the nearest entries that "approximate" is to find.
                recall_target=0.95,
                # "max", "top_fraction", or "reweighted" (PatchCore, eq. 7; ReConPatch,
                # eq. 10).
                image_score="max",
                # Bank entries in the re-weighting.
                reweight_neighbours=9,
                # Share of the patches that "top_fraction" averages.
                top_fraction=0.01,
                # Standard deviation in pixels of the Gaussian over the anomaly map.
                blur_sigma=4.0,
            ),
            ensemble=dict(
                # Backbones whose scores are averaged (ReConPatch, eq. 11), each with
                # its default taps in place of config.backbone.name; empty: one.
                members=(),
                # The mean absolute deviation, which the paper names, in place of the
                # median one, which its constant belongs to (ours).
                mean_deviation=False,
            ),
            # Turns, shifts, brightens and blurs test images by at most so much, as
            # ReConPatch's Table 4 does; see `augment.disturbance.disturb`.
            disturbance=dict(
                rotation=0.0,
                translation=0.0,
                brightness=0.0,
                contrast=0.0,
                blur=0.0,
            ),
            # Images in a batch of the feature pass and of scoring.
            batch_size=16,
            # Seconds between two saves of the feature pass, of the coreset and of
            # scoring; what a kill costs at most. Training counts steps.
            save_seconds=60.0,
            # Overlays a kind (true and false alarms, misses, clean passes); 0 is none.
            overlays=4,
            # Descriptors of a frozen backbone are kept here and shared by all runs,
            # which spares an ablation study the feature pass; "" keeps none.
            feature_cache="",
            # Compiled programs are kept here; "" keeps none.
            compilation_cache="~/.cache/jaxad/xla",
        )
    )


def runlocal(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks a run to seconds on a laptop: a few images, and the same code paths.

    Of all categories of a public data set one is left.
    """
    config.dataset.limit = 24
    if config.dataset.category == "all":
        name = config.dataset.name
        config.dataset.category = _RUNLOCAL_CATEGORY.get(name, "all")
    config.overlays = 1
    return config


def parse_arg(arg: str | None, **defaults: Any) -> ml_collections.ConfigDict:
    """Reads a config file's argument, `"category=poly,runlocal"`.

    Each value takes the type of its default; a bare name means True.

    Raises:
      InputError: unknown name, or a value that does not fit the default's type.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, given, text = item.partition("=")
        if name not in defaults:
            raise InputError(
                f"config argument {name!r} does not exist"
                f"{did_you_mean(name, defaults)}; this config takes "
                f"{', '.join(sorted(defaults))}"
            )
        values[name] = _cast(name, text if given else "true", defaults[name])
    return ml_collections.ConfigDict(values)


def _cast(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise InputError(f"config argument {name}={text} must be true or false")
        return text.lower() in ("true", "1")
    try:
        return type(default)(text)
    except ValueError:
        kind = type(default).__name__
        raise InputError(
            f"config argument {name}={text} must be of type {kind}"
        ) from None


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks the shared fields.

    Raises:
      InputError: names the first field whose value cannot work.
    """
    choose("dataset.resize", config.dataset.resize, RESIZE_POLICIES)
    choose("backbone.dtype", config.backbone.dtype, ("float32", "bfloat16"))
    choose("patches.descriptor", config.patches.descriptor, DESCRIPTORS)
    choose("detector.image_score", config.detector.image_score, IMAGE_SCORES)
    choose("detector.search", config.detector.search, SEARCHES)
    require(
        len(config.dataset.image_size) == 2 and min(config.dataset.image_size) >= 0,
        "dataset.image_size",
        config.dataset.image_size,
        "two sizes in pixels, (height, width)",
    )
    require(
        not config.ensemble.members or config.detector.image_score != "reweighted",
        "detector.image_score",
        config.detector.image_score,
        "max or top_fraction with config.ensemble.members: there is no one bank",
    )
    odd = config.patches.neighbourhood % 2 == 1 and config.patches.neighbourhood > 0
    require(odd, "patches.neighbourhood", config.patches.neighbourhood, "an odd number")
    for field in ("coreset.ratio", "detector.top_fraction", "detector.recall_target"):
        value = get(config, field)
        require(0 < value <= 1, field, value, "above 0 and at most 1")
    for field in (
        "batch_size",
        "detector.reweight_neighbours",
        "patches.level_dim",
        "patches.target_dim",
        "train.log_every",
        "train.save_every",
        "train.keep",
    ):
        require(get(config, field) >= 1, field, get(config, field), "at least 1")
    for field in (
        "dataset.limit",
        "dataset.resize_to",
        "dataset.shots",
        "dataset.draw",
        "coreset.projection_dim",
        "detector.blur_sigma",
        "detector.max_device_bytes",
        "disturbance.rotation",
        "disturbance.translation",
        "disturbance.brightness",
        "disturbance.contrast",
        "disturbance.blur",
        "overlays",
        "seed",
    ):
        require(get(config, field) >= 0, field, get(config, field), "0 or more")
    if config.dataset.resize == "resize_crop":
        resize_to, size = config.dataset.resize_to, config.dataset.image_size
        require(
            not any(size) or resize_to >= max(size),
            "dataset.resize_to",
            resize_to,
            f"at least as large as the crop, dataset.image_size={tuple(size)}",
        )


def choose(field: str, value: str, allowed: Sequence[str]) -> None:
    """Raises InputError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise InputError(
            f"config.{field}={value!r} is not known{did_you_mean(value, allowed)}; "
            f"choose one of {', '.join(allowed)}"
        )


def require(holds: bool, field: str, value: Any, must_be: str) -> None:
    """Raises InputError naming the field unless `holds`."""
    if not holds:
        raise InputError(f"config.{field}={value} must be {must_be}")


def get(config: ml_collections.ConfigDict, field: str) -> Any:
    """The value of a field that is named with dots."""
    for part in field.split("."):
        config = config[part]
    return config
