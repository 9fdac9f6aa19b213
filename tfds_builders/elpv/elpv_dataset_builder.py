"""ELPV: electroluminescence images of solar cells, installed from PyPI."""

import importlib.util
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from jaxad.errors import InputError
from tfds_builders import archives, published

_TYPES = {"mono": "monocrystalline", "poly": "polycrystalline"}
_TRAIN_SHARE = 0.6


class Builder(tfds.core.GeneratorBasedBuilder):
    """Normal cells have a defect probability of 0, anomalous ones of 1.

    A seeded 60 % of the normal cells train; the others and every anomalous cell test.
    The cells that the annotators were unsure of (1/3 and 2/3) are left out, except in
    the `_uncertain` configs, which hold them in a split of their own, label unknown.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The 2,624 cells of elpv-dataset 1.0.0."}
    BUILDER_CONFIGS = [
        *(
            tfds.core.BuilderConfig(name=name, description=f"The {long} cells.")
            for name, long in _TYPES.items()
        ),
        *(
            tfds.core.BuilderConfig(
                name=f"{name}_uncertain",
                description=f"The {long} cells, uncertain ones in a third split.",
            )
            for name, long in _TYPES.items()
        ),
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "mono"
    # What `config.dataset.category = "all"` stands for.
    CATEGORIES = published.CATEGORIES["elpv"]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "pip install elpv-dataset, or a folder that holds its labels.csv and images/."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=["normal", "anomalous"]),
                    "defect_type": tfds.features.Text(),
                    "category": tfds.features.Text(),
                    "filename": tfds.features.Text(),
                    "probability": np.float32,
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://github.com/zae-bayern/elpv-dataset",
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        root = _root(dl_manager)
        self.info.metadata.update(origin=str(root.resolve()), listing=_listing(root))
        category, _, uncertain = self.builder_config.name.partition("_")
        rows = [row for row in _read_labels(root) if row[2] == category]
        normal = [row for row in rows if row[1] == 0]
        order = np.random.RandomState(0).permutation(len(normal))
        train = set(order[: int(_TRAIN_SHARE * len(normal))].tolist())
        splits = {
            "train": [row for i, row in enumerate(normal) if i in train],
            "test": [row for i, row in enumerate(normal) if i not in train]
            + [row for row in rows if row[1] == 1],
        }
        if uncertain:
            splits["uncertain"] = [row for row in rows if 0 < row[1] < 1]
        return {
            name: self._generate_examples(root, rows) for name, rows in splits.items()
        }

    def changed(self) -> bool:
        """Whether the files that this was prepared from are no longer what they were.

        False as well where they are gone.
        """
        root = pathlib.Path(self.info.metadata["origin"])
        if not (root / "labels.csv").exists():
            return False
        return _listing(root) != self.info.metadata["listing"]

    def _generate_examples(self, root, rows):
        for key, (filename, probability, category) in enumerate(rows):
            label = {0.0: 0, 1.0: 1}.get(probability, -1)
            yield (
                key,
                {
                    "image": root / filename,
                    "label": label,
                    "defect_type": {0: "good", 1: "defective", -1: "uncertain"}[label],
                    "category": category,
                    "filename": filename,
                    "probability": probability,
                },
            )


def _root(dl_manager) -> pathlib.Path:
    """The folder of labels.csv: the manual directory's, else the package's."""
    manual, named = archives.manual_folder(dl_manager)
    if manual and (manual / "labels.csv").exists():
        return manual
    if named:
        raise InputError(
            f"config.dataset.manual_dir={manual} does not hold ELPV's labels.csv; name "
            "the folder that does, or none to use the package elpv-dataset"
        )
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None:
        raise InputError(
            "the data set elpv needs its package: pip install elpv-dataset"
        )
    return pathlib.Path(spec.origin).parent / "data"


def _listing(root: pathlib.Path) -> str:
    files = [root / "labels.csv", *(root / name for name, _, _ in _read_labels(root))]
    return archives.listing(("", path) for path in files if path.exists())


def _read_labels(root: pathlib.Path) -> list[tuple[str, float, str]]:
    """Rows (file, defect probability, cell type) of labels.csv."""
    rows = (line.split() for line in (root / "labels.csv").read_text().splitlines())
    return [(name, float(probability), kind) for name, probability, kind in rows]
