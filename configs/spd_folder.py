"""SPot-the-Difference pre-training on own pictures: a ResNet-18.

  python -m jaxad.main --config configs/spd_folder.py:path=DIR --workdir runs/spd

`path` is a folder of pictures, with or without a folder for each class, or anything
that configs/patchcore_folder.py takes, of which the normal training images count;
docs/spd.md has them all. What it leaves, `runs/spd/backbone.safetensors`, any other
config takes with `--config.backbone.name=resnet18 --config.backbone.weights=FILE`.

Further arguments: `base` (simsiam, moco, simclr, or supervised where there are
classes), `eta` (0 is the base alone), `backbone` (a ResNet), and `runlocal`, which
shrinks the run to a minute. From weights of ImageNet it begins with
`--config.backbone.weights=default --config.method.zero_residuals=False`.
"""

from jaxad import config as config_lib
from jaxad.methods import spd_fields


def get_config(arg=None):
    args = config_lib.parse_arg(
        arg, runlocal=False, path="", base="simsiam", eta=0.1, backbone="resnet18"
    )
    config = config_lib.base()
    config.dataset.name = "folder"
    config.dataset.path = args.path
    config.dataset.image_size = (256, 256)
    config.backbone.name = args.backbone
    config.backbone.weights = "random"
    config.method = spd_fields.fields(args.base)
    config.method.eta = args.eta
    config.method.view_size = (224, 224)
    # A batch for one accelerator (ours); the rate goes with it.
    config.method.batch_size = 256
    return spd_fields.runlocal(config) if args.runlocal else config
