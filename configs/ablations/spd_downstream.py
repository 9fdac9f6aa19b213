r"""SPot-the-Difference, ablation: PaDiM and PatchCore on what was pre-trained.

  python -m jaxad.sweep --workdir runs/spd_downstream \
      --config configs/ablations/spd_downstream.py:pretrained=runs/spd_eta

Two rows for each of a study's (spd_eta, spd_base, ...), whose folder is `pretrained`,
or for the backbone of a run; with `--seeds` every seed goes on with the backbone that
was pre-trained with it, and rows are compared in pairs as the study's are. Without
`pretrained` there are two of ImageNet's weights, on each detector's own network.
PaDiM's fit begins nowhere, so `--config.bank_starts=10` is of PatchCore's rows. The
paper's PatchCore on VisA, AU-PR of pixels: 38.4 supervised, 39.3 with SPD.

Arguments: `pretrained`, `data` (visa or mvtec), `detector` (padim or patchcore: the
rows of that one alone), and the others of configs/spd_visa_1cls.py or
configs/spd_mvtec.py; with `pretrained` neither `weights` nor `backbone`.
"""

from jaxad import config as config_lib
from jaxad.methods import spd_backbones

CONFIGS = {"visa": "spd_visa_1cls", "mvtec": "spd_mvtec"}


def get_config(arg=None):
    return config_lib.study("spd", spd_backbones.others(arg), CONFIGS)


def sweep(add, arg=None):
    start, (given, _) = get_config(arg), config_lib.taken(arg, "detector")
    detectors = ("padim", "patchcore") if given is None else (given,)
    for backbone in spd_backbones.of(arg):
        for detector in detectors:
            end = get_config(f"{arg or ''},detector={detector}{backbone.argument}")
            fields = config_lib.changes(start, end)
            if detector == "padim" and len(detectors) > 1:
                fields["bank_starts"] = 1
            row, baseline = backbone.rows(detector)
            add(row, fields, baseline)
