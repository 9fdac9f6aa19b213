"""Pictures for people: an image, and beside or below it its anomaly map.

Both have the image's own shape. The map is coloured from cold to hot over the image, so
that what is normal stays visible; a bar says which score a colour stands for, and where
the threshold lies. What is above it has a white outline, a true mask a magenta one.
"""

import bisect
import contextlib
import functools
import hashlib
import math
import os
import pathlib
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from jaxad.data import images
from jaxad.errors import writing

# The longest side of a panel, in pixels, its width where two stand side by side, and
# its height where one stands below the other; a small image is enlarged.
LONGEST, _BESIDE, _BELOW, _ENLARGED = 1000, 600, 500, 448
# Colours of the map, cold to hot, evenly spaced.
_HEAT = np.array(
    [(40, 50, 160), (0, 150, 200), (60, 190, 90), (250, 200, 30), (215, 25, 28)], float
)
# From where in them to where they cover more and more of the image.
_COVER = ((0.2, 0.5, 1.0), (0.0, 0.3, 0.6))
_ABOVE, TRUE, _HALO = (255, 255, 255), (255, 0, 200), (0, 0, 0)
_UNSEEN = (128, 128, 128)
_INK, _PALE = (30, 30, 30), (110, 110, 110)
_VERDICTS = {"anomalous": (200, 30, 30), "normal": (40, 130, 60)}
# Bytes of a file's name on the disks that take the fewest, less those of `save`.
_NAME_BYTES = 143 - len(".") - len(".tmp")
_MARGIN, _GAP, _BAR, _LABELS = 12, 8, 16, 74
_CHIP = (98, 24)
_STEPS = 65534  # of `levels`


class Scale(NamedTuple):
    """Which scores the colours stand for.

    Attributes:
      low: the coldest.
      high: the hottest.
      threshold: what is above it is outlined; None where there is none.
    """

    low: float
    high: float
    threshold: float | None = None

    @classmethod
    def of(cls, maps: np.ndarray, threshold: float | None) -> "Scale":
        """One for all pictures of a detector.

        Its middle is a threshold above 0, so that warm is anomalous. Without one it
        goes from the median of some maps, of whatever shape, to their maximum.
        """
        if threshold is not None and threshold > 0:
            return cls(threshold / 2, 1.5 * threshold, threshold)
        return cls(float(np.nanmedian(maps)), float(np.nanmax(maps)), threshold)


