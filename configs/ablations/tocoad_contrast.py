"""ToCoAD, ablation A6: the form of the contrastive loss and of the guide.

That the paper compares contrastive losses is probable, not certain; no cell is known.

A row is a run of `get_config()` with the fields that `sweep` sets for it. Argument:
`data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from configs.ablations import tocoad_base


def get_config(arg=None):
    return tocoad_base.get_config(arg)


def sweep(add):
    for contrastive in ("simsiam", "ntxent"):
        for guide in ("gradient", "feature"):
            fields = {"method.contrastive": contrastive, "method.guide": guide}
            add(f"{contrastive}, {guide} guide", fields)
