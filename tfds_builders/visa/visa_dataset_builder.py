"""VisA: 12 objects, 10,821 images, under three protocols."""

import csv
import hashlib
import io

import tensorflow_datasets as tfds

from jaxad.data import images
from jaxad.errors import InputError
from tfds_builders import masked_images, published
from tfds_builders.masked_images import Item

# sha256 of split_csv/<protocol>.csv.
_PROTOCOLS = {
    "1cls": "a48557e6033318cb90556f706196bc9d247a776a23ea51aecee5a80dd0332995",
    "2cls_highshot": "c3331eede15f2da8a75b380d4fbfb24f75ee036ec9a25147eca898da6e972f09",
    "2cls_fewshot": "5ca490e84cd7664f9d93ba3d82399d991edb5a6cbcc41359452ad7ec24be354d",
}


class Builder(masked_images.Builder):
    """`<object>/Data/Images/...`, split by the `split_csv/<protocol>.csv` inside.

    `1cls` trains on normal images alone, `2cls_highshot` on both classes. The train
    split of `2cls_fewshot` is the pool that `jaxad.data.protocol` draws from.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The archive of 22 September 2022."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name=f"{name}_{protocol}",
            description=f"The object {name} under the protocol {protocol}.",
        )
        for name in published.VISA
        for protocol in _PROTOCOLS
    ]
    CATEGORIES = published.CATEGORIES["visa"]
    PROTOCOLS = tuple(_PROTOCOLS)
    MASK_CLASSES = 9
    ARCHIVE = published.ARCHIVES["visa"]
    HOMEPAGE = "https://github.com/amazon-science/spot-diff"
    MANUAL_DOWNLOAD_INSTRUCTIONS = ARCHIVE.instructions()

    def _category(self):
        return self.builder_config.name.removesuffix(f"_{self._protocol()}")

    def _protocol(self):
        name = self.builder_config.name
        return next(p for p in _PROTOCOLS if name.endswith(f"_{p}"))

    def _is_root(self, folder):
        return (folder / "split_csv").is_dir()

    def _kind(self, item):
        return "anomaly" if item.label else "normal"

    def published_counts(self):
        counts = published.VISA[self._category()][
            self.PROTOCOLS.index(self._protocol())
        ]
        kinds = ("train/normal", "train/anomaly", "test/normal", "test/anomaly")
        return {kind: count for kind, count in zip(kinds, counts, strict=True) if count}

    def _table(self, root):
        return root / "split_csv" / f"{self._protocol()}.csv"

    def _differences(self, root):
        table = self._table(root)
        differences = []
        digest = hashlib.sha256(table.read_bytes()).hexdigest()
        if digest != _PROTOCOLS[self._protocol()]:
            differences.append(f"{table} is not the published split")
        listed = {row["image"] for row in _rows(table, self._category())}
        for kind in ("Normal", "Anomaly"):
            folder = f"{self._category()}/Data/Images/{kind}"
            unlisted = [
                name
                for name in images.names(root / folder)
                if f"{folder}/{name}" not in listed
            ]
            if unlisted:
                differences.append(
                    f"{len(unlisted)} images of {folder} are in no split, the first "
                    f"is {unlisted[0]}"
                )
        return differences

    def _items(self, root):
        table = self._table(root)
        if not table.exists():
            raise InputError(f"{table} does not exist; it says what to train on")
        defects = _defect_types(root / self._category() / "image_anno.csv")
        splits = {"train": [], "test": []}
        for row in _rows(table, self._category()):
            path = root / row["image"]
            if not path.exists():  # somebody's subset; the counts will tell
                continue
            if row["label"] == "normal":
                item = Item(path, 0, "normal")
            else:
                defect = defects.get(row["image"], "anomaly")
                item = Item(path, 1, defect, root / row["mask"])
                if not row["mask"] or not item.mask.exists():
                    raise InputError(f"{path} has no mask; add it, or remove the image")
            splits[row["split"]].append(item)
        return splits


def _rows(table, category):
    """The rows (object, split, label, image, mask) of one object."""
    reader = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig")))
    return [row for row in reader if row["object"] == category]


def _defect_types(table) -> dict[str, str]:
    """From an image's path to its defects, where the annotation is there."""
    if not table.exists():
        return {}
    reader = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig")))
    return {row["image"]: row["label"] for row in reader}
