"""ReConPatch on VisA, with the paper's settings for MVTec AD (arXiv 2305.16713).

  python -m jaxad.main --config configs/reconpatch_visa.py --workdir runs/visa

The paper has no results on VisA. Arguments: `category` (a name, or all), `dim` (width
of f) and `runlocal`, minutes on a CPU. docs/data.md says how to get the images. They
are not square: the crop keeps the centre, `--config.dataset.resize=resize` all.

An image scores its highest patch; the paper's re-weighting of it, eq. 10, is
`--config.detector.image_score=reweighted`.
"""

from jaxad import config as config_lib
from jaxad.methods import reconpatch_fields


def get_config(arg=None):
    args = config_lib.parse_arg(
        arg, local=dict(category="candle"), runlocal=False, category="all", dim=512
    )
    config = config_lib.base()
    config.dataset.name = "visa"
    config.dataset.category = args.category
    config.dataset.image_size = (224, 224)
    config.dataset.resize = "resize_crop"
    config.dataset.resize_to = 256
    config.backbone.name = "wide_resnet50_2"
    config.patches.descriptor = "pooled"
    config.method = reconpatch_fields.fields()
    config.method.dim = args.dim
    if args.runlocal:
        config = config_lib.runlocal(config)
        config.method.epochs = 1
    return config