def small(image: Image.Image | np.ndarray) -> Image.Image:
    """RGB, no larger than it will be shown, of what an item's `decode` gave.

    Grey of 16 bits, of which cameras often use 12, is shown from its darkest to its
    brightest.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray((image * 255).round().astype(np.uint8))
    if image.mode == "F":
        pixels = np.asarray(image)
        low, high = np.percentile(pixels, (0.1, 99.9))
        pixels = np.clip((pixels - low) / max(high - low, 1e-6), 0, 1)
        image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    image = image.convert("RGB")
    if max(image.size) > LONGEST:
        shrink = LONGEST / max(image.size)
        size = [max(1, round(side * shrink)) for side in image.size]
        image = image.resize(size, Image.Resampling.BILINEAR)
    return image


def score_details(
    score: float, threshold: float | None = None, p_value: float | None = None
) -> list[str]:
    """What a caption says of a score."""
    limit = "" if threshold is None else f" (threshold {threshold:.4g})"
    found = [f"score {score:.4g}{limit}"]
    return found if p_value is None else [*found, f"p = {p_value:.2g}"]


def render(
    image: Image.Image | np.ndarray,
    anomaly_map: np.ndarray,
    scale: Scale,
    *,
    title: str,
    details: Sequence[str] = (),
    verdict: str | None = None,
    mask: np.ndarray | None = None,
) -> Image.Image:
    """One picture.

    Args:
      image: what an item's `decode` gave, or what `small` made of it.
      anomaly_map: float [h, w] at the image's own size; NaN where nobody has looked,
        which is shown in grey.
      scale: of its colours.
      title: name of the image; shortened in the middle where it is too long.
      details: of the line below it.
      verdict: "anomalous", "normal", or "" for one that `stamp` brings later.
      mask: [h, w], not zero where there is a defect.
    """
    (width, height), stacked = _panels(*anomaly_map.shape[::-1])
    plain = small(image).resize((width, height), Image.Resampling.BILINEAR)
    heated, drawn = _heated(np.asarray(plain, np.float32), anomaly_map, scale, mask)
    right, below = (0, height + _GAP) if stacked else (width + _GAP, 0)
    body = (width + right, max(height + below, 120))
    full = max(body[0] + _GAP + _BAR + _LABELS, 420)
    lines = _lines(details, full)
    top = _MARGIN + _CHIP[1] + 6 + 20 * len(lines) + 4
    foot = 24 if drawn else 0
    canvas = Image.new(
        "RGB", (full + 2 * _MARGIN, top + body[1] + foot + _MARGIN), "white"
    )
    draw = ImageDraw.Draw(canvas)
    start = _MARGIN
    if verdict is not None:
        canvas.paste(_chip(verdict), (_MARGIN, _MARGIN))
        start += _CHIP[0] + 10
    middle = _MARGIN + _CHIP[1] // 2
    text = _shortened(title, _font(17), full + _MARGIN - start)
    draw.text((start, middle), text, _INK, _font(17), anchor="lm")
    for i, line in enumerate(lines):
        y = _MARGIN + _CHIP[1] + 6 + 20 * i
        draw.text((_MARGIN, y), line, _PALE, _font(14))
    canvas.paste(plain, (_MARGIN, top))
    canvas.paste(heated, (_MARGIN + right, top + below))
    corner = (_MARGIN + body[0] + _GAP, top)
    canvas.paste(_bar(body[1]), corner)
    _label_bar(draw, corner, body[1], scale)
    x = _MARGIN
    for name, colour in drawn:
        y = top + body[1] + 14
        draw.line((x, y, x + 18, y), _HALO, 5)
        draw.line((x + 1, y, x + 17, y), colour, 3)
        draw.text((x + 25, y), name, _PALE, _font(13), anchor="lm")
        x += 25 + int(_font(13).getlength(name)) + 18
    return canvas


def fitting(name: str) -> str:
    """A file's name, or where it is too long for a disk, one with a digest of it.

    The digest stands in place of its middle.
    """
    if len(os.fsencode(name)) <= _NAME_BYTES:
        return name
    stem, suffix = os.path.splitext(name)
    digest = f"_{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}_"
    kept = len(stem)
    while True:
        short = stem[: kept // 2] + digest + stem[len(stem) - (kept + 1) // 2 :]
        if not kept or len(os.fsencode(short + suffix)) <= _NAME_BYTES:
            return short + suffix
        kept -= 1


def place(folder: pathlib.Path, file: str, suffix: str = ".png") -> pathlib.Path:
    """Where what is made of an image lies: under its name, in a folder.

    Steps out of the folder stay in it, and a.jpg and a.png have one each.
    """
    parts = pathlib.PurePath(file).parts
    parts = ["_" if part == ".." else part for part in parts if part != os.sep]
    *folders, name = parts
    stem, own = os.path.splitext(name.lower())
    if own != suffix or stem.endswith(images.SUFFIXES):
        name += suffix
    return folder.joinpath(*map(fitting, (*folders, name)))


def save(picture: Image.Image, path: pathlib.Path) -> None:
    """Writes a PNG whole or not at all, with the folders that lead to it.

    Raises:
      InputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(temporary, "PNG", compress_level=2)
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def stamp(path: pathlib.Path, verdict: str) -> None:
    """Brings the verdict to a picture that `render` drew with an empty one."""
    with Image.open(path) as picture:
        picture.load()
    picture.paste(_chip(verdict), (_MARGIN, _MARGIN))
    save(picture, path)


def _panels(width: int, height: int) -> tuple[tuple[int, int], bool]:
    """Size of a panel of an image, and whether one lies below the other: a strip."""
    stacked = width > 2 * height
    limits = (LONGEST, _BELOW) if stacked else (_BESIDE, LONGEST)
    enlarge = max(1, _ENLARGED / max(width, height))
    factor = min(limits[0] / width, limits[1] / height, enlarge)
    return tuple(max(1, round(side * factor)) for side in (width, height)), stacked


def _heated(plain: np.ndarray, anomaly_map: np.ndarray, scale: Scale, mask):
    """The image under its map, and the outlines drawn on it, as (name, colour)."""
    height, width = plain.shape[:2]
    drawn, unseen = [], np.isnan(anomaly_map)
    scores = _resized(np.where(unseen, scale.low, anomaly_map), (width, height))
    colours, cover = heat(scores, scale)
    cover = cover[..., None]
    blended = (1 - cover) * plain + cover * colours
    if unseen.any():
        blank = _resized(unseen, (width, height)) > 0.5
        blended[blank] = 0.4 * blended[blank] + 0.6 * np.array(_UNSEEN)
        drawn.append(("not looked at", _UNSEEN))
    if scale.threshold is not None and (above := scores > scale.threshold).any():
        _outline(blended, above, _ABOVE)
        drawn.append(("above the threshold", _ABOVE))
    if mask is not None and mask.any():
        # A scratch that is thinner than a pixel of the panel still counts.
        least = 0.5 * min(1, width / mask.shape[1])
        _outline(blended, _resized(mask != 0, (width, height)) > least, TRUE)
        drawn.append(("true defect", TRUE))
    return Image.fromarray(blended.round().astype(np.uint8)), drawn


