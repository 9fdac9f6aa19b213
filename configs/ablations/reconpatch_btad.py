r"""ReConPatch, Table 7: BTAD.

  python -m jaxad.sweep --workdir runs/btad_table \
      --config configs/ablations/reconpatch_btad.py

The paper, image and pixel AUROC, mean of three categories: PatchCore 93.1 and 97.3,
ReConPatch 95.8 and 97.5. It takes PatchCore's numbers from elsewhere; here both have
WideResNet-101 at 480.

A row is a run of `get_config()` with the fields that `sweep` sets for it. Argument:
`data` (btad by default), and those of configs/reconpatch_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("reconpatch", f"data=btad,{arg or ''}")


def sweep(add):
    for name in ("patchcore", "reconpatch"):
        add(name, {"method.name": name})
