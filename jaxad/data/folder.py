"""Own images: in folders, whose names say what is in them, or listed in a CSV.

`config.path` is one of

* a folder with `train/good`, `test/good` and `test/<defect>`, as MVTec AD and what came
  after it are laid out;
* a folder with `good` and, beside it, `bad` or a folder for each kind of defect, of
  whose normal images `config.test_share` test, chosen by a hash of their names;
* a folder of several such, each of which is a category;
* a folder of normal images, of which some test in the same way, together with those in
  `config.anomalous_path`, if it is given;
* a CSV with the columns file, split (train or test), label (normal or anomalous), and
  optionally mask, category (a plain name) and defect_type, in UTF-8. Paths are relative
  to the CSV.

Folders are read with all folders in them. `jaxad.data.layout` says what their names
mean, `jaxad.data.masks` whose a mask is.

Whatever is found and not taken has a `Note` that says why. Listing reads no image, so
that a folder of a million takes seconds.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence

import ml_collections
import numpy as np

from jaxad import config as config_lib
from jaxad.data import files, images, layout, listed, masks
from jaxad.data.listing import Item, Listing, counted, digest, relative
from jaxad.data.split import Split
from jaxad.errors import InputError

NAME = "folder"


def categories(
    config: ml_collections.ConfigDict,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The categories in `config.path`, twice: all, and all that can be named.

    Raises:
      InputError: there are none, or a field has no effect on what is there.
    """
    path = _path(config.path, "path")
    if path.is_file():
        _require_no_effect(config, "a CSV", share=True)
        return (listed.categories(path),) * 2
    found = _folders(config, path)
    if list(found.values()) == [layout.PLAIN]:
        _require_images(path)
    return (tuple(sorted(folder.name for folder in found)),) * 2


