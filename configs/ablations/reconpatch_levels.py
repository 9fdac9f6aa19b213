r"""ReConPatch, Table 3: the backbone's levels and the neighbourhood of a patch.

  python -m jaxad.sweep --workdir runs/levels \
      --config configs/ablations/reconpatch_levels.py

The paper on MVTec AD, image and pixel AUROC: s=3 with layers 2 and 3 99.56 and 98.07;
s=5 98.84 and 97.82; s=5 with layers 1 to 3 98.7 and 98.18.

A row is a run of `get_config()` with the fields that `sweep` sets for it. Argument:
`data` (mvtec, visa, btad or elpv), and those of configs/reconpatch_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("reconpatch", arg)


def sweep(add):
    for side, levels in ((3, "23"), (5, "23"), (5, "123")):
        taps = tuple(f"layer{level}" for level in levels)
        fields = {"patches.neighbourhood": side, "backbone.taps": taps}
        add(f"s={side}, {', '.join(taps)}", fields)
