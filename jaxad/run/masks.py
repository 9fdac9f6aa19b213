"""What a person would want to know of masks before pixel metrics are taken from them.

They are looked at as they are stored, and at the size at which a run scores them: what
is left of a defect there is all that its metrics know.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy import ndimage

from jaxad.data import Split, images
from jaxad.data.split import Mask, Note

_MISSING = "anomalous image without mask"
_EMPTY = "empty mask of an anomalous image"
_CROPPED = "mask cropped away"
_VANISHED = "mask emptied by resizing"
_TURNED = "mask taken as drawn on the image as EXIF turns it"
# The image counts as normal in every pixel.
_UNSEEN = frozenset((_MISSING, _EMPTY, _CROPPED, _VANISHED))
# Values that need no explanation, from their lowest to their highest.
_PLAIN = ({0, 1}, {0, 255}, {0, 65535})
MANY = "further pages or frames are not looked at"


def notes(
    split: Split,
    i: int,
    encoded: Mask | None,
    size: tuple[int, int],
    orientation: int = 1,
) -> Iterator[Note]:
    """What there is to tell of one image's mask.

    Args:
      split: at the run's size.
      i: which image.
      encoded: its mask, of `split.read`.
      size: (height, width) of the image as it is stored, upright.
      orientation: of the image, as `images.orientation` has it.
    """
    file, label = split.filenames[i], int(split.labels[i])

    def note(kind: str, detail: str = "", *, grave: bool = False) -> Note:
        return Note(file, kind, detail, grave)

    if encoded is None:
        if label == 1 and split.has_masks:
            yield note(_MISSING, grave=True)
        return
    files = (encoded,) if isinstance(encoded, bytes) else encoded
    try:
        values = [images.mask_values(one, ids=split.mask_ids) for one in files]
        kinds = {images.kind(one) for one in files}
        frames = max(images.frames(one) for one in files)
    except images.Unreadable as error:
        yield note("unreadable mask", str(error), grave=True)
        return
    if kinds & {"RGB;16", "RGBA;16"}:
        yield note("16-bit colour mask is read with 8 bits a channel")
    if frames > 1:
        yield note(f"mask of which {MANY}", f"{frames} of them")
    if not split.mask_ids:
        for one in values:
            if told := _told(one):
                yield note("mask with other values than 0 and 255", told)
    others = [one.shape for one in values if one.shape != size]
    if others:
        detail = f"{_by(others[0])}, image {_by(size)}"
        if others[0] == size[::-1]:
            detail += "; one of them is turned, perhaps by its EXIF orientation"
        yield note("mask of another size", detail, grave=True)
        return
    if any(
        turn != orientation
        and (size[0] == size[1] or (turn >= 5) == (orientation >= 5))
        for turn in map(images.orientation, files)
    ):
        # A mask that was drawn on the pixels as they are stored has the same shape.
        yield note(_TURNED, f"EXIF orientation {orientation}")
    mask = np.maximum.reduce(
        [images.anomalous(one, ids=split.mask_ids) for one in values]
    )
    if not mask.any():
        if label == 1:
            yield note(_EMPTY, _in_palette(files))
    elif label == 0:
        yield note("normal image with a mask that is not empty", grave=True)
    else:
        if told := _covered(mask):
            yield note("mask of nearly all of its image, perhaps inverted", told)
        yield from (note(*seen) for seen in _seen(mask, split.geometry))


def of_split(
    split: Split, sizes: Sequence[tuple[int, int]], kinds: Iterable[Iterable[str]]
) -> Iterator[Note]:
    """What there is to tell of all masks of a split together.

    Args:
      split: at the run's size.
      sizes: (height, width) of the images that can be read.
      kinds: of what has been found of each image.
    """
    if not split.has_masks:
        return
    anomalous = int((split.labels == 1).sum())
    unseen = sum(not _UNSEEN.isdisjoint(found) for found in kinds)
    at = _by(split.geometry.size)
    if unseen:
        yield Note(
            split.name,
            "anomalous images without an anomalous pixel",
            f"{unseen} of {anomalous} at {at}; pixel metrics take all of them for "
            "normal",
        )
    padding = np.mean([split.geometry.padding(size) for size in sizes] or 0.0)
    if padding > 0:
        yield Note(
            split.name,
            "padding counts as normal pixels",
            f"{padding:.0%} of all pixels at {at}",
        )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _told(values: np.ndarray) -> str:
    """What values a mask has and what comes of them; "" where they speak for
    themselves."""
    found = images.distinct(values)
    if any(plain.issuperset(found) for plain in _PLAIN):
        return ""
    shown = ", ".join(f"{value:g}" for value in found[:4])
    shown += ", ..." if len(found) > 4 else ""
    half = images.shades_end(values)
    if half is None:
        return f"{shown}; anomalous where not 0"
    grey = int(((values > 0) & (values <= half)).sum())
    return f"{shown}; anomalous above {half:g}, {grey} pixels of less count as normal"


def _in_palette(files: Iterable[bytes]) -> str:
    """Why a mask may be empty that somebody has drawn something in."""
    if any(images.mask_values(one, ids=True).any() for one in files):
        return "its palette makes all of it black"
    return ""


def _covered(mask: np.ndarray) -> str:
    """How much a mask covers, where that is nearly all, or most and all the border."""
    share = mask.mean()
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    if share > 0.9 or (share > 0.5 and border > 0.9):
        return f"{share:.0%} of the pixels, {border:.0%} of the border"
    return ""


def _seen(mask: np.ndarray, geometry: images.Geometry) -> Iterator[tuple[str, str]]:
    """What becomes of a mask, not empty, at the size that is scored."""
    at, total = _by(geometry.size), int(mask.sum())
    inside = int(mask[geometry.seen(mask.shape)].sum())
    if not inside:
        yield _CROPPED, f"{total} pixels outside of the centre that is looked at"
        return
    if inside < 0.99 * total:
        yield "mask partly cropped away", f"{1 - inside / total:.0%} of {total} pixels"
    left = geometry.mask(mask)
    if not left.any():
        yield _VANISHED, f"{inside} pixels, of which none is left at {at}"
        return
    lost, defects = _lost(mask, left, geometry)
    if lost:
        yield "defects lost by resizing", f"{lost} of {defects} at {at}"


def _lost(
    mask: np.ndarray, left: np.ndarray, geometry: images.Geometry
) -> tuple[int, int]:
    """How many defects have nothing left of them, and how many there are at all.

    A defect is what hangs together, corners included, as in AUPRO. One that lies in the
    box of another that is left counts as left.
    """
    lost = defects = 0
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    for part in ndimage.find_objects(labels):
        shown = left[geometry.shown(part, mask.shape)]
        if shown.size:
            defects += 1
            lost += not shown.any()
    return lost, defects
