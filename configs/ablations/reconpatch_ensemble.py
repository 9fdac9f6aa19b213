r"""ReConPatch, Table 6: ensembles of three backbones.

  python -m jaxad.sweep --workdir runs/ensemble \
      --config configs/ablations/reconpatch_ensemble.py

The paper on MVTec AD, image and pixel AUROC: ReConPatch at 480 99.72 and 98.67, at 320
99.67 and 98.36; PatchCore at 320 99.6 and 98.2.

Members have 384 dimensions, a rate of 1e-6 and 60 epochs, where one model has 512, 1e-5
and 120. PatchCore's row has the same aggregation of the members' scores (eq. 11), not
the one of PatchCore's own paper.

A row is a run of `get_config()` with the fields that `sweep` sets for it. Argument:
`data` (mvtec, visa, btad or elpv), and those of configs/reconpatch_<data>.py.
"""

from jaxad import config as config_lib

MEMBERS = ("wide_resnet101_2", "resnext101_32x8d", "densenet201")
# Shorter side before the centre crop: PatchCore's at 320; at 480 (ours).
RESIZE_TO = {320: 366, 480: 512}


def get_config(arg=None):
    return config_lib.study("reconpatch", arg)


def sweep(add):
    for size, method in ((480, "reconpatch"), (320, "patchcore"), (320, "reconpatch")):
        fields = {
            "ensemble.members": MEMBERS,
            "method.name": method,
            "dataset.image_size": (size, size),
            "dataset.resize": "resize_crop",
            "dataset.resize_to": RESIZE_TO[size],
        }
        if method == "reconpatch":
            fields |= {"method.dim": 384, "method.epochs": 60}
            fields["method.learning_rate"] = 1e-6
        add(f"{method}, {size}", fields)