def heat(scores: np.ndarray, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Colours [..., 3] of scores, and how much of them covers the image [...]."""
    share = np.clip((scores - scale.low) / max(scale.high - scale.low, 1e-12), 0, 1)
    return _coloured(share), np.interp(share, *_COVER)


def levels(anomaly_map: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint16 of a map, for other programs.

    0 is where nobody has looked; any other value stands for the score
    low + (value - 1) / 65534 (high - low).
    """
    span = max(high - low, np.finfo(np.float32).tiny)
    share = np.clip((anomaly_map.astype(np.float64) - low) / span, 0, 1)
    steps = 1 + np.round(share * _STEPS)
    return np.where(np.isnan(anomaly_map), 0, steps).astype(np.uint16)


def outlined(region: np.ndarray) -> np.ndarray:
    """uint8 of a region: 2 at its outline, 1 inside, 0 outside."""
    return region.astype(np.uint8) + _edge(region)


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def _coloured(heat: np.ndarray) -> np.ndarray:
    """[..., 3] of values in [0, 1]."""
    stops = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(heat, stops, band) for band in _HEAT.T], axis=-1)


def _outline(picture: np.ndarray, region: np.ndarray, colour) -> None:
    """Two pixels of the colour inside the region, and a dark one around them."""
    line = _edge(region)
    halo = ndimage.binary_dilation(line) & ~line
    picture[halo] = 0.4 * picture[halo] + 0.6 * np.array(_HALO)
    picture[line] = colour


def _edge(region: np.ndarray) -> np.ndarray:
    """Its outermost two pixels."""
    return region & ~ndimage.binary_erosion(region, iterations=2)


def _bar(height: int) -> Image.Image:
    """The colours, hot above."""
    rows = _coloured(np.linspace(1, 0, height)).round().astype(np.uint8)
    return Image.fromarray(np.tile(rows[:, None], (1, _BAR, 1)))


def _label_bar(draw, corner: tuple[int, int], height: int, scale: Scale) -> None:
    """The scores that its colours stand for."""
    (left, top), span = corner, scale.high - scale.low

    def at(score: float) -> float:
        return top + (height - 1) * (1 - (score - scale.low) / max(span, 1e-12))

    shown, threshold = ticks(scale.low, scale.high, height), None
    if scale.threshold is not None and scale.low <= scale.threshold <= scale.high:
        threshold = at(scale.threshold)
    for score, text in shown:
        y = at(score)
        if threshold is not None and abs(y - threshold) < 24:
            continue
        draw.line((left + _BAR, y, left + _BAR + 4, y), _PALE)
        draw.text((left + _BAR + 7, y), text, _PALE, _font(13), anchor="lm")
    if threshold is not None:
        y = threshold
        draw.line((left - 3, y, left + _BAR + 5, y), _INK, 3)
        draw.text(
            (left + _BAR + 8, y), f"{scale.threshold:.3g}", _INK, _font(13), anchor="ld"
        )
        draw.text((left + _BAR + 8, y), "threshold", _INK, _font(12), anchor="la")


def ticks(low: float, high: float, length: float) -> list[tuple[float, str]]:
    """Round scores between the two, with their text; two to some six.

    Args:
      low, high: of an axis.
      length: of it, in pixels; there is one about every fifty.
    """
    span = high - low
    if not span > 0:
        return [(low, f"{low:.3g}")]
    rough = span / min(max(2, length // 50), 6)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, f"{i * step:.{decimals}f}") for i in range(first, last + 1)]


def _chip(verdict: str) -> Image.Image:
    """A verdict on its colour."""
    chip = Image.new("RGB", _CHIP, "white")
    draw = ImageDraw.Draw(chip)
    box = (0, 0, _CHIP[0] - 1, _CHIP[1] - 1)
    draw.rounded_rectangle(box, 5, _VERDICTS.get(verdict, (225, 225, 225)))
    middle = (_CHIP[0] // 2, _CHIP[1] // 2)
    draw.text(middle, verdict, "white", _font(15), anchor="mm")
    return chip


def _lines(details: Sequence[str], width: int) -> list[str]:
    """As many a line as fit."""
    lines = []
    for detail in details:
        detail = _shortened(detail, _font(14), width)
        together = f"{lines[-1]}  \N{MIDDLE DOT}  {detail}" if lines else detail
        if lines and _font(14).getlength(together) <= width:
            lines[-1] = together
        else:
            lines.append(detail)
    return lines


def _shortened(text: str, font, width: float) -> str:
    """A text with "..." in its middle where it is longer than so many pixels."""
    # Pillow's own font has no more than ASCII.
    text = unicodedata.normalize("NFKD", text.replace("\xdf", "ss"))
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = text.encode("ascii", "replace").decode()
    if font.getlength(text) <= width:
        return text

    def short(kept: int) -> str:
        return f"{text[: kept // 2]}...{text[len(text) - (kept + 1) // 2 :]}"

    longer = bisect.bisect_right(
        range(len(text)), width, key=lambda kept: font.getlength(short(kept))
    )
    return short(max(0, longer - 1))


@functools.cache
def _font(size: int):
    return ImageFont.load_default(size)
