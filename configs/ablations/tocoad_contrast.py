r"""ToCoAD, ablation A6: the form of the contrastive loss and of the guide.

  python -m jaxad.sweep --config configs/ablations/tocoad_contrast.py \
      --workdir runs/tocoad_contrast

That the paper compares contrastive losses is probable, not certain; no cell is known.
NT-Xent is larger than SimSiam's loss (log of twice the batch at its start, against 0 to
-1), so the same weight of a guide is less beside it; the rows do not make up for that.
The rows by place contrast levels without pooling, in views that differ in colours; D
has features of layer1 to layer3, so that its rows are on layer2 and layer3, beside F's
on the same.

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
    slow = {"method.ncl.target": 0.99}
    add("slow target, gradient guide", slow)
    place = {"method.positives": "place"}
    add("by place, gradient guide", place)
    of_f = {"method.guide": "feature", "method.levels": ("layer2", "layer3")}
    add("by place, F's negatives", place | of_f)
    of_d = of_f | {"method.negatives": "discriminator"}
    add("by place, D's negatives", place | of_d)
    add("by place, D's negatives, slow target", place | of_d | slow)
