r"""ToCoAD, ablation A2: the anomaly generator.

  python -m jaxad.sweep --config configs/ablations/tocoad_generator.py \
      --workdir runs/tocoad_generator

Perlin noise is the paper's best: on MVTec AD image AUROC 99.10, pixel AUROC 98.21.

Arguments: `data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("tocoad", arg)


def sweep(add):
    for generator in ("perlin", "nsa", "cutpaste"):
        add(generator, {"method.generator": generator})
