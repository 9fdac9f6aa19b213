"""What folders mean by their names: training and test, good and bad, masks.

Case counts nowhere.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxad.data import files
from jaxad.errors import InputError

# Of folders and of labels.
GOOD = ("good", "ok", "normal")
BAD = (
    *("anomalous", "anomaly", "anomalies", "abnormal", "bad", "defect", "defects"),
    *("defective", "faulty", "ko", "ng", "nok"),
)
MASKS = ("ground_truth", "masks", "mask", "gt")
_TRAIN, _TEST = ("train",), ("test", "test_public")
_NEITHER = ("val", "valid", "validation", "test_private", "test_private_mixed")
_MEANINGS = frozenset((*BAD, *MASKS, *_TRAIN, *_TEST, *_NEITHER))

TREE, BESIDE, PLAIN = "tree", "beside", "plain"


class Place(NamedTuple):
    """What the images of a folder are.

    Attributes:
      split: "train" or "test"; "" where a share of the images is held out for test.
      label: 0 normal, 1 anomalous; None where nobody says, so that they are left out.
      defect_type: "good", or the kind of the defect.
      reason: why they are left out.
    """

    split: str
    label: int | None = 0
    defect_type: str = "good"
    reason: str = ""


Placing = Callable[[tuple[str, ...]], Place]


def kind(folder: pathlib.Path, good: frozenset[str]) -> str:
    """How a folder is laid out.

    Args:
      folder: which may be a category.
      good: names of folders of normal images, in lower case.

    Returns:
      TREE, with train and mostly test; BESIDE, with good and mostly bad side by side;
      PLAIN, with neither.
    """
    inside = {path.name.casefold() for path in files.subfolders(folder)}
    if inside.intersection(_TRAIN):
        return TREE
    return BESIDE if inside & good else PLAIN


def categories(folder: pathlib.Path, good: frozenset[str]) -> dict[str, str]:
    """The layouts of those folders in a plain one that are laid out as categories."""
    found = {
        inside.name: kind(inside, good)
        for inside in files.subfolders(folder)
        if inside.name.casefold() not in _MEANINGS
    }
    return {name: layout for name, layout in found.items() if layout != PLAIN}


def placing(
    layout: str,
    root: pathlib.Path,
    walked: Sequence[files.Folder],
    good: frozenset[str],
) -> Placing:
    """Says of every folder below a category's what its images are.

    Args:
      layout: of `kind`.
      root: the category's folder.
      walked: all that is in it.
      good: as for `kind`.

    Returns:
      Of the names from the category's folder to one below, its `Place`.

    Raises:
      InputError: a plain folder holds one that may not be of normal images.
    """
    names = {tuple(map(str.casefold, folder.parts[:2])) for folder in walked}
    if layout == TREE:
        labelled = any(
            len(name) > 1 and name[0] in _TRAIN and name[1] in good for name in names
        )
        return functools.partial(_in_tree, good, labelled)
    if layout == BESIDE:
        said = any(name and name[0] in BAD for name in names)
        return functools.partial(_beside, good, said)
    _require_plain(root, walked, good)
    return lambda folders: Place("")


def _in_tree(good: frozenset[str], labelled: bool, folders: tuple[str, ...]) -> Place:
    """`labelled` is whether there is train/good; images may lie right in train."""
    first = folders[0].casefold() if folders else ""
    if first not in _TRAIN + _TEST:
        return Place("train", None, reason="image outside of train and test")
    split = "train" if first in _TRAIN else "test"
    if len(folders) == 1:
        if split == "train" and not labelled:
            return Place("train")
        return Place(split, None, reason="image without a folder that labels it")
    if folders[1].casefold() in good:
        return Place(split)
    return Place(split, 1, folders[1])


def _beside(good: frozenset[str], said: bool, folders: tuple[str, ...]) -> Place:
    """`said` is whether a folder is called bad; if none is, all others are defects."""
    first = folders[0].casefold() if folders else ""
    if first in good:
        return Place("")
    if first in BAD or (first and not said and first not in _MEANINGS):
        return Place("test", 1, folders[1] if len(folders) > 1 else folders[0])
    return Place("train", None, reason="image outside of the folders of good and bad")


def _require_plain(
    root: pathlib.Path, walked: Sequence[files.Folder], good: frozenset[str]
) -> None:
    """Raises InputError where a folder may say that its images are not normal."""
    for folder in walked:
        for i, name in enumerate(folder.parts, start=1):
            if name.casefold() in good | _MEANINGS:
                raise InputError(
                    f"{root} is no folder of normal images alone, because it holds "
                    f"{'/'.join(folder.parts[:i])}; name the folder right above train, "
                    "or above good and bad, or take that one out"
                )
    for folder in beside_others(walked):
        name = folder.rpartition("/")[2]
        # Days, lots and cameras have numbers; a word, or 0 and 1, may be a label.
        if name in ("0", "1") or not any(map(str.isdigit, name)):
            raise InputError(
                f"{root} holds {folder} beside other images, and nothing says whether "
                "it is of normal ones; name the folders that are in "
                "config.dataset.normal_names, or take it out"
            )


def beside_others(walked: Sequence[files.Folder]) -> list[str]:
    """Folders of images that have other images beside them."""
    groups: dict[str, set[str]] = {}
    for folder in walked:
        if folder.images:
            above = ""
            for part in folder.parts:
                groups.setdefault(above, set()).add(part)
                above = f"{above}/{part}" if above else part
            groups.setdefault(above, set()).add("")
    return [
        f"{above}/{name}" if above else name
        for above, names in sorted(groups.items())
        if len(names) > 1
        for name in sorted(names)
        if name
    ]


def defects(
    root: pathlib.Path, good: frozenset[str], folders: tuple[str, ...]
) -> Place:
    """In a folder of anomalous images alone, with or without one for each defect."""
    name = folders[0] if folders else root.name
    if folders and name.casefold() in good.union(_TRAIN, _TEST):
        raise InputError(
            f"config.dataset.anomalous_path={root} holds {name}; name a folder of "
            "anomalous images alone"
        )
    return Place("test", 1, name)
