r"""ReConPatch: who gives the soft labels, and for how long (not in the paper).

  python -m jaxad.sweep --workdir runs/teacher \
      --config configs/ablations/reconpatch_teacher.py

Without slow copies (ema=0) f and g label themselves; without training f is random.

A row is a run of `get_config()` with the fields that `sweep` sets for it. Argument:
`data` (mvtec, visa, btad or elpv), and those of configs/reconpatch_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("reconpatch", arg)


def sweep(add):
    for ema in (0.0, 0.9, 0.99, 0.999):
        add(f"ema={ema}", {"method.ema": ema})
    add("no training", {"method.epochs": 0})
