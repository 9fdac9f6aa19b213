"""SPot-the-Difference's 2-class setups on VisA (arXiv 2207.14315): labelled defects.

  python -m jaxad.main --config configs/two_class_visa.py --workdir runs/visa_2cls

A ResNet-50 fine-tuned to tell good images from defective ones, or with
`task=segmentation` a U-Net on it; 60 % of both classes train (2cls_highshot). With
`shots` (5 or 10) it is `draw` 0 to 4 of 2cls_fewshot, and the mean over all five:

  python -m jaxad.sweep --config configs/ablations/spd_few_shot.py \\
      --workdir runs/few_shot --seeds 0,1,2,3,4

All of the training images train, as in the paper, so there is no threshold:
`--config.threshold.calibration=split` holds some good ones out for it. 800 x 800 pixels
is what its authors recommend; optimiser and epochs are ours, docs/spd.md says which.

Arguments: `task` (classification or segmentation), `category` (a name, or all),
`shots`, `draw`, `epochs` (0 is the method's), `backbone` and `weights` (default, or a
file), `size` (pixels), and `runlocal`, a minute.

The paper, high-shot AU-PR: segmentation 65.1 with supervised weights and 71.9 with SPD
on top, classification 97.5 and 98.3.
"""

from jaxad import config as config_lib
from jaxad.methods import two_class_fields


def get_config(arg=None):
    args = config_lib.parse_arg(
        arg,
        local=dict(category="candle", epochs=1, backbone="efficientnet_lite0", size=64),
        runlocal=False,
        task="classification",
        category="all",
        shots=0,
        draw=0,
        epochs=0,
        backbone="resnet50",
        weights="default",
        size=800,
    )
    config = config_lib.base()
    config.dataset.name = "visa"
    config.dataset.category = args.category
    config.dataset.image_size = (args.size, args.size)
    config.backbone.name = args.backbone
    config.backbone.weights = args.weights
    config = two_class_fields.configured(
        config, args.task, args.shots, args.draw, args.epochs
    )
    config.threshold.calibration = "none"
    config.metrics = ("visa",)
    return config_lib.runlocal(config) if args.runlocal else config
