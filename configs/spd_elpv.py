"""SPot-the-Difference pre-training on ELPV, real solar cells: a ResNet-18 from nothing.

  python -m jaxad.main --config configs/spd_elpv.py --workdir runs/spd

What it leaves, `runs/spd/backbone.safetensors`, any other config takes:

  python -m jaxad.main --config configs/patchcore_elpv.py --workdir runs/patchcore \\
      --config.backbone.name=resnet18 \\
      --config.backbone.weights=runs/spd/backbone.safetensors

Not an experiment of the paper, which trains on ImageNet: the training cells of both
types, at a size for CPUs. Arguments: `base` (simsiam, moco, simclr or supervised, which
learns the cell type), `eta` (0 is the base alone), `category` (mono, poly, or all) and
`runlocal`, which shrinks the run to a minute. docs/spd.md has the results.
"""

from jaxad import config as config_lib
from jaxad.methods import spd_fields


def get_config(arg=None):
    args = config_lib.parse_arg(
        arg, runlocal=False, base="simsiam", eta=0.1, category="all"
    )
    config = config_lib.base()
    config.dataset.name = "elpv"
    config.dataset.category = args.category
    config.dataset.image_size = (96, 96)
    config.backbone.name = "resnet18"
    config.backbone.weights = "random"
    config.method = spd_fields.fields(args.base)
    config.method.eta = args.eta
    # Cells lie upright, and ImageNet's crops would show a fiftieth of one (ours).
    config.method.strong.scale = (0.5, 1.0)
    config.method.update(batch_size=64, epochs=40)
    if args.base != "supervised":
        widths = (512,) * (len(config.method.projector) - 1)
        config.method.projector = (*widths, min(512, config.method.projector[-1]))
    if args.base == "simsiam":
        config.method.bottleneck = 128
    if args.base == "moco":
        config.method.queue = 512
    config.train.log_every = 20
    return spd_fields.runlocal(config) if args.runlocal else config
