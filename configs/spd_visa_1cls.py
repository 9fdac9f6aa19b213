"""SPot-the-Difference's 1-class setup on VisA (arXiv 2207.14315): PaDiM or PatchCore.

  python -m jaxad.main --config configs/spd_visa_1cls.py --workdir runs/visa_1cls

90 % of the good images train, the others test with all defective ones. PaDiM on a
ResNet-50, layer1 to layer3, 550 channels; `detector=patchcore` is PatchCore on a
WideResNet-50, layer2 and layer3, a 10 % coreset. What a run of configs/spd_imagenet.py
has left is `weights=runs/spd/backbone.safetensors`, with `backbone` where it is another
network. Images are squares of 224 pixels, cut from 256 (ours).

Arguments: `detector` (padim or patchcore), `weights` (default, or a file), `backbone`
("" is the detector's), `category` (a name, or all) and `runlocal`, minutes on a CPU.
The columns of the benchmark are image_aupr, pixel_aupr (exact) and visa_pixel_aupr.

The paper, AU-PR: PaDiM of images 80.2 with SimSiam and 82.8 with SPD, of pixels 11.4
and 12.0 supervised; PatchCore of pixels 38.4 and 39.3 supervised.
"""

from jaxad import config as config_lib

BACKBONES = {"padim": "resnet50", "patchcore": "wide_resnet50_2"}


def get_config(arg=None):
    args = config_lib.parse_arg(
        arg,
        local=dict(category="candle"),
        runlocal=False,
        detector="padim",
        weights="default",
        backbone="",
        category="all",
    )
    config_lib.choose("detector", args.detector, tuple(BACKBONES))
    config = config_lib.base()
    config.dataset.name = "visa"
    config.dataset.category = args.category
    config.dataset.image_size = (224, 224)
    config.dataset.resize = "resize_crop"
    config.dataset.resize_to = 256
    config.backbone.name = args.backbone or BACKBONES[args.detector]
    config.backbone.weights = args.weights
    if args.detector == "padim":
        config.backbone.taps = ("layer1", "layer2", "layer3")
        config.patches.neighbourhood = 1
        config.detector.name = "padim"
        # Of 448 channels of a ResNet-18 PaDiM takes 100.
        config.detector.dim = 100 if config.backbone.name == "resnet18" else 550
    else:
        config.backbone.taps = ("layer2", "layer3")
        config.patches.descriptor = "pooled"
        config.coreset.ratio = 0.1
        config.coreset.projection_dim = 128
    config.metrics = ("visa",)
    return config_lib.runlocal(config) if args.runlocal else config
