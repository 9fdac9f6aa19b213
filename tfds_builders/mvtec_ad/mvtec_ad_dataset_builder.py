"""MVTec AD: 15 categories, 5,354 images."""

import tensorflow_datasets as tfds

from jaxad.data import images
from tfds_builders import masked_images, published
from tfds_builders.masked_images import Item


class Builder(masked_images.Builder):
    """`<category>/train/good`, `test/<defect>` and `ground_truth/<defect>`.

    The mask of `test/<defect>/000.png` is `ground_truth/<defect>/000_mask.png`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The archive of 2021."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name, description=f"The category {name}.")
        for name in published.MVTEC_AD
    ]
    CATEGORIES = published.CATEGORIES["mvtec_ad"]
    ARCHIVE = published.ARCHIVES["mvtec_ad"]
    HOMEPAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
    MANUAL_DOWNLOAD_INSTRUCTIONS = ARCHIVE.instructions()

    def _is_root(self, folder):
        return any((folder / name / "train").is_dir() for name in self.CATEGORIES)

    def published_counts(self):
        train, good, defects = published.MVTEC_AD[self._category()]
        counted = (defect.split() for defect in defects.split(", "))
        return {"train/good": train, "test/good": good} | {
            f"test/{defect}": int(count) for defect, count in counted
        }

    def _items(self, root):
        root = root / self._category()
        train = _paths(root / "train" / "good")
        test = []
        folders = [path for path in root.glob("test/*") if path.is_dir()]
        for folder in sorted(
            folders, key=lambda path: (path.name != "good", path.name)
        ):
            paths, defect = _paths(folder), folder.name
            if defect == "good":
                test += [Item(path, 0, "good") for path in paths]
            else:
                masks = _paths(root / "ground_truth" / defect)
                test += masked_images.paired(paths, masks, defect, "_mask")
        return {"train": [Item(path, 0, "good") for path in train], "test": test}


def _paths(folder):
    return [folder / name for name in images.names(folder)]
