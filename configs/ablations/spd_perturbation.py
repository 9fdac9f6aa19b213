r"""SPot-the-Difference, ablation: the local change, and what is made of it.

  python -m jaxad.sweep --config configs/ablations/spd_perturbation.py \
      --workdir runs/spd_perturbation

A row leaves a backbone, and the table has its probes; what detectors make of them is
configs/ablations/spd_downstream.py:pretrained=runs/spd_perturbation. The paper compares
SmoothBlend with CutPaste, and its cosines with a classifier's cross-entropy, and finds
SmoothBlend with the cosines best.

Arguments: `data` (imagenet, elpv or folder), and those of configs/spd_<data>.py.
"""

from jaxad import config as config_lib

CONFIGS = {name: f"spd_{name}" for name in ("imagenet", "elpv", "folder")}


def get_config(arg=None):
    return config_lib.study("spd", arg, CONFIGS)


def sweep(add):
    for perturbation in ("smooth_blend", "cutpaste"):
        for term in ("cosine", "classifier"):
            fields = {"method.perturbation": perturbation, "method.term": term}
            add(f"{perturbation}, {term}", fields)
