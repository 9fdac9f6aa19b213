"""BTAD (BeanTech): three products, 2,540 images."""

import tensorflow_datasets as tfds

from jaxad.data import images
from tfds_builders import masked_images, published
from tfds_builders.masked_images import Item


class Builder(masked_images.Builder):
    """`<product>/train/ok`, `test/ok`, `test/ko` and `ground_truth/ko`.

    Images and masks are bmp in one folder and png in another, so that a mask is found
    by the stem of its name.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "BTech_Dataset_transformed."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name, description=f"The product {name}.")
        for name in published.BTAD
    ]
    CATEGORIES = published.CATEGORIES["btad"]
    ARCHIVE = published.ARCHIVES["btad"]
    HOMEPAGE = "https://avires.dimi.uniud.it/papers/btad/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = ARCHIVE.instructions()

    def _is_root(self, folder):
        return any((folder / name / "train").is_dir() for name in self.CATEGORIES)

    def published_counts(self):
        train, good, defective = published.BTAD[self._category()]
        return {"train/ok": train, "test/ok": good, "test/ko": defective}

    def _items(self, root):
        root = root / self._category()

        def paths(folder):
            return [root / folder / name for name in images.names(root / folder)]

        return {
            "train": [Item(path, 0, "ok") for path in paths("train/ok")],
            "test": [Item(path, 0, "ok") for path in paths("test/ok")]
            + masked_images.paired(paths("test/ko"), paths("ground_truth/ko"), "ko"),
        }
