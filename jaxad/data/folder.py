"""Own images: folders as MVTec AD has them, plain folders, or a CSV.

`config.path` is one of

* a folder with `train/good`, `test/good`, `test/<defect>` and, where there are masks,
  `ground_truth/<defect>`, whose files are named as their images, with or without
  `_mask`, of any image type; or a folder of several such categories;
* a folder of normal images. `config.test_share` of them test, chosen by a hash of
  their names, together with the images in `config.anomalous_path`, if it is given;
* a CSV with the columns file, split (train or test), label (normal or anomalous, or 0
  or 1), and optionally mask, category (a plain name) and defect_type, in UTF-8. Paths
  are relative to the CSV.

Listing reads no image, so that a folder of a million takes seconds.
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import NamedTuple

import ml_collections
import numpy as np

from jaxad.data import images, tables
from jaxad.data.split import Split
from jaxad.errors import InputError

NAME = "folder"

_GOOD = ("good", "ok", "normal")
_LABELS = {"0": 0, "1": 1, "normal": 0, "good": 0, "anomalous": 1, "anomaly": 1}
_COLUMNS = ("file", "split", "label")


class _Item(NamedTuple):
    """`image` and `mask` are paths; the mask is "" where there is none."""

    image: str
    label: int
    defect_type: str
    mask: str = ""


@dataclasses.dataclass(frozen=True)
class _Listing:
    """Items of a split; `root` is what their names are relative to."""

    root: str
    items: list[_Item]
    unused_masks: list[str] = dataclasses.field(default_factory=list)


def categories(
    config: ml_collections.ConfigDict,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The categories in `config.path`, twice: all, and all that can be named."""
    path = _path(config.path, "path")
    if path.is_file():
        found = {row.get("category", path.stem) for row in _rows(path)}
    elif _is_category(path) or images.names(path):
        found = {path.name}
    else:
        found = {p.name for p in path.iterdir() if p.is_dir() and _is_category(p)}
    if not found:
        raise InputError(
            f"config.dataset.path={path} holds neither images nor train/good; "
            "docs/data.md shows how to lay out own images"
        )
    return (tuple(sorted(found)),) * 2


def load(
    config: ml_collections.ConfigDict,
    category: str,
    name: str,
    geometry: images.Geometry,
) -> Split:
    """A split of a category; files are read when their item is asked for."""
    path = _path(config.path, "path")
    if path.is_file():
        listing = _from_table(path, category, name)
    elif _is_category(path):
        listing = _from_tree(path, name)
    elif images.names(path):
        listing = _from_plain(config, path, name)
    else:
        listing = _from_tree(path / category, name)
    items = listing.items

    def read(i: int) -> tuple[bytes, bytes | None]:
        item = items[i]
        mask = pathlib.Path(item.mask).read_bytes() if item.mask else None
        return pathlib.Path(item.image).read_bytes(), mask

    return Split(
        name=name,
        filenames=[_relative(item.image, listing.root) for item in items],
        labels=np.array([item.label for item in items], np.int32),
        defect_types=[item.defect_type for item in items],
        has_masks=any(item.mask for item in items),
        geometry=geometry,
        version=f"{NAME}/{name}/{_digest(items)}",
        read=read,
        unused_masks=tuple(listing.unused_masks),
    )


def _path(text: str, field: str) -> pathlib.Path:
    path = pathlib.Path(text).expanduser()
    if not text or not path.exists():
        raise InputError(
            f"config.dataset.{field}={text!r} does not exist; name the folder of the "
            "images, or the CSV that lists them"
        )
    return path.resolve()


def _is_category(path: pathlib.Path) -> bool:
    return (path / "train").is_dir()


