r"""SPot-the-Difference, two classes: what 5, 10 and 60 % of the labelled images give.

  python -m jaxad.sweep --config configs/ablations/spd_few_shot.py \
      --workdir runs/few_shot --draws 0,1,2,3,4

The paper on VisA, AU-PR, mean over five draws: 5-shot classification 51.9 with SimSiam
and 56.1 with SPD, 10-shot segmentation 32.3 with MoCo and 32.8 with SPD; docs/spd.md
has what else is known of it.

Arguments: `data` (visa or elpv), and those of configs/two_class_<data>.py, such as
`weights=FILE` and `task=segmentation`.
"""

from jaxad import config as config_lib
from jaxad.methods import two_class

CONFIGS = {"visa": "two_class_visa", "elpv": "two_class_elpv"}


def get_config(arg=None):
    return config_lib.study("two_class", arg, CONFIGS)


def sweep(add):
    for shots in (5, 10):
        add(f"{shots} shots", two_class.few(shots))
    add("60 %", {"threshold.calibration": "none"})
