r"""SPot-the-Difference, two classes: 5 and 10 labelled images of each, five draws.

  python -m jaxad.sweep --config configs/ablations/spd_few_shot.py \
      --workdir runs/few_shot --seeds 0,1,2,3,4

Every seed has the draw of its number; `train.csv` of each run says which images it has
drawn. With `pretrained`, the folder of a study such as spd_base, each of its rows is
fine-tuned, every seed the backbone that was pre-trained with it, and compared in pairs
as that study's rows are; `--draws` is then of each seed:

  python -m jaxad.sweep --workdir runs/few_shot --seeds 0,1,2 --draws 0,1,2,3,4 \
      --config configs/ablations/spd_few_shot.py:pretrained=runs/spd_base

The paper on VisA, AU-PR, mean over five draws: 5-shot classification 51.9 with
SimSiam and 56.1 with SPD, 10-shot segmentation 32.3 with MoCo and 32.8 with SPD;
docs/spd.md has what else is known of it.

Arguments: `data` (visa or elpv), `pretrained`, `shots` (5, 10, or 0, which is 60 % of
all: the rows of that alone), and the others of configs/two_class_<data>.py, such as
`task=segmentation`, and `weights=FILE` in place of `pretrained`.
"""

from jaxad import config as config_lib
from jaxad.methods import spd_backbones

CONFIGS = {"visa": "two_class_visa", "elpv": "two_class_elpv"}


def get_config(arg=None):
    return config_lib.study("two_class", spd_backbones.others(arg), CONFIGS)


def sweep(add, arg=None):
    start, (given, _) = get_config(arg), config_lib.taken(arg, "shots")
    for backbone in spd_backbones.of(arg):
        for shots in ("5", "10") if given is None else (given,):
            few = get_config(f"{arg or ''},shots={shots}{backbone.argument}")
            name = f"{shots} shots" if few.dataset.shots else "60 %"
            row, baseline = backbone.rows(name)
            add(row, config_lib.changes(start, few), baseline)
