"""PatchCore on VisA with the settings of the original (arXiv 2106.08265).

  python -m jaxad.main --config configs/patchcore_visa.py --workdir runs/visa

WideResNet-50, layer2 and layer3, shorter side 256 and its centre 224, a 10 % coreset
chosen under a random projection to 128 dimensions. docs/data.md says how to get the
images. Arguments: `category` (a name, or all), `protocol` (1cls, 2cls_highshot or
2cls_fewshot), for the last one `shots` (5 or 10) and `draw` (0 to 4), and `runlocal`,
minutes on a CPU. Of the two-class protocols the memory bank takes the normal images.

Images are not square: the crop keeps the centre, `--config.dataset.resize=resize` all.
"""

from jaxad import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(
        arg,
        local=dict(category="candle"),
        runlocal=False,
        category="all",
        protocol="1cls",
        shots=0,
        draw=0,
    )
    config = config_lib.base()
    config.dataset.name = "visa"
    config.dataset.category = args.category
    config.dataset.protocol = args.protocol
    config.dataset.shots = args.shots
    config.dataset.draw = args.draw
    config.dataset.image_size = (224, 224)
    config.dataset.resize = "resize_crop"
    config.dataset.resize_to = 256
    config.backbone.name = "wide_resnet50_2"
    config.patches.descriptor = "pooled"
    config.coreset.ratio = 0.1
    config.coreset.projection_dim = 128
    return config_lib.runlocal(config) if args.runlocal else config
