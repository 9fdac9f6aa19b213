r"""ToCoAD: stages of a map on descriptors, beside no training (not in the paper).

  python -m jaxad.sweep --config configs/ablations/tocoad_map.py:category=poly \
      --workdir runs/tocoad_map_poly --seeds 0,1,2

chooses on ELPV poly; without `category` it reports on mono. Ten banks a run, since one
decides half a point.

Arguments: `data` (elpv by default), and those of configs/tocoad_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    given = arg or ""
    if "data=" not in given:
        given = f"data=elpv,{given}"
    if "reading" not in given:
        given = f"{given},reading=map"
    config = config_lib.study("tocoad", given)
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
