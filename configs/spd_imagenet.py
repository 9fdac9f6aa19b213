"""SPot-the-Difference pre-training on ImageNet (arXiv 2207.14315): a ResNet-50.

  python -m jaxad.main --config configs/spd_imagenet.py:path=DIR --workdir runs/spd

`path` is the extracted ImageNet-2012, with `train` and `val` in it; or the folder with
its tars, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, as they are downloaded;
or what TFDS has prepared of it (or of imagenette) as array_record files. docs/spd.md
says more. The hyper-parameters are the official ones of each base, which the paper
leaves as they are; so are those of the linear evaluation behind the training, whose
`top1_accuracy` of the validation set is the number that they publish.

Arguments: `path`, `base` (simsiam, moco, simclr or supervised), `eta` (0 is the base
alone), `backbone` (resnet50, wide_resnet50_2, resnet18) and `runlocal`, which shrinks
the run to a minute.

Views are cut on the device from the middle square of each picture, 256 pixels wide
(ours): the official ones are cut from the whole picture.
"""

from jaxad import config as config_lib
from jaxad.methods import spd_fields


def get_config(arg=None):
    args = config_lib.parse_arg(
        arg,
        local=dict(backbone="resnet18"),
        runlocal=False,
        path="",
        base="simsiam",
        eta=0.1,
        backbone="resnet50",
    )
    config = config_lib.base()
    config.dataset.name = "folder"
    config.dataset.path = args.path
    config.dataset.image_size = (256, 256)
    config.dataset.resize = "resize_crop"
    config.dataset.resize_to = 256
    config.backbone.name = args.backbone
    config.backbone.weights = "random"
    config.method = spd_fields.fields(args.base)
    config.method.eta = args.eta
    config.method.view_size = (224, 224)
    config.method.held_out = 0.01
    config.method.linear.update(spd_fields.LINEAR[args.base])
    if args.runlocal:
        config = spd_fields.runlocal(config)
        config.dataset.limit = 4  # of each class, which are a thousand
    return config
