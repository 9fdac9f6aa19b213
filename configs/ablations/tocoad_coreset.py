r"""ToCoAD, ablation A7: the size of the memory bank.

  python -m jaxad.sweep --config configs/ablations/tocoad_coreset.py \
      --workdir runs/tocoad_coreset

That the paper varies it is probable, not certain; no cell is known.

Arguments: `data` (mvtec, visa, btad or elpv), and those of configs/tocoad_<data>.py.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    return config_lib.study("tocoad", arg)


def sweep(add):
    for ratio in (0.01, 0.05, 0.1, 0.25):
        add(f"{ratio:.0%}", {"coreset.ratio": ratio})
