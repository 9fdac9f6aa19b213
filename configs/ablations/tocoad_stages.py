r"""ToCoAD, ablation A1: the two stages.

  python -m jaxad.sweep --config configs/ablations/tocoad_stages.py \
      --workdir runs/tocoad_stages

The paper finds stage II without the guide poor, both stages best. Stage I alone changes
nothing that the memory bank sees, so it equals no training; the paper's row does not,
so that D may reach the score in it. How is not known: the rows with D in the score are
one reading (ours).

Arguments: `data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("tocoad", arg)


def sweep(add):
    add("no training", {"method.stages": ()})
    add("stage I", {"method.stages": ("dnp",)})
    add("stage II, no guide", {"method.stages": ("ncl",), "method.guide": "none"})
    add("stages I and II", {})
    add("stages I and II, feature guide", {"method.guide": "feature"})
    seen = {"method.in_score": True}
    add("stage I, D in the score", seen | {"method.stages": ("dnp",)})
    add("stages I and II, D in the score", seen)
