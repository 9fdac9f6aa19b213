r"""ToCoAD, ablation A6: the form of the contrastive loss and of the guide.

  python -m jaxad.sweep --config configs/ablations/tocoad_contrast.py \
      --workdir runs/tocoad_contrast

That the paper compares contrastive losses is probable, not certain; no cell is known.

Arguments: `data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from configs.ablations import base


def get_config(arg=None):
    return base.get_config("tocoad", arg)


def sweep(add):
    for contrastive in ("simsiam", "ntxent"):
        for guide in ("gradient", "feature"):
            fields = {"method.contrastive": contrastive, "method.guide": guide}
            add(f"{contrastive}, {guide} guide", fields)
