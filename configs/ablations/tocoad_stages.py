"""ToCoAD, ablation A1: the two stages.

The paper finds stage II without the guide poor, both stages best. Stage I alone changes
nothing that the memory bank sees, so it equals no training.

A row is a run of `get_config()` with the fields that `sweep` sets for it. Argument:
`data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from configs.ablations import tocoad_base


def get_config(arg=None):
    return tocoad_base.get_config(arg)


def sweep(add):
    add("no training", {"method.stages": ()})
    add("stage I", {"method.stages": ("dnp",)})
    add("stage II, no guide", {"method.stages": ("ncl",), "method.lambda_neg": 0.0})
    add("stages I and II", {})
    add("stages I and II, feature guide", {"method.guide": "feature"})
