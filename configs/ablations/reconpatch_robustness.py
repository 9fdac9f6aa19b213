r"""ReConPatch, Table 4: test images that are turned, shifted, brightened and blurred.

  python -m jaxad.sweep --workdir runs/robustness \
      --config configs/ablations/reconpatch_robustness.py

The paper on MVTec AD, image AUROC of objects, textures and all, which are the last
columns of `study.md`: PatchCore 99.17, 98.96 and 99.10, disturbed 94.86, 96.09 and
95.48; ReConPatch 99.44, 99.81 and 99.56, disturbed 97.65, 99.47 and 98.56. It does not
say by how much; the magnitudes are ours.

A row is a run of `get_config()` with the fields that `sweep` sets for it. Argument:
`data` (mvtec, visa, btad or elpv), and those of configs/reconpatch_<data>.py.
"""

from jaxad import config as config_lib

DISTURBED = {
    "disturbance.rotation": 10.0,
    "disturbance.translation": 0.05,
    "disturbance.brightness": 0.1,
    "disturbance.contrast": 0.1,
    "disturbance.blur": 1.0,
}


def get_config(arg=None):
    return config_lib.study("reconpatch", arg)


def sweep(add):
    for name in ("patchcore", "reconpatch"):
        add(name, {"method.name": name})
        add(f"{name}, disturbed", {"method.name": name, **DISTURBED})
