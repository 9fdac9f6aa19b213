r"""ToCoAD, ablation A4: the levels of the contrastive loss.

  python -m jaxad.sweep --config configs/ablations/tocoad_levels.py \
      --workdir runs/tocoad_levels

The paper's best is "3 and 4", which is layer3 and layer4 or, counting convolutions as
ResNet's authors do, layer2 and layer3.

Arguments: `data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("tocoad", arg)


def sweep(add):
    for levels in (("2",), ("3",), ("4",), ("2", "3"), ("3", "4"), ("2", "3", "4")):
        names = tuple(f"layer{level}" for level in levels)
        add(" and ".join(names), {"method.levels": names})
