r"""ToCoAD, ablation A5: the feature extractor.

  python -m jaxad.sweep --config configs/ablations/tocoad_backbone.py \
      --workdir runs/tocoad_backbone

The paper finds WideResNet-50 best, WideResNet-101 comparable, ResNet-50 a little lower.

D is the inverse of each backbone, so its width changes with it.

Arguments: `data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("tocoad", arg)


def sweep(add):
    for name in ("resnet50", "wide_resnet50_2", "wide_resnet101_2"):
        add(name, {"backbone.name": name})
