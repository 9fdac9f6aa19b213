r"""SPot-the-Difference, ablation: PaDiM and PatchCore on what was pre-trained.

  python -m jaxad.sweep --workdir runs/spd_downstream \
      --config configs/ablations/spd_downstream.py:pretrained=runs/spd_eta

Two rows for each `backbone.safetensors` in the folder `pretrained`, which another study
(spd_eta, spd_base, ...) or a run has left; without it two of ImageNet's weights, on
each detector's own network. PaDiM's fit begins nowhere, so `--config.bank_starts=10` is
of PatchCore's rows. The paper's PatchCore on VisA, AU-PR of pixels: 38.4 supervised,
39.3 with SPD.

Arguments: `pretrained`, `data` (visa or mvtec), `detector` (padim or patchcore: the
rows of that one alone), and the others of configs/spd_visa_1cls.py or
configs/spd_mvtec.py; with `pretrained` neither `weights` nor `backbone`.
"""

import json
import pathlib

from jaxad import config as config_lib
from jaxad.errors import InputError

CONFIGS = {"visa": "spd_visa_1cls", "mvtec": "spd_mvtec"}
_GIVEN, _DETECTOR = "pretrained=", "detector="


def get_config(arg=None):
    items = [item for item in (arg or "").split(",") if not item.startswith(_GIVEN)]
    return config_lib.study("spd", ",".join(items), CONFIGS)


def sweep(add, arg=None):
    start, others = get_config(arg), arg or ""
    detectors = _values(arg, _DETECTOR)[-1:] or ("padim", "patchcore")
    for name, network, weights in _backbones(arg):
        for detector in detectors:
            given = f"{others},{_DETECTOR}{detector}"
            if weights:
                given += f",backbone={network},weights={weights}"
            fields = config_lib.changes(start, get_config(given))
            if detector == "padim" and len(detectors) > 1:
                fields["bank_starts"] = 1
            add(f"{name}{detector}", fields)


def _values(arg, name):
    """What the argument gives by that name."""
    items = (arg or "").split(",")
    return [item.removeprefix(name) for item in items if item.startswith(name)]


def _backbones(arg):
    """(what rows begin with, network, weights) of everything that was pre-trained."""
    given = _values(arg, _GIVEN)
    if not given:
        return [("", "", "")]
    for name in ("backbone=", "weights="):
        if _values(arg, name):
            raise InputError(
                f"config argument {name}... has no effect beside {_GIVEN}{given[-1]}, "
                "which names both; leave one of them out"
            )
    folder = pathlib.Path(given[-1]).expanduser()
    found = sorted(folder.rglob("backbone.safetensors"))
    if not found:
        raise InputError(
            f"config argument pretrained={folder} has no backbone.safetensors in it; "
            "name the folder of a study or a run that has left some"
        )
    cards = [json.loads(path.with_suffix(".json").read_text()) for path in found]
    places = [path.parent.relative_to(folder).as_posix() for path in found]
    return [
        ("" if place == "." else f"{place}, ", card["name"], path)
        for place, card, path in zip(places, cards, found, strict=True)
    ]
