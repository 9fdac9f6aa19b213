r"""ReConPatch: what the soft labels are made of (not in the paper).

  python -m jaxad.sweep --workdir runs/similarity \
      --config configs/ablations/reconpatch_similarity.py

alpha 1 compares patches by their distance alone, 0 by their neighbours alone.

A row is a run of `get_config()` with the fields that `sweep` sets for it. Argument:
`data` (mvtec, visa, btad or elpv), and those of configs/reconpatch_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("reconpatch", arg)


def sweep(add):
    add("alpha=0.5, k=5, sigma=0.5", {})
    for alpha in (0.0, 1.0):
        add(f"alpha={alpha}", {"method.alpha": alpha})
    for k in (3, 10, 20):
        add(f"k={k}", {"method.k": k})
    for sigma in (0.25, 1.0):
        add(f"sigma={sigma}", {"method.sigma": sigma})
    add("not normalised", {"method.normalise": False})
