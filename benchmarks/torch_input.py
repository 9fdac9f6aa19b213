"""The peer's side of input.py: images a second of PyTorch's DataLoader.

python torch_input.py FOLDER BATCH
"""

import pathlib
import sys
import time

import numpy as np
import torch
from PIL import Image


class Files(torch.utils.data.Dataset):
    def __init__(self, folder):
        self.paths = sorted(pathlib.Path(folder).iterdir())

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with Image.open(self.paths[i]) as image:
            image = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return pixels.to(torch.float32) / 255


def main():
    files = Files(sys.argv[1])
    loader = torch.utils.data.DataLoader(
        files, batch_size=int(sys.argv[2]), num_workers=2, persistent_workers=True
    )
    for _ in range(2):
        start = time.perf_counter()
        for _ in loader:
            pass
        seconds = time.perf_counter() - start
    print(len(files) / seconds, torch.__version__)


if __name__ == "__main__":
    main()
