"""The peer's side of input.py and pretrain_input.py: PyTorch's DataLoader, images/s.

python torch_input.py FOLDER BATCH [--crop SIDE] [--workers N]
"""

import argparse
import pathlib
import time

import numpy as np
import torch
from PIL import Image


class Files(torch.utils.data.Dataset):
    """Images at 224 x 224; or, with a crop, the middle of the shorter side's length."""

    def __init__(self, folder, crop):
        self.paths, self.crop = sorted(pathlib.Path(folder).iterdir()), crop

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        size, box = (224, 224), None
        with Image.open(self.paths[i]) as image:
            image = image.convert("RGB")
            if self.crop:
                size = tuple(side * self.crop // min(image.size) for side in image.size)
                left, top = ((side - self.crop) // 2 for side in size)
                box = left, top, left + self.crop, top + self.crop
            image = image.resize(size, Image.Resampling.BILINEAR).crop(box)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return pixels.to(torch.float32) / 255


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("batch", type=int)
    parser.add_argument("--crop", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    files = Files(arguments.folder, arguments.crop)
    loader = torch.utils.data.DataLoader(
        files,
        batch_size=arguments.batch,
        num_workers=arguments.workers,
        persistent_workers=True,
    )
    for _ in range(2):
        start = time.perf_counter()
        for _ in loader:
            pass
        seconds = time.perf_counter() - start
    print(len(files) / seconds, torch.__version__)


if __name__ == "__main__":
    main()
