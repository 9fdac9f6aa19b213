"""What fields of a config may name, without a dotted path.

Here, and not beside what is named: a misspelt name is then told before JAX is imported.
"""

BACKBONES = (
    "efficientnet_lite0",
    "resnet18",
    "resnet50",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext101_32x8d",
    "densenet201",
    "dinov2_vits14",
    "dinov2_vitb14",
    "dinov2_vits14_reg",
    "dinov2_vitb14_reg",
    "dinov3_vits16",
    "dinov3_vitb16",
)
METHODS = ("patchcore", "reconpatch", "tocoad", "spd", "two_class")
DETECTORS = ("knn", "padim", "logits")
# Of methods: `optim.scale_by`, `probes.linear_accuracy`, and in `models` what heads
# normalise with and what `decoder` connects to a backbone with.
OPTIMISERS = ("adam", "adamw", "sgd", "lars")
LINEAR_PROBES = ("lbfgs", "sgd", "lars")
NORMS = ("batch", "layer")
SKIPS = ("none", "unet")
