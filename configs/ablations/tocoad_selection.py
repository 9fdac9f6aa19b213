r"""ToCoAD: guide, anchor, skips and map, chosen on ELPV poly (not in the paper).

  python -m jaxad.sweep --config configs/ablations/tocoad_selection.py \
      --workdir runs/tocoad_selection --seeds 0,1,2

The guide's form and weight, an anchor, D's skips, and what the map on descriptors is
learnt by. What is chosen here is reported on other images, mono's, once; so the
category is poly unless `category` says otherwise. Ten banks a run, since one decides
half a point.

Arguments: `data` (elpv by default), and those of configs/tocoad_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    category = "category=poly" if _on_elpv(arg) else ""
    config = config_lib.study("tocoad", f"data=elpv,{category},{arg or ''}")
    config.bank_starts = 10
    return config


def _on_elpv(arg):
    return config_lib.taken(arg, "data")[0] in (None, "elpv")


def sweep(add, arg):
    add("no training", {"method.stages": ()})
    unguided = {"method.stages": ("ncl",), "method.guide": "none"}
    add("no guide", unguided)
    for skip in ("unet", "none"):
        for weight in (1.0, 10.0, 100.0, 1000.0):
            fields = {"method.lambda_neg.gradient": weight}
            add(
                f"gradient {weight:g}, skips {skip}",
                fields | {"method.decoder.skip": skip},
            )
    for weight in (0.1, 1.0, 10.0):
        add(
            f"feature {weight:g}",
            {"method.guide": "feature", "method.lambda_neg.feature": weight},
        )
    for weight in (1.0, 10.0):
        fields = {"method.guide": "per_class", "method.lambda_neg.per_class": weight}
        add(f"per class {weight:g}", fields)
        add(f"per class {weight:g}, anchor 1", fields | {"method.ncl.anchor": 1.0})
    # A rate that folds descriptors, unless something holds them.
    fast = {"method.ncl.backbone_learning_rate": 1e-3}
    add("gradient 100, rate 0.001", fast)
    anchored = fast | {"method.ncl.anchor": 1.0}
    add("gradient 100, anchor 1, rate 0.001", anchored)
    add("no guide, anchor 1, rate 0.001", unguided | anchored)
    mapped = {"method.grey": _on_elpv(arg), "method.stages": ("whitening",)}
    for shrinkage in (0.001, 0.01, 0.1, 1.0):
        field = {"method.whitening.shrinkage": shrinkage}
        add(f"whitening {shrinkage:g}", mapped | field)
    seen = {"method.stages": ("dnp", "whitening"), "method.whitening.shrinkage": 1.0}
    for share in (0.25, 1.0, 4.0):
        field = {"method.whitening.log_odds": share}
        add(f"whitening 1, log-odds {share:g}", mapped | seen | field)
    add("ranking", mapped | {"method.stages": ("ranking",)})
    mapped["method.stages"] = ("whitening", "ranking")
    for rate in (1e-3, 3e-3, 1e-2):
        field = {"method.ranking.learning_rate": rate}
        add(f"whitening and ranking, rate {rate:g}", mapped | field)
