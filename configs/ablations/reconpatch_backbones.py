r"""ReConPatch, Table 5: the backbone and the size of the images.

  python -m jaxad.sweep --workdir runs/backbones \
      --config configs/ablations/reconpatch_backbones.py

The paper on MVTec AD, image and pixel AUROC: WideResNet-50 at 224 99.56 and 98.18 (of
two models: no row of its Table 3 has both), WideResNet-101 at 480 99.62 and 98.53;
PatchCore, WideResNet-50 at 224, 99.1 and 98.1. Its table has a column for each class,
as `study.md` does.

Between the paper's two rows the backbone and the size change together; the row "larger
images" changes the size alone.

A row is a run of `get_config()` with the fields that `sweep` sets for it. Argument:
`data` (mvtec, visa, btad or elpv), and those of configs/reconpatch_<data>.py.
"""

from jaxad import config as config_lib

# Shorter side before the centre crop: PatchCore's at 224; at 480 (ours).
RESIZE_TO = {224: 256, 480: 512}


def get_config(arg=None):
    return config_lib.study("reconpatch", arg)


def sweep(add):
    def row(name, backbone, size, **fields):
        images = {
            "dataset.image_size": (size, size),
            "dataset.resize": "resize_crop",
            "dataset.resize_to": RESIZE_TO[size],
        }
        add(name, {"backbone.name": backbone, **images, **fields})

    patchcore = {"method.name": "patchcore"}
    row("PatchCore, WideResNet-50, 224", "wide_resnet50_2", 224, **patchcore)
    row("WideResNet-50, 224", "wide_resnet50_2", 224)
    row("WideResNet-50, larger images", "wide_resnet50_2", 480)
    row("WideResNet-101, 480", "wide_resnet101_2", 480)
