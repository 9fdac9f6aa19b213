r"""SPot-the-Difference, two classes: 5 and 10 labelled images of each, five draws.

  python -m jaxad.sweep --config configs/ablations/spd_few_shot.py \
      --workdir runs/few_shot --seeds 0,1,2,3,4

Every seed has the draw of its number; `train.csv` of each run says which images it has
drawn. The paper on VisA, AU-PR, mean over five draws: 5-shot classification 51.9 with
SimSiam and 56.1 with SPD, 10-shot segmentation 32.3 with MoCo and 32.8 with SPD;
docs/spd.md has what else is known of it.

Arguments: `data` (visa or elpv), and those of configs/two_class_<data>.py, such as
`task=segmentation` and `weights=FILE`.
"""

from jaxad import config as config_lib

CONFIGS = {"visa": "two_class_visa", "elpv": "two_class_elpv"}


def get_config(arg=None):
    return config_lib.study("two_class", arg, CONFIGS)


def sweep(add, arg=None):
    start = get_config(arg)
    for shots in (5, 10):
        few = get_config(f"{arg or ''},shots={shots}")
        add(f"{shots} shots", config_lib.changes(start, few))
