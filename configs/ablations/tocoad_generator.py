"""ToCoAD, ablation A2: the anomaly generator.

Perlin noise is the paper's best: on MVTec AD image AUROC 99.10, pixel AUROC 98.21.

A row is a run of `get_config()` with the fields that `sweep` sets for it. Argument:
`data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from configs.ablations import tocoad_base


def get_config(arg=None):
    return tocoad_base.get_config(arg)


def sweep(add):
    for generator in ("perlin", "nsa", "cutpaste"):
        add(generator, {"method.generator": generator})