def require_path(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where `config.path` does not exist, or is one picture."""
    _path(config.path, "path")


def require_names(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where one of `config.normal_names` is called by nothing there.

    A misspelt one would leave good images as a kind of defect.
    """
    path = _path(config.path, "path")
    left = {name.casefold(): name for name in config.normal_names}
    if path.is_file():
        said = iter([listed.labels(path)])
    else:
        said = (folder.parts for folder in files.walk(path))
    while left and (names := next(said, None)) is not None:
        for name in names:
            left.pop(name.casefold(), None)
    for name in left.values():
        raise InputError(
            f"config.dataset.normal_names has {name!r}, which no folder or label in "
            f"{path} is called; mend it, or leave it out"
        )


def load(
    config: ml_collections.ConfigDict,
    category: str,
    name: str,
    geometry: images.Geometry,
) -> Split:
    """A split of a category; files are read when their item is asked for."""
    path = _path(config.path, "path")
    if path.is_file():
        listing = listed.listing(path, category, name, good_names(config))
    else:
        found = _folders(config, path)
        folder = next(one for one in found if one.name == category)
        listing = _from_folder(config, folder, found[folder])
        if folder == min(found) != path:
            _tell_of_others(listing, path, found)
    items = listing.items[name]

    def read(i: int):
        item = items[i]
        of = tuple(pathlib.Path(mask).read_bytes() for mask in item.masks)
        mask = of if len(of) > 1 else of[0] if of else None
        return pathlib.Path(item.image).read_bytes(), mask

    return Split(
        name=name,
        filenames=[relative(item.image, listing.root) for item in items],
        labels=np.array([item.label for item in items], np.int32),
        defect_types=[item.defect_type for item in items],
        has_masks=any(item.masks for item in items),
        geometry=geometry,
        version=f"{NAME}/{name}/{digest(items)}",
        read=read,
        notes=tuple(listing.notes[name]),
    )


def _path(text: str, field: str) -> pathlib.Path:
    path = pathlib.Path(text).expanduser()
    if not text or not path.exists():
        lacks = "does not exist" if text else "is empty"
        raise InputError(
            f"config.dataset.{field}={text!r} {lacks}; name the folder of the images, "
            "or the CSV that lists them"
        )
    if path.is_file() and files.is_picture(path.name):
        raise InputError(
            f"config.dataset.{field}={text!r} is one picture; name its folder"
        )
    # Links are not resolved: a category is called as the user calls it.
    return pathlib.Path(os.path.abspath(path))


def good_names(config: ml_collections.ConfigDict) -> frozenset[str]:
    """Names of folders of normal images, and their labels."""
    return frozenset(name.casefold() for name in (*layout.GOOD, *config.normal_names))


# ---- Folders


def _folders(
    config: ml_collections.ConfigDict, path: pathlib.Path
) -> dict[pathlib.Path, str]:
    """The folder of every category, and how it is laid out."""
    good = good_names(config)
    kind = layout.kind(path, good)
    if kind == layout.TREE:
        _require_no_effect(config, "a folder with train", share=True)
    if kind != layout.PLAIN:
        return {path: kind}
    found = layout.categories(path, good)
    if not found:
        return {path: kind}
    called: dict[str, str] = {}
    for name in sorted(found):
        before = called.setdefault(name.casefold(), name)
        if before != name:
            raise InputError(
                f"{path} has the categories {before!r} and {name!r}, which differ in "
                "case alone, and their results would be one folder on many disks; "
                "rename one, or put both into one"
            )
    share = layout.BESIDE not in found.values()
    _require_no_effect(config, "a folder of several categories", share=share)
    return {path / name: kind for name, kind in found.items()}


def _require_no_effect(
    config: ml_collections.ConfigDict, what: str, *, share: bool
) -> None:
    """Raises InputError where a field is set that does nothing.

    Args:
      config: `config.dataset`.
      what: that `path` is.
      share: whether `test_share` is such a field; none, and the default, ask for
        nothing.
    """
    idle = {"anomalous_path": config.anomalous_path}
    default = config_lib.FIELDS["dataset"]["test_share"].default
    if share and config.test_share != default:
        idle["test_share"] = config.test_share
    for field, value in idle.items():
        config_lib.require(
            not value,
            f"dataset.{field}",
            value,
            f"left out: config.dataset.path is {what}, which says itself what tests",
        )


def _require_images(path: pathlib.Path) -> None:
    unread: list[str] = []
    for folder in files.walk(path):
        if folder.images:
            return
        unread += map(folder.path, folder.unread + folder.broken)
    but = f", but what cannot be read ({counted(unread)})" if unread else ""
    raise InputError(
        f"config.dataset.path={path} holds neither images nor train/good{but}; "
        "docs/own_images.md shows how to lay them out"
    )


def _from_folder(
    config: ml_collections.ConfigDict, root: pathlib.Path, kind: str
) -> Listing:
    listing, good = Listing(root), good_names(config)
    anomalous = _anomalous(config, root) if kind != layout.TREE else None
    walked = list(files.walk(root, [anomalous] if anomalous else []))
    _take(listing, root, walked, layout.placing(kind, root, walked, good))
    if kind == layout.PLAIN and (inside := layout.beside_others(walked)):
        told = "folders in it are taken for normal images"
        listing.note("train", str(root), told, counted(inside))
    if anomalous:
        place = functools.partial(layout.defects, anomalous, good)
        _take(listing, anomalous, list(files.walk(anomalous, [root])), place)
        if not listing.items["test"]:
            raise InputError(
                f"config.dataset.anomalous_path={anomalous} holds no images; name "
                "another folder, or leave it out"
            )
    _draw(listing, config.test_share)
    for items in listing.items.values():
        # Normal images first, then defect by defect.
        items.sort(key=lambda item: (item.label, item.defect_type, item.image))
    return listing


def _anomalous(
    config: ml_collections.ConfigDict, root: pathlib.Path
) -> pathlib.Path | None:
    """The folder of further anomalous images."""
    if not config.anomalous_path:
        return None
    path = _path(config.anomalous_path, "anomalous_path")
    if path.is_file() or path == root:
        raise InputError(
            f"config.dataset.anomalous_path={config.anomalous_path} must be a folder "
            "of anomalous images, and another one than config.dataset.path"
        )
    return path


def _take(
    listing: Listing,
    folder: pathlib.Path,
    walked: Sequence[files.Folder],
    placing: layout.Placing,
) -> None:
    """Adds the images in a folder, with their masks, and notes what else there is."""
    root, taken, of_masks = str(folder), [], []
    for one in walked:
        parts, place = one.parts, placing(one.parts)
        inner = [part.casefold() in layout.MASKS for part in parts]
        split = place.split
        if any(inner):
            at, split = inner.index(True), "test"
            of_masks += [
                masks.Mask(one.path(name), parts[:at], parts[at + 1 :])
                for name in one.images
            ]
        elif place.label is None:
            listing.tell(split, root, one, one.images, place.reason)
        else:
            taken.append((one, place))
            for name in masks.named_as_masks(one.images):
                path = f"{root}{os.sep}{one.path(name)}"
                told = "image that is named as a mask of another"
                listing.note(split, path, told, grave=place.label == 1)
        listing.tell_of_strangers(split, root, one)
    candidates = [
        masks.Image(one.path(name), 2 * (place.label == 0) + (place.split == "train"))
        for one, place in taken
        # What trains and is normal has none.
        if of_masks and (place.label == 1 or place.split != "train")
        for name in one.images
    ]
    pairs = masks.pair(candidates, of_masks)
    for one, place in taken:
        start = os.path.join(root, one.name, "")
        for name in one.images:
            of = pairs.of.get(one.path(name), ()) if pairs.of else ()
            of = tuple(f"{root}{os.sep}{mask}" for mask in of)
            item = Item(start + name, place.label, place.defect_type, of)
            listing.items[place.split].append(item)
    _tell_of_masks(listing, root, pairs)


def _tell_of_masks(listing: Listing, root: str, pairs: masks.Pairs) -> None:
    for image in pairs.merged:
        count = f"{len(pairs.of[image])}, taken together"
        path = f"{root}{os.sep}{image}"
        listing.note("test", path, "several masks of one image", count)
    for mask in pairs.unused:
        path = f"{root}{os.sep}{mask}"
        # Where none at all has an image, they are not some that are left over.
        rule = (
            ""
            if pairs.of
            else "no mask has one; docs/own_images.md says how to name them"
        )
        listing.note("test", path, "mask without image", rule, grave=not pairs.of)
    for mask, of in pairs.unclear:
        path = f"{root}{os.sep}{mask}"
        listing.note("test", path, "mask of several images", counted(of), grave=True)


def _draw(listing: Listing, share: float) -> None:
    """Holds a share of the normal images out for test, and trains with the others."""
    drawn = listing.items[""]
    if not drawn:
        return
    config_lib.require(
        0 <= share < 1, "dataset.test_share", share, "at least 0 and below 1"
    )
    # By hash, so that an image that comes later hardly moves the others.
    drawn.sort(key=lambda item: _hash(relative(item.image, listing.root)))
    count = round(share * len(drawn))
    listing.items["test"] += drawn[:count]
    listing.items["train"] += drawn[count:]


def _tell_of_others(
    listing: Listing, path: pathlib.Path, found: dict[pathlib.Path, str]
) -> None:
    """Notes what lies beside the folders of categories."""
    for folder in files.walk(path, found):
        listing.tell(
            "train", str(path), folder, folder.images, "image outside of the categories"
        )
        listing.tell_of_strangers("train", str(path), folder)


def _hash(name: str) -> bytes:
    return hashlib.sha256(os.fsencode(name)).digest()
