"""Names of files and folders are bytes, of any length."""

import os
import subprocess
import sys

import numpy as np
import pytest
import runs
import trees
from PIL import Image

from jaxad.run import experiment

pytestmark = pytest.mark.usefixtures("one_device")

LATIN = [os.fsdecode(name) for name in (b"gr\xfcn", b"kr\xe4tzer", b"\xe9")]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A folder of one category."""
    root = tmp_path_factory.mktemp("names")
    category, defect, image = LATIN
    try:
        folder = root / category
        for i in range(5):
            runs.picture(folder / f"train/good/{image}{i}.png", i)
        for i in range(2):
            long = f"{i}{'x' * 246}.png"
            runs.picture(folder / f"test/good/{image}{i}.png", 100 + i)
            runs.picture(folder / f"test/{defect}/{long}", 200 + i, bad=True)
            mask = np.zeros((40, 48), np.uint8)
            mask[8:20, 8:20] = 255
            path = folder / f"ground_truth/{defect}/{long}"
            trees.save(path, Image.fromarray(mask))
    except (OSError, UnicodeEncodeError):
        pytest.skip("a file cannot have such a name here")
    return root


def test_a_run_of_such_names(tree, tmp_path):
    # Enough images for the rate: pytest's workers cannot hand on a warning's bytes.
    config = runs.config(tree, overlays=1, **{"threshold.false_alarms": 0.4})
    outcome = experiment.run(config, str(tmp_path / "run"))
    category, defect, image = LATIN
    assert list(outcome["categories"]) == [category]
    assert outcome["categories"][category]["pixel_auroc"] > 0.9
    folder = tmp_path / "run" / category
    for table in ("scores", "verdicts"):
        rows = (folder / f"{table}.csv").read_bytes().splitlines()
        assert rows[1].startswith(b"test/good/\xe90.png,0,")
        assert rows[3].startswith(b"test/kr\xe4tzer/0xxx")
    assert b",train/good/\xe9" in (folder / "suspects.csv").read_bytes()
    assert len(list((folder / "maps").glob("hit_1_test_kr_tzer*"))) == 1
    # A finished run is found again.
    again = experiment.run(config, str(tmp_path / "run"))
    assert again["categories"].keys() == outcome["categories"].keys()


def test_findings_about_them_are_printed(tree, tmp_path):
    image = LATIN[-1]
    broken = tmp_path / "b"
    trees.image(broken / f"train/good/{image}.png")
    (broken / f"train/good/{image}2.png").write_bytes(b"")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "jaxad.check", "--config"),
            f"configs/patchcore_folder.py:path={broken}",
        ],
        capture_output=True,
        cwd=os.path.join(os.path.dirname(__file__), "../.."),
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert rb"unreadable image (the file is empty): train/good/\udce92.png" in (
        done.stdout
    )
