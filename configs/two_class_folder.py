"""Own labelled images: good ones told from defective ones, or their defects outlined.

  python -m jaxad.main --config configs/two_class_folder.py:path=DIR --workdir runs/own

`path` is anything that configs/patchcore_folder.py takes, with defective images in it;
docs/own_images.md shows the layouts. 60 % of the good and of the defective ones train
an EfficientNet-Lite0, the others test; `protocol=1cls` goes by the folders or the CSV,
whose training images are then of both kinds. With `task=segmentation` it is a U-Net,
which needs a mask for every defective image. A fifth of the good training images are
held out of the training for the threshold.

Further arguments: `shots` (of each class, and no more; no threshold then) and `draw`
(0 to 4), `epochs` (0 is the method's), `backbone` and `weights` (default, or a file),
`size` (pixels) and `runlocal`, a minute.
"""

from jaxad import config as config_lib
from jaxad.methods import two_class_fields


def get_config(arg=None):
    args = config_lib.parse_arg(
        arg,
        local=dict(epochs=1, size=64),
        runlocal=False,
        path="",
        task="classification",
        protocol="2cls_highshot",
        shots=0,
        draw=0,
        epochs=0,
        backbone="efficientnet_lite0",
        weights="default",
        size=224,
    )
    config = config_lib.base()
    config.dataset.name = "folder"
    config.dataset.path = args.path
    config.dataset.image_size = (args.size, args.size)
    config.backbone.name = args.backbone
    config.backbone.weights = args.weights
    config = two_class_fields.configured(
        config, args.task, args.shots, args.draw, args.epochs
    )
    if not args.shots:
        config.dataset.protocol = args.protocol
    config.metrics = ("visa",)
    return config_lib.runlocal(config) if args.runlocal else config
