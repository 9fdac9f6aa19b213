r"""SPot-the-Difference, ablation: the network that is pre-trained.

  python -m jaxad.sweep --config configs/ablations/spd_backbone.py \
      --workdir runs/spd_backbone

A row leaves a backbone, and the table has its probes; what detectors make of them is
configs/ablations/spd_downstream.py:pretrained=runs/spd_backbone. The paper finds that
the term helps a WideResNet-50 as it does a ResNet-50.

Arguments: `data` (imagenet, elpv or folder), and those of configs/spd_<data>.py.
"""

from jaxad import config as config_lib

CONFIGS = {name: f"spd_{name}" for name in ("imagenet", "elpv", "folder")}


def get_config(arg=None):
    return config_lib.study("spd", arg, CONFIGS)


def sweep(add):
    for name in ("resnet50", "wide_resnet50_2"):
        add(name, {"backbone.name": name, "method.eta": 0.0})
        add(f"{name} + SPD", {"backbone.name": name, "method.eta": 0.1}, name)
