r"""SPot-the-Difference, ablation: the weight of the term.

  python -m jaxad.sweep --config configs/ablations/spd_eta.py --workdir runs/spd_eta

A row leaves a backbone, and the table has its probes; what detectors make of them is

  python -m jaxad.sweep --workdir runs/spd_eta_padim \
      --config configs/ablations/spd_downstream.py:pretrained=runs/spd_eta

The paper tries 0.1, 0.5 and 1 with SimSiam and PaDiM, and finds 0.1 best.

Arguments: `data` (imagenet, elpv or folder), and those of configs/spd_<data>.py, such
as `path=DIR`.
"""

from jaxad import config as config_lib

CONFIGS = {name: f"spd_{name}" for name in ("imagenet", "elpv", "folder")}


def get_config(arg=None):
    return config_lib.study("spd", arg, CONFIGS)


def sweep(add):
    for eta in (0.0, 0.1, 0.5, 1.0):
        add(f"eta={eta:g}", {"method.eta": eta})
