r"""ToCoAD: what may hold F's descriptors in stage II (not in the paper).

  python -m jaxad.sweep --config configs/ablations/tocoad_anchor.py \
      --workdir runs/tocoad_anchor

The contrastive loss folds descriptors into few directions (docs/tocoad.md). All rows
are at a rate of F at which it does, and but for two have the guide.

Arguments: `data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("tocoad", arg)


def sweep(add):
    add("no training", {"method.stages": ()})
    fast = {"method.ncl.backbone_learning_rate": 1e-3}
    add("no guide", fast | {"method.stages": ("ncl",), "method.guide": "none"})
    add("guide", fast)
    for name, field, value in (
        ("anchor", "anchor", 1.0),
        ("VICReg's terms", "vicreg", 1.0),
        ("slow target", "target", 0.99),
        ("scales and shifts alone", "trains", "normalisation"),
        ("tapped levels alone", "trains", "tapped"),
    ):
        add(f"guide, {name}", fast | {f"method.ncl.{field}": value})
