"""Writes seamless_clone.npz: OpenCV's answers, for test_poisson.py beside it.

  python tests/augment/make_seamless_clone_golden.py

Needs opencv-python-headless, which jaxad itself does not; made with 5.0.0.
"""

import pathlib

import cv2
import numpy as np

SIDE = 48
# top, left, height, width of the mask: inside, near a border, thin, too small.
RECTANGLES = [(8, 12, 30, 24), (1, 1, 44, 40), (20, 5, 10, 33), (15, 15, 8, 20)]


def smooth_image(seed):
    noise = np.random.default_rng(seed).random((6, 6, 3))
    image = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return (image.clip(0, 1) * 255).astype(np.uint8)


def main():
    image, patch = smooth_image(0), smooth_image(1)
    clones = []
    for top, left, height, width in RECTANGLES:
        cut = patch[top : top + height, left : left + width].copy()
        mask = np.full((height, width), 255, np.uint8)
        centre = (left + width // 2, top + height // 2)
        clones.append(cv2.seamlessClone(cut, image, mask, centre, cv2.NORMAL_CLONE))
    np.savez_compressed(
        pathlib.Path(__file__).with_name("seamless_clone.npz"),
        image=image,
        patch=patch,
        rectangles=np.asarray(RECTANGLES),
        clones=np.stack(clones),
    )


if __name__ == "__main__":
    main()
