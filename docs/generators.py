"""Draws docs/generators.png: every anomaly generator's output, and its masks.

  python docs/generators.py

The pictures that are damaged are drawn here, too: two pieces of woven cloth.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxad import rng
from jaxad.augment import anomalies, views

SIDE, COLUMNS, GAP = 112, 6, 4


def cloth(seed: int) -> np.ndarray:
    """A woven pattern [SIDE, SIDE, 3] in [0, 1]; the seed sets threads and colours."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    y, x = y + 0.004 * np.sin(20 * x), x + 0.004 * np.sin(17 * y)
    threads = 14 + 4 * seed
    warp, weft = np.sin(2 * np.pi * threads * x), np.sin(2 * np.pi * threads * y)
    over = np.sign(warp * weft)
    height = 0.5 + 0.25 * np.where(over > 0, warp**2, weft**2)
    colours = random.uniform(0.35, 0.9, (2, 3))
    image = height[..., None] * np.where(over[..., None] > 0, colours[0], colours[1])
    image = image * (1.15 - 0.3 * y[..., None])
    noise = random.normal(0, 0.012, image.shape)
    return np.clip(image * 1.3 + noise, 0, 1).astype(np.float32)


def rows() -> list[np.ndarray]:
    """One row a generator: pictures, and under each its mask."""
    image, other = cloth(0), cloth(1)
    drawn = []
    for name, generate in (
        ("perlin", lambda k, x: anomalies.perlin(k, x, other, unchanged=0.0)),
        ("noise", lambda k, x: anomalies.perlin(k, x, None, unchanged=0.0)),
        ("cutpaste_patch", anomalies.cutpaste_patch),
        ("cutpaste_scar", anomalies.cutpaste_scar),
        ("smooth_blend", anomalies.smooth_blend),
        (
            "literal",
            lambda k, x: anomalies.smooth_blend(k, x, literal=True),
        ),
        ("nsa", lambda k, x: anomalies.nsa(k, x, other)),
    ):
        keys = rng.per_example(rng.stream(0, name), jnp.arange(4 * COLUMNS))
        images, masks = jax.vmap(lambda key, g=generate: g(key, image))(keys)
        # An empty mask shows nothing: the first of those that are not.
        shown = np.flatnonzero(np.asarray(masks).any((1, 2)))[:COLUMNS]
        drawn.append(np.asarray(images)[shown])
        drawn.append(np.repeat(np.asarray(masks)[shown][..., None], 3, -1))
    keys = rng.per_example(rng.stream(0, "views"), jnp.arange(COLUMNS))
    weak = dict(scale=(0.9, 1.0), ratio=(0.95, 1.05), grey=0.0)
    weak |= dict(jitter=(0.1, 0.1, 0.1, 0.02), blur=(0.1, 0.5))
    for view in (
        views.weak_view,
        views.global_view,
        functools.partial(views.global_view, **weak),
    ):
        drawn.append(np.asarray(jax.vmap(lambda key, v=view: v(key, image))(keys)))
    return drawn


def main() -> None:
    def framed(x):
        return np.pad(x, ((0, GAP), (0, GAP), (0, 0)), constant_values=1.0)

    sheet = np.concatenate(
        [np.concatenate([framed(x) for x in row], 1) for row in rows()], 0
    )
    picture = Image.fromarray((sheet * 255).round().astype(np.uint8))
    # 128 colours are enough to tell, and a quarter of the size.
    picture = picture.quantize(128)
    picture.save(pathlib.Path(__file__).with_name("generators.png"), optimize=True)


if __name__ == "__main__":
    main()
