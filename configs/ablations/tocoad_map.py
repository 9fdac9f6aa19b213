r"""ToCoAD: stages of a map on descriptors, beside no training (not in the paper).

  python -m jaxad.sweep --config configs/ablations/tocoad_map.py:category=poly \
      --workdir runs/tocoad_map_poly --seeds 0,1,2

chooses on ELPV poly; without `category` it reports on mono. Ten banks a run, since one
decides half a point.

Arguments: `data` (elpv by default), and those of configs/tocoad_<data>.py, less
`reading`.
"""

from jaxad import config as config_lib
from jaxad.errors import InputError


def get_config(arg=None):
    if config_lib.taken(arg, "reading")[0] is not None:
        raise InputError(
            "config argument reading has no effect on a study of reading=map; leave it "
            "out"
        )
    config = config_lib.study("tocoad", f"data=elpv,{arg or ''},reading=map")
    config.bank_starts = 10
    return config


def sweep(add):
    add("no training", {"method.stages": ()})
    add("whitening and D", {})
    alone = {"method.whitening.log_odds": 0.0}
    add("whitening", alone | {"method.stages": ("whitening",)})
    add("ranking", alone | {"method.stages": ("ranking",)})
    add("whitening and ranking", alone | {"method.stages": ("whitening", "ranking")})
    add("all", {"method.stages": ("dnp", "whitening", "ranking")})
