r"""ReConPatch, Table 2: the width of the descriptors, learnt or not.

  python -m jaxad.sweep --workdir runs/dim \
      --config configs/ablations/reconpatch_dim.py

The paper on MVTec AD, image AUROC from 1024 down to 64: PatchCore 99.1, 98.66, 98.45,
98.54, 97.75; ReConPatch 99.49, 99.56, 99.53, 99.52, 99.14. How the paper narrows
PatchCore's descriptors is not known: "random" is f at its start (ours), "pooled" is
PatchCore's adaptive pooling to that width.

A row is a run of `get_config()` with the fields that `sweep` sets for it. Argument:
`data` (mvtec, visa, btad or elpv), and those of configs/reconpatch_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("reconpatch", arg)


def sweep(add):
    for dim in (1024, 512, 256, 128, 64):
        add(f"{dim}", {"method.dim": dim})
        add(f"{dim}, random", {"method.dim": dim, "method.epochs": 0})
        pooled = {"patches.descriptor": "pooled", "patches.target_dim": dim}
        # f at its start turns descriptors of its own width, and no distance changes.
        add(f"{dim}, pooled", {**pooled, "method.dim": dim, "method.epochs": 0})
