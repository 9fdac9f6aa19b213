r"""ToCoAD, ablation A6: the form of the contrastive loss and of the guide.

  python -m jaxad.sweep --config configs/ablations/tocoad_contrast.py \
      --workdir runs/tocoad_contrast

That the paper compares contrastive losses is probable, not certain; no cell is known.
NT-Xent is larger than SimSiam's loss (log of twice the batch at its start, against 0 to
-1), so the same weight of a guide is less beside it; the rows do not make up for that.

Arguments: `data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("tocoad", arg)


def sweep(add):
    for contrastive in ("simsiam", "ntxent"):
        loss = {"method.contrastive": contrastive}
        add(f"{contrastive}, gradient guide", loss)
        add(f"{contrastive}, feature guide", loss | {"method.guide": "feature"})
