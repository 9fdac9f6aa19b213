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


if __name__ == "__main__":
    for _make in (elpv,):
        _make(_HERE / _make.__name__ / "dummy_data")
