r"""ReConPatch, Table 1: the size of the memory bank, 1024 dimensions.

  python -m jaxad.sweep --workdir runs/coreset \
      --config configs/ablations/reconpatch_coreset.py

The paper on MVTec AD, image and pixel AUROC: 25 % 99.24 and 98.01, 10 % 99.27 and
98.07, 1 % 99.49 and 98.07.

A row is a run of `get_config()` with the fields that `sweep` sets for it. Argument:
`data` (mvtec, visa, btad or elpv), and those of configs/reconpatch_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("reconpatch", arg)


def sweep(add):
    for ratio in (0.25, 0.1, 0.01):
        add(f"{ratio:.0%}", {"coreset.ratio": ratio, "method.dim": 1024})
