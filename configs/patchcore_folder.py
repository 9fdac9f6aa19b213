"""PatchCore on own images, with EfficientNet-Lite0.

  python -m jaxad.main --config configs/patchcore_folder.py:path=DIR --workdir runs/own

`path` is a folder laid out as MVTec AD, one with good and bad side by side, a plain
folder of normal images, or a CSV; docs/own_images.md has them all. Further arguments:
`anomalous_path`, a folder of anomalous images beside a plain one of normal images, and
`runlocal`, which shrinks the run to seconds. A path with a comma in it goes into
`--config.dataset.path=...` instead.

Any other config does the same with `--config.dataset.name=folder
--config.dataset.path=DIR --config.dataset.category=all`.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(arg, runlocal=False, path="", anomalous_path="")
    config = config_lib.base()
    config.dataset.name = "folder"
    config.dataset.path = args.path
    config.dataset.anomalous_path = args.anomalous_path
    return config_lib.runlocal(config) if args.runlocal else config
