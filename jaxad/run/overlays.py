"""Pictures for people: an image, its anomaly map, and the true mask's outline."""

import pathlib
import re

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from jaxad.devices import processes
from jaxad.errors import writing

# Stops of the heat map, cold to hot, evenly spaced; alpha grows with the score so that
# what is normal stays visible.
_COLOURS = np.array(
    [(30, 40, 160), (0, 150, 200), (60, 190, 90), (250, 200, 30), (215, 25, 28)], float
)
_CAPTION = 18
_MINIMUM_SIDE = 224


def choose(scores: np.ndarray, labels: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """The images that a person would want to look at.

    Returns:
      kind -> indices [<= count], the most telling first: "anomalous_highest" (caught),
      "anomalous_lowest" (missed), "normal_highest" (false alarms), "normal_lowest". No
      image is in two kinds.
    """
    order = np.argsort(scores, kind="stable")
    chosen = {}
    for name, label in (("anomalous", 1), ("normal", 0)):
        ranked = order[labels[order] == label]
        half = min(count, (len(ranked) + 1) // 2)
        chosen[f"{name}_highest"] = ranked[::-1][:half]
        chosen[f"{name}_lowest"] = ranked[: min(count, len(ranked) - half)]
    return chosen


def write(
    folder: pathlib.Path,
    predict,
    split,
    scores: np.ndarray,
    count: int,
    batch_size: int,
) -> None:
    """Writes one PNG an image: left the image, right its map, the mask outlined.

    All pictures of a category share one colour scale, so a cold picture is a normal
    image and not a rescaled one.

    Args:
      folder: where the pictures go; files are named by kind, rank and image.
      predict: `images [b, H, W, 3] in [0, 1] -> (scores [b], maps [b, H, W])`, arrays
        of the host; called by all processes.
      split, scores: the images, and their image scores [n].
      count: pictures a kind.
      batch_size: images a call of `predict`.
    """
    chosen = choose(scores, split.labels, count)
    index = np.concatenate(list(chosen.values())).astype(int)
    if not len(index):
        return
    examples = [split[int(i)] for i in index]
    maps = _maps(predict, [e["image"] for e in examples], batch_size)
    if not processes.first():
        return
    low, high = float(np.median(maps)), float(maps.max())
    pictures = iter(zip(examples, maps, strict=True))
    for kind, indices in chosen.items():
        for rank, i in enumerate(indices, start=1):
            example, anomaly_map = next(pictures)
            caption = f"{kind.replace('_', ', ')} {rank}: score {scores[i]:.4g}"
            picture = render(
                example["image"], anomaly_map, example["mask"], low, high, caption
            )
            stem = re.sub(r"[^\w.-]+", "_", str(pathlib.PurePath(split.filenames[i])))
            path = folder / f"{kind}_{rank}_{pathlib.PurePath(stem).stem}.png"
            with writing(path):
                folder.mkdir(parents=True, exist_ok=True)
                picture.save(path)


def _maps(predict, images, batch_size):
    """Anomaly maps [n, H, W]; batches keep the shape that is already compiled."""
    out = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        padding = [batch[-1]] * (batch_size - len(batch))
        maps = predict(np.stack(batch + padding))[1]
        out.extend(maps[: len(batch)])
    return np.stack(out)


def render(image, anomaly_map, mask, low, high, caption) -> Image.Image:
    """One picture.

    Args:
      image: float [H, W, 3] in [0, 1].
      anomaly_map: float [H, W]; `low` is the coldest colour, `high` the hottest.
      mask: uint8 [H, W] in {0, 1}; its outline is drawn in white.
      caption: a line of text.
    """
    heat = np.clip((anomaly_map - low) / max(high - low, 1e-12), 0, 1)[..., None]
    stops = np.linspace(0, 1, len(_COLOURS))
    colour = np.stack(
        [np.interp(heat[..., 0], stops, channel) for channel in _COLOURS.T], axis=-1
    )
    plain = np.clip(image, 0, 1) * 255
    alpha = 0.15 + 0.55 * heat
    blended = (1 - alpha) * plain + alpha * colour
    outline = mask.astype(bool) & ~ndimage.binary_erosion(mask, iterations=2)
    blended[outline] = 255
    pair = np.concatenate([plain, blended], axis=1).round().astype(np.uint8)
    picture = Image.fromarray(pair)
    scale = -(-_MINIMUM_SIDE // min(image.shape[:2]))
    if scale > 1:
        size = (picture.width * scale, picture.height * scale)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    framed = Image.new("RGB", (picture.width, picture.height + _CAPTION), "white")
    framed.paste(picture, (0, _CAPTION))
    ImageDraw.Draw(framed).text((4, 3), caption, fill="black")
    return framed
