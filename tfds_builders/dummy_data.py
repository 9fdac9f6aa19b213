"""Writes every builder's `dummy_data`: `python -m tfds_builders.dummy_data`.

Tiny images of noise in the layouts of the real archives, for TFDS's own test case.
"""

import pathlib

import numpy as np
from PIL import Image

_HERE = pathlib.Path(__file__).parent
_RNG = np.random.default_rng(0)


def _image(path: pathlib.Path, size=(6, 6), *, grey: bool = False) -> None:
    """Noise of (height, width); the suffix chooses the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = _RNG.integers(0, 256, size if grey else (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def _mask(path: pathlib.Path, size=(6, 6), *, value: int = 255, palette=False) -> None:
    """A square of `value` on 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    pixels[1:4, 1:4] = value
    image = Image.fromarray(pixels)
    if palette:
        image = Image.fromarray(pixels, "P")
        image.putpalette(_RNG.integers(0, 256, 30, np.uint8).tobytes())
    image.save(path)


def elpv(root: pathlib.Path) -> None:
    """Of each type: 5 normal cells, 2 defective ones, 1 of each uncertain kind."""
    probabilities = [0, 1, 0, 1 / 3, 0, 0, 2 / 3, 1, 0]
    rows = []
    for kind in ("mono", "poly"):
        for probability in probabilities:
            name = f"images/cell{len(rows) + 1:04}.png"
            _image(root / name, grey=True)
            rows.append(f"{name}  {probability:<18} {kind}\n")
    (root / "labels.csv").write_text("".join(rows))


def mvtec_ad(root: pathlib.Path) -> None:
    """A coloured and a grey category; stray files as a Mac leaves them."""
    for category, grey in (("bottle", False), ("grid", True)):
        folder = root / category
        for i in range(3):
            _image(folder / f"train/good/{i:03}.png", grey=grey)
        for i in range(2):
            _image(folder / f"test/good/{i:03}.png", grey=grey)
            _image(folder / f"test/bent/{i:03}.png", grey=grey)
            _mask(folder / f"ground_truth/bent/{i:03}_mask.png")
        (folder / "test/bent/.DS_Store").write_bytes(b"\0")


def visa(root: pathlib.Path) -> None:
    """Upper-case .JPG, masks of class ids, one of them a palette image."""
    size, table = (6, 9), "object,split,label,image,mask\n"
    splits = {
        "1cls": ("train train train test test".split(), "test test test".split()),
        "2cls_highshot": (
            "train train test test test".split(),
            "train test test".split(),
        ),
        "2cls_fewshot": (
            "train train test test test".split(),
            "train train test".split(),
        ),
    }
    tables = dict.fromkeys(splits, table)
    for category in ("candle", "pcb1"):
        annotations = "image,label,mask\n"
        for i in range(5):
            image = f"{category}/Data/Images/Normal/{i:04}.JPG"
            _image(root / image, size)
            annotations += f"{image},normal,\n"
            for protocol, (normal, _) in splits.items():
                tables[protocol] += f"{category},{normal[i]},normal,{image},\n"
        for i in range(3):
            image = f"{category}/Data/Images/Anomaly/{i:03}.JPG"
            mask = f"{category}/Data/Masks/Anomaly/{i:03}.png"
            _image(root / image, size)
            _mask(root / mask, size, value=i + 1, palette=i == 2)
            annotations += f'{image},"melt,scratch",{mask}\n'
            for protocol, (_, anomalous) in splits.items():
                tables[protocol] += (
                    f"{category},{anomalous[i]},anomaly,{image},{mask}\n"
                )
        (root / category / "image_anno.csv").write_text(annotations)
    (root / "split_csv").mkdir(exist_ok=True)
    for protocol, rows in tables.items():
        (root / "split_csv" / f"{protocol}.csv").write_text(rows)


def btad(root: pathlib.Path) -> None:
    """bmp and png mixed, numbers missing, all of it in the archive's own folder."""
    for product, images, masks in (("01", "bmp", "png"), ("03", "bmp", "bmp")):
        folder = root / "BTech_Dataset_transformed" / product
        for i in (0, 2, 3):
            _image(folder / f"train/ok/{i:04}.{images}")
        for i in (0, 1):
            _image(folder / f"test/ok/{i:04}.{images}")
        for i in (0, 2):
            _image(folder / f"test/ko/{i:04}.{images}")
            _mask(folder / f"ground_truth/ko/{i:04}.{masks}")


if __name__ == "__main__":
    for _make in (elpv, mvtec_ad, visa, btad):
        _make(_HERE / _make.__name__ / "dummy_data")