def _from_tree(root: pathlib.Path, split: str) -> _Listing:
    """MVTec AD's layout."""
    listing = _Listing(str(root), [])
    masks = _masks(root / "ground_truth") if split == "test" else {}
    folders = [path for path in root.glob(f"{split}/*") if path.is_dir()]
    # Normal images first, then defect by defect.
    for folder in sorted(folders, key=lambda path: (path.name not in _GOOD, path.name)):
        defect = folder.name
        paths = [f"{folder}{os.sep}{name}" for name in images.names(folder)]
        if defect in _GOOD:
            listing.items.extend(_Item(path, 0, "good") for path in paths)
            continue
        for path in paths:
            mask = masks.pop((defect, _stem(os.path.basename(path))), "")
            listing.items.append(_Item(path, 1, defect, mask))
    listing.unused_masks.extend(masks.values())
    return listing


def _masks(truth: pathlib.Path) -> dict[tuple[str, str], str]:
    """From (defect, stem of the image) to the mask's path."""
    return {
        (folder.name, _stem(name).removesuffix("_mask")): os.path.join(folder, name)
        for folder in sorted(truth.glob("*"))
        for name in images.names(folder)
    }


def _from_plain(
    config: ml_collections.ConfigDict, folder: pathlib.Path, split: str
) -> _Listing:
    """A folder of normal images, and perhaps one of anomalous ones."""
    if not 0 <= config.test_share < 1:
        raise InputError(
            f"config.dataset.test_share={config.test_share} must be at least 0 and "
            "below 1"
        )
    names = images.names(folder)
    # By hash, so that an image that comes later hardly moves the others.
    held_out = set(sorted(names, key=_hash)[: round(config.test_share * len(names))])
    names = [name for name in names if (name in held_out) == (split == "test")]
    items = [_Item(os.path.join(folder, name), 0, "good") for name in names]
    if split == "test" and config.anomalous_path:
        anomalous = _path(config.anomalous_path, "anomalous_path")
        items += [
            _Item(os.path.join(anomalous, name), 1, anomalous.name)
            for name in images.names(anomalous)
        ]
    return _Listing(str(folder), items)


def _from_table(table: pathlib.Path, category: str, split: str) -> _Listing:
    """The rows of a CSV."""
    items = []
    for line, row in enumerate(_rows(table), start=2):
        if row["split"] not in ("train", "test"):
            raise InputError(
                f"{table}, line {line}: split {row['split']!r} must be train or test"
            )
        if row["label"].lower() not in _LABELS:
            raise InputError(
                f"{table}, line {line}: label {row['label']!r} must be one of "
                f"{', '.join(_LABELS)}"
            )
        if row["split"] != split or row.get("category", table.stem) != category:
            continue
        label = _LABELS[row["label"].lower()]
        items.append(
            _Item(
                os.path.join(table.parent, row["file"]),
                label,
                row.get("defect_type") or ("good", "anomalous")[label],
                row.get("mask") and os.path.join(table.parent, row["mask"]) or "",
            )
        )
    return _Listing(str(table.parent), items)


def _rows(table: pathlib.Path) -> list[dict[str, str]]:
    rows = tables.rows(table, _COLUMNS, "mask, category and defect_type")
    for line, row in enumerate(rows, start=2):
        # A category names a folder of the run, and stands in comma-separated lists.
        category = row.get("category", table.stem).strip()
        if category in ("", ".", "..") or set(category) & set("/\\,"):
            raise InputError(
                f"{table}, line {line}: category {category!r} must be a plain name, "
                "without slashes and commas"
            )
    return rows


def _digest(items: list[_Item]) -> str:
    """Of names, labels, sizes and times of the files."""
    digest = hashlib.sha256()
    for item in items:
        row = (*item, _stat(item.image), _stat(item.mask))
        digest.update(repr(row).encode())
    return digest.hexdigest()


def _stat(path: str) -> tuple[int, int] | None:
    if not path:
        return None
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns


def _relative(path: str, root: str) -> str:
    """As os.path.relpath, which is slow, has it."""
    if path.startswith(root + os.sep):
        return path[len(root) + 1 :]
    return os.path.relpath(path, root)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
