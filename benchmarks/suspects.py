"""Defective images among the good ones: where `suspects.csv` lists them.

  python benchmarks/suspects.py [--draws N]

Every draw takes 60 good ELPV cells (mono) and plants 4 defective ones among them, those
that the data set's experts were sure of. It prints at which ranks the planted ones come
out, and what they do to a detector: its image AUROC on the test cells that were not
drawn, with and without them among its training images.
"""

import argparse
import csv
import pathlib
import shutil
import tempfile

import numpy as np

from jaxad import config as config_lib
from jaxad import data
from jaxad.run import experiment

_GOOD, _PLANTED = 60, 4


def _cells() -> tuple[pathlib.Path, dict[str, list[str]]]:
    """The folder of ELPV, and its mono cells by what they are."""
    import elpv_dataset

    fields = config_lib.base().dataset
    fields.update(name="elpv", category="mono", image_size=(224, 224))
    root = pathlib.Path(elpv_dataset.__file__).parent / "data"
    train, test = (data.load(fields, "mono", name) for name in ("train", "test"))
    probability = {}
    for line in (root / "labels.csv").read_text().splitlines():
        name, value, _ = line.split()
        probability[name] = float(value)
    return root, {
        "train": list(train.filenames),
        "normal": [
            name
            for name, label in zip(test.filenames, test.labels, strict=True)
            if not label
        ],
        "defective": [
            name
            for name, label in zip(test.filenames, test.labels, strict=True)
            if label and probability[name] == 1.0
        ],
    }


def _run(root, folder: pathlib.Path, train, normal, defective) -> tuple[float, list]:
    """Image AUROC, and the training images from the most suspicious on."""
    for place, names in (
        ("train/good", train),
        ("test/good", normal),
        ("test/defective", defective),
    ):
        (folder / "cells" / place).mkdir(parents=True)
        for name in names:
            shutil.copy(root / name, folder / "cells" / place)
    config = config_lib.base()
    config.dataset.update(
        name="folder", path=str(folder / "cells"), image_size=(224, 224), check=False
    )
    config.overlays = 0
    outcome = experiment.run(config, str(folder / "run"))
    with (folder / "run/cells/suspects.csv").open(newline="") as file:
        ranked = [pathlib.Path(row["file"]).name for row in csv.DictReader(file)]
    return outcome["categories"]["cells"]["image_auroc"], ranked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10)
    arguments = parser.parse_args()
    root, cells = _cells()
    print("| draw | ranks of the planted 4 of 64 | AUROC without | AUROC with |")
    print("|--:|--:|--:|--:|")
    among_six = []
    for draw in range(arguments.draws):
        generator = np.random.default_rng(draw)
        good = generator.choice(cells["train"], _GOOD, replace=False).tolist()
        planted = generator.choice(cells["defective"], _PLANTED, replace=False).tolist()
        rest = [name for name in cells["defective"] if name not in planted]
        test = generator.choice(rest, 60, replace=False).tolist()
        with tempfile.TemporaryDirectory() as place:
            place = pathlib.Path(place)
            normal = cells["normal"][:60]
            clean, _ = _run(root, place / "clean", good, normal, test)
            dirty, ranked = _run(root, place / "dirty", good + planted, normal, test)
        names = {pathlib.Path(name).name for name in planted}
        ranks = [i for i, name in enumerate(ranked, start=1) if name in names]
        among_six.append(sum(rank <= 6 for rank in ranks))
        print(f"| {draw} | {', '.join(map(str, ranks))} | {clean:.3f} | {dirty:.3f} |")
    share = sum(among_six) / (_PLANTED * len(among_six))
    print(f"\nOf the planted images {100 * share:.0f} % are among the first six.")


if __name__ == "__main__":
    main()
