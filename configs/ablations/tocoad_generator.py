r"""ToCoAD, ablation A2: the anomaly generator.

  python -m jaxad.sweep --config configs/ablations/tocoad_generator.py \
      --workdir runs/tocoad_generator

Perlin noise is the paper's best: on MVTec AD image AUROC 99.10, pixel AUROC 98.21.

The generators differ in more than what a defect looks like. Perlin noise leaves half of
the images as they are, as its own code does, so D sees half as many defects; the row
"perlin, always" does not. It pastes pictures of DTD where there are any, the others
paste from training images (`results.json` says what was pasted). NSA has its own code's
constants for each category of MVTec AD, and its defaults elsewhere.

Arguments: `data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("tocoad", arg)


def sweep(add):
    for generator in ("perlin", "nsa", "cutpaste"):
        add(generator, {"method.generator": generator})
    always = {"method.generator": "perlin", "method.perlin.unchanged": 0.0}
    add("perlin, always", always)
