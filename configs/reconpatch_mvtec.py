"""ReConPatch on MVTec AD: the paper's Table 2, 3 and 5 (arXiv 2305.16713).

  python -m jaxad.main --config configs/reconpatch_mvtec.py --workdir runs/reconpatch

Arguments: `category` (a name, or all), `backbone` with `size` (wide_resnet50_2 with
224, the paper's default, or wide_resnet101_2 with 480), `dim` (width of f) and
`runlocal`, minutes on a CPU. docs/data.md says how to get the images.

An image scores its highest patch; the paper's re-weighting of it, eq. 10, is
`--config.detector.image_score=reweighted`.

The paper, mean of the 15 categories: image AUROC 99.56, pixel AUROC 98.07 (Table 3,
WideResNet-50, 224, dim 512); 99.62 and 98.53 for WideResNet-101 at 480 (Table 5).
"""

from jaxad import config as config_lib
from jaxad.methods import reconpatch_fields

# Shorter side before the centre crop: PatchCore's at 224 and 320; at 480 (ours).
RESIZE_TO = {224: 256, 320: 366, 480: 512}


def get_config(arg=None):
    args = config_lib.parse_arg(
        arg,
        local=dict(category="bottle"),
        runlocal=False,
        category="all",
        backbone="wide_resnet50_2",
        size=224,
        dim=512,
    )
    config_lib.choose("dataset.image_size", args.size, tuple(RESIZE_TO))
    config = config_lib.base()
    config.dataset.name = "mvtec_ad"
    config.dataset.category = args.category
    config.dataset.image_size = (args.size, args.size)
    config.dataset.resize = "resize_crop"
    config.dataset.resize_to = RESIZE_TO[args.size]
    config.backbone.name = args.backbone
    # PatchCore's 1024 values a patch (ours); the paper names its aggregation, no width.
    config.patches.descriptor = "pooled"
    config.method = reconpatch_fields.fields()
    config.method.dim = args.dim
    if args.runlocal:
        config = config_lib.runlocal(config)
        config.method.epochs = 1
    return config
