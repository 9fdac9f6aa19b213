"""MVTec AD: 15 categories, 5,354 images."""

import tensorflow_datasets as tfds

from jaxad.data import images
from tfds_builders import archives, masked_images
from tfds_builders.masked_images import Item

# Images of train/good, of test/good, and of every defect in test.
_COUNTS = {
    "bottle": (209, 20, "broken_large 20, broken_small 22, contamination 21"),
    "cable": (
        224,
        58,
        "bent_wire 13, cable_swap 12, combined 11, cut_inner_insulation 14, "
        "cut_outer_insulation 10, missing_cable 12, missing_wire 10, "
        "poke_insulation 10",
    ),
    "capsule": (
        219,
        23,
        "crack 23, faulty_imprint 22, poke 21, scratch 23, squeeze 20",
    ),
    "carpet": (
        280,
        28,
        "color 19, cut 17, hole 17, metal_contamination 17, thread 19",
    ),
    "grid": (264, 21, "bent 12, broken 12, glue 11, metal_contamination 11, thread 11"),
    "hazelnut": (391, 40, "crack 18, cut 17, hole 18, print 17"),
    "leather": (245, 32, "color 19, cut 19, fold 17, glue 19, poke 18"),
    "metal_nut": (220, 22, "bent 25, color 22, flip 23, scratch 23"),
    "pill": (
        267,
        26,
        "color 25, combined 17, contamination 21, crack 26, faulty_imprint 19, "
        "pill_type 9, scratch 24",
    ),
    "screw": (
        320,
        41,
        "manipulated_front 24, scratch_head 24, scratch_neck 25, thread_side 23, "
        "thread_top 23",
    ),
    "tile": (230, 33, "crack 17, glue_strip 18, gray_stroke 16, oil 18, rough 15"),
    "toothbrush": (60, 12, "defective 30"),
    "transistor": (
        213,
        60,
        "bent_lead 10, cut_lead 10, damaged_case 10, misplaced 10",
    ),
    "wood": (247, 19, "color 8, combined 11, hole 10, liquid 10, scratch 21"),
    "zipper": (
        240,
        32,
        "broken_teeth 19, combined 16, fabric_border 17, fabric_interior 16, rough 17, "
        "split_teeth 18, squeezed_teeth 16",
    ),
}


class Builder(masked_images.Builder):
    """`<category>/train/good`, `test/<defect>` and `ground_truth/<defect>`.

    The mask of `test/<defect>/000.png` is `ground_truth/<defect>/000_mask.png`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The archive of 2021."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name, description=f"The category {name}.")
        for name in _COUNTS
    ]
    CATEGORIES = tuple(_COUNTS)
    ARCHIVE = archives.Archive(
        name="mvtec_anomaly_detection.tar.xz",
        url=(
            "https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/"
            "download/420938113-1629960298/mvtec_anomaly_detection.tar.xz"
        ),
        size=5_264_982_680,
        sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
        licence="CC BY-NC-SA 4.0",
    )
    HOMEPAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
    MANUAL_DOWNLOAD_INSTRUCTIONS = ARCHIVE.instructions()

    def _is_root(self, folder):
        return any((folder / name / "train").is_dir() for name in self.CATEGORIES)

    def published_counts(self):
        train, good, defects = _COUNTS[self._category()]
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
