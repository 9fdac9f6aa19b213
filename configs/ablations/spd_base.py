r"""SPot-the-Difference: every base, with the term and without.

  python -m jaxad.sweep --config configs/ablations/spd_base.py --workdir runs/spd_base

A row leaves a backbone, and the table has its probes; what detectors make of them is
configs/ablations/spd_downstream.py:pretrained=runs/spd_base. The paper finds that the
term helps each of them in most setups; docs/spd.md has the numbers that are known.

Arguments: `data` (imagenet, elpv or folder), and those of configs/spd_<data>.py, but
for `base` and `eta`, which are the rows. A supervised base needs classes.
"""

from jaxad import config as config_lib
from jaxad.methods import spd_fields

CONFIGS = {name: f"spd_{name}" for name in ("imagenet", "elpv", "folder")}


def get_config(arg=None):
    return config_lib.study("spd", arg, CONFIGS)


def sweep(add, arg=None):
    start = get_config(arg)
    for base in spd_fields.BASES:
        for eta, name, baseline in ((0.0, base, None), (0.1, f"{base} + SPD", base)):
            row = get_config(f"{arg or ''},base={base},eta={eta}")
            add(name, config_lib.changes(start, row), baseline)
