r"""ToCoAD, ablation A3: the discriminative loss.

  python -m jaxad.sweep --config configs/ablations/tocoad_loss.py \
      --workdir runs/tocoad_loss

A larger gamma also makes the loss, and with it the guide of stage II, smaller.

The paper's best is alpha 0.5 and gamma 2: on MVTec AD image AUROC 98.82, pixel AUROC
98.13, below its headline, so some other component differed; hence two generators.

Arguments: `data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from jaxad import config as config_lib
from jaxad.methods import tocoad


def get_config(arg=None):
    return config_lib.study("tocoad", arg)


def sweep(add):
    for generator in ("perlin", "cutpaste"):
        given = {"method.generator": generator}
        # gamma = 0 is half the cross-entropy; the weight makes up for it in stage II.
        weight = 2 * tocoad.fields().lambda_neg
        cross_entropy = {"method.focal.gamma": 0.0, "method.lambda_neg": weight}
        add(f"{generator}, cross-entropy", given | cross_entropy)
        for alpha in (0.25, 0.5, 0.75):
            for gamma in (1.0, 2.0, 4.0):
                fields = {"method.focal.alpha": alpha, "method.focal.gamma": gamma}
                add(f"{generator}, alpha {alpha}, gamma {gamma}", given | fields)
