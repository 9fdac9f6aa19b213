"""ReConPatch's ensemble on MVTec AD: the paper's Table 6 (arXiv 2305.16713).

  python -m jaxad.main --config configs/reconpatch_mvtec_ensemble.py --workdir runs/all3

WideResNet-101, ResNeXt-101 and DenseNet-201, 384 dimensions each; the patch scores of
the three are averaged as modified z-scores. Arguments: `category` (a name, or all),
`size` (480 or 320) and `runlocal`, minutes on a CPU. docs/data.md has the images.

An image scores its highest patch; eq. 10 of the paper re-weights it by one memory bank,
and an ensemble has several.

The paper, mean of the 15 categories, image and pixel AUROC: 99.72 and 98.67 at 480,
99.67 and 98.36 at 320.
"""

from jaxad import config as config_lib
from jaxad.methods import reconpatch_fields

# Shorter side before the centre crop: PatchCore's at 320; at 480 (ours).
RESIZE_TO = {320: 366, 480: 512}


def get_config(arg=None):
    args = config_lib.parse_arg(
        arg, local=dict(category="bottle"), runlocal=False, category="all", size=480
    )
    config_lib.choose("dataset.image_size", args.size, tuple(RESIZE_TO))
    config = config_lib.base()
    config.dataset.name = "mvtec_ad"
    config.dataset.category = args.category
    config.dataset.image_size = (args.size, args.size)
    config.dataset.resize = "resize_crop"
    config.dataset.resize_to = RESIZE_TO[args.size]
    config.ensemble.members = ("wide_resnet101_2", "resnext101_32x8d", "densenet201")
    # PatchCore's 1024 values a patch (ours).
    config.patches.descriptor = "pooled"
    config.method = reconpatch_fields.fields()
    config.method.dim = 384
    config.method.learning_rate = 1e-6
    config.method.epochs = 60
    if args.runlocal:
        config = config_lib.runlocal(config)
        config.method.epochs = 1
    return config
