"""Solar cells told apart by what has been labelled: an EfficientNet-Lite0, fine-tuned.

  python -m jaxad.main --config configs/two_class_elpv.py --workdir runs/labelled

60 % of the good and of the defective cells train, the others test. Some of the good
ones are held out of the training for the threshold. With `shots` that many of each
class train, of a pool of 20 %, and as all of them do there is no threshold; the mean
over five draws, in one table:

  python -m jaxad.sweep --config configs/ablations/spd_few_shot.py:data=elpv \\
      --workdir runs/few --seeds 0,1,2,3,4

Not an experiment of a paper, though the protocol is SPot-the-Difference's. Arguments:
`category` (mono, poly, or all), `shots` (0 is 2cls_highshot) and `draw` (0 to 4),
`epochs` (0 is the method's), `backbone` and `weights` (default, or a file), `size`, and
`runlocal`, a minute.
"""

from jaxad import config as config_lib
from jaxad.methods import two_class_fields


def get_config(arg=None):
    args = config_lib.parse_arg(
        arg,
        local=dict(epochs=1, size=64),
        runlocal=False,
        category="mono",
        shots=0,
        draw=0,
        epochs=0,
        backbone="efficientnet_lite0",
        weights="default",
        size=96,
    )
    config = config_lib.base()
    config.dataset.name = "elpv"
    config.dataset.category = args.category
    config.dataset.image_size = (args.size, args.size)
    config.backbone.name = args.backbone
    config.backbone.weights = args.weights
    config = two_class_fields.configured(
        config, "classification", args.shots, args.draw, args.epochs
    )
    config.metrics = ("visa",)
    return config_lib.runlocal(config) if args.runlocal else config
