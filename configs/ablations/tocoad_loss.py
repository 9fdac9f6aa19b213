r"""ToCoAD, ablation A3: the discriminative loss.

  python -m jaxad.sweep --config configs/ablations/tocoad_loss.py \
      --workdir runs/tocoad_loss

The rows differ in the loss that D is trained with. The guide of stage II is a focal
loss as well, and a larger gamma would make it weaker (at a probability of one half by
2^gamma): it keeps its own constants, `method.guide_focal`. In the rows "guide alike" it
has those of stage I, as the paper's may have had; they differ in its strength, too.

The paper's best is alpha 0.5 and gamma 2: on MVTec AD image AUROC 98.82, pixel AUROC
98.13, below its headline, so some other component differed; hence two generators.

Arguments: `data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("tocoad", arg)


def sweep(add):
    for generator in ("perlin", "cutpaste"):
        given = {"method.generator": generator}
        # gamma = 0 is half the cross-entropy, and Adam does not see the half.
        add(f"{generator}, cross-entropy", given | {"method.focal.gamma": 0.0})
        for alpha in (0.25, 0.5, 0.75):
            for gamma in (1.0, 2.0, 4.0):
                fields = {"method.focal.alpha": alpha, "method.focal.gamma": gamma}
                add(f"{generator}, alpha {alpha}, gamma {gamma}", given | fields)
    for gamma in (0.0, 1.0, 4.0):
        alike = {"method.focal.gamma": gamma, "method.guide_focal.gamma": gamma}
        add(f"perlin, alpha 0.5, gamma {gamma}, guide alike", alike)
