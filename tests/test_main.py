"""The command line on real images and real weights, shrunk."""

import csv
import json
import pathlib
import shutil
import subprocess
import sys

import ml_collections
import numpy as np
import pytest
import runs

from jaxad import config as config_lib
from jaxad import data
from jaxad.detectors import base
from jaxad.errors import InputError
from jaxad.inference import folder
from jaxad.run import identity

ROOT = pathlib.Path(__file__).parents[1]
ELPV = "configs/patchcore_elpv.py:runlocal"
SMALL = (
    "--config.dataset.limit=6",
    "--config.dataset.image_size=(64, 64)",
    "--config.batch_size=2",
)


@pytest.fixture(scope="module")
def command(server):
    # Programs as users have them, whatever `make test` says.
    environment = {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}

    def call(*arguments, devices="1"):
        devices = {"JAX_NUM_CPU_DEVICES": devices}
        return server.call("main", *arguments, environment=environment | devices)

    return call


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("main")
    return (
        f"--config.dataset.data_dir={folder / 'data'}",
        "--config.compilation_cache=",  # that of all tests
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, places, command):
    """The folder and the output of a run of two categories."""
    workdir = tmp_path_factory.mktemp("run") / "two words"
    done = command(
        "--config", ELPV, "--workdir", workdir, *SMALL, *places,
        "--config.dataset.category=mono,poly",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_results_have_every_promised_field(finished):
    workdir, done = finished
    outcome = json.loads((workdir / "results.json").read_text())
    assert outcome["dataset"] == "elpv"
    assert outcome["method"] == "patchcore"
    assert outcome["seed"] == 0
    assert list(outcome["categories"]) == ["mono", "poly"]
    for row in outcome["categories"].values():
        assert 0 <= row["image_auroc"] <= 1
        assert row["test_normal"] == row["test_anomalous"] == 6
        for name in ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_0.3"):
            assert row[name] is None  # ELPV has no masks
    aurocs = [row["image_auroc"] for row in outcome["categories"].values()]
    np.testing.assert_allclose(outcome["mean"]["image_auroc"], np.mean(aurocs))
    phases = {"features", "fit", "score", "total"}
    assert phases <= outcome["seconds"].keys()
    assert {"jaxad", "jax", "python"} <= outcome["versions"].keys()
    table = (workdir / "results.md").read_text()
    assert table in done.stdout
    assert "mono" in table and "mean" in table


def test_scores_list_every_test_image(finished):
    workdir, _ = finished
    with (workdir / "mono" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert [row["label"] for row in rows].count("1") == 6
    assert all(float(row["score"]) > 0 for row in rows)


def test_maps_are_written_for_both_labels(finished):
    workdir, done = finished
    names = [path.name for path in (workdir / "mono" / "maps").glob("*.png")]
    for kinds in (("hit_", "miss_"), ("pass_", "false_alarm_")):
        assert 1 <= sum(name.startswith(kinds) for name in names) <= 2
    assert str(workdir / "mono" / "maps") in done.stdout


def test_a_report_shows_all_images(finished):
    workdir, done = finished
    assert f"Report: {workdir / 'report.html'}" in done.stdout
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert page.count('class="card') == page.count("data:image/webp") / 2
    cards = [page.count(f' data-outcome="{kind}"') for kind in ("suspect", "")]
    assert cards == [12, 0]  # of two categories with six training images each
    assert page.count('data-label="1"') == 12 and "no picture" not in page


def test_a_finished_run_does_nothing(finished, places, command):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    again = command(
        "--config", ELPV, "--workdir", workdir, *SMALL, *places,
        "--config.dataset.category=mono,poly",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "finished" in again.stdout
    assert (workdir / "results.md").read_text() in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    finished, places, command, tmp_path
):
    """As if killed after fitting poly, before its scores were written."""
    source, _ = finished
    workdir = tmp_path / "run"
    shutil.copytree(source, workdir)
    for name in ("results.json", "results.md", "poly/result.json", "poly/scores.csv"):
        (workdir / name).unlink()
    mono = (workdir / "mono" / "scores.csv").stat().st_mtime_ns
    again = command(
        "--config", ELPV, "--workdir", workdir, *SMALL, *places,
        "--config.dataset.category=mono,poly",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert (workdir / "mono" / "scores.csv").stat().st_mtime_ns == mono
    for name in ("mono/scores.csv", "poly/scores.csv", "results.md"):
        assert (workdir / name).read_bytes() == (source / name).read_bytes()


def test_eight_devices_give_the_bytes_of_one(finished, places, command, tmp_path):
    source, _ = finished
    done = command(
        "--config", ELPV, "--workdir", tmp_path / "run", *SMALL, *places,
        devices="8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = (tmp_path / "run" / "mono" / "scores.csv").read_bytes()
    assert scores == (source / "mono" / "scores.csv").read_bytes()


def test_a_restored_detector_gives_the_scores_of_the_run(finished, places):
    workdir, _ = finished
    members = folder.load(workdir / "mono").members
    stored = json.loads((workdir / "config.json").read_text())
    split = data.load(ml_collections.ConfigDict(stored["dataset"]), "mono", "test")
    with (workdir / "mono" / "scores.csv").open(newline="") as file:
        written = [float(row["score"]) for row in csv.DictReader(file)]
    for batch in data.eval_batches(split, 4):
        scores, maps = base.predict(members, batch["image"])
        # Batches of another size, so the last bits may differ.
        np.testing.assert_allclose(scores, np.take(written, batch["index"]), rtol=1e-4)
        assert maps.shape == (4, 64, 64)


def test_another_config_never_writes_into_a_run(finished):
    workdir, _ = finished
    stored = json.loads((workdir / "config.json").read_text())
    stored["coreset"]["ratio"] = 0.5
    with pytest.raises(InputError, match="it differs in coreset.ratio"):
        identity.require_same_run(workdir, ml_collections.ConfigDict(stored))


def test_the_places_of_a_run_may_change(finished):
    workdir, _ = finished
    stored = json.loads((workdir / "config.json").read_text())
    stored["dataset"]["data_dir"] = "/moved"
    identity.require_same_run(workdir, ml_collections.ConfigDict(stored))


def test_a_folder_with_other_files_is_no_workdir(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        identity.require_same_run(tmp_path, config_lib.base())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_a_killed_write_leaves_is_no_obstacle(tmp_path):
    (tmp_path / ".config.json.7.tmp").write_text("{")
    identity.require_same_run(tmp_path, config_lib.base())


def test_a_file_is_no_workdir(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="run is a file; name a folder"):
        identity.require_same_run(tmp_path / "run", config_lib.base())


def test_a_damaged_config_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(InputError, match="config.json is not valid .* its folder"):
        identity.stored(tmp_path)


def test_a_config_by_name_in_any_folder_and_a_workdir_by_default(things, tmp_path):
    arguments = runs.stoppable_command(things, "")[4:]
    done = subprocess.run(
        [sys.executable, "-m", "jaxad", "main", "--config"]
        + [f"patchcore_folder:path={things}", *arguments],
        cwd=tmp_path,
        env=runs.environment(1),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (workdir,) = (tmp_path / "runs").iterdir()
    assert workdir.name.startswith("patchcore_folder-path=_")
    assert done.stdout.startswith(f"Workdir: runs/{workdir.name}\n")
    assert (workdir / "results.json").exists()


def test_without_its_data_a_data_set_says_how_to_get_it(command, tmp_path):
    """The user's own command; nothing is downloaded."""
    place = f"--config.dataset.data_dir={tmp_path}"
    done = command("--config", "configs/tocoad_mvtec.py", place)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.partition("error: ")[2].splitlines()
    for line, part in zip(
        lines,
        ("not downloaded unasked", "5.3 GB, under the licence CC BY-NC-SA 4.0", "http")
        + (f"into {tmp_path}/downloads/manual", "--config.dataset.download=True"),
        strict=True,
    ):
        assert part in line
    empty = tmp_path / "empty"
    empty.mkdir()
    named = f"--config.dataset.manual_dir={empty}"
    done = command("--config", "configs/tocoad_mvtec.py", place, named)
    assert done.returncode == 2
    for part in (
        "is empty",
        "mvtec_anomaly_detection.tar.xz, 5.3 GB",
        "into that fold",
    ):
        assert part in done.stderr
    assert not (ROOT / "runs/tocoad_mvtec").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", "configs/none.py"), "config file configs/none.py does not exist"),
        (("--config", ELPV, "--config.coreset.ration=1"), "no field 'ration' (did you"),
        (("--config", ELPV, "--config.batch_size=many"), "batch_size"),
        (("--config", "configs/patchcore_elpv.py:fast"), "argument 'fast'"),
        (("--config", ELPV, "--config.dataset.category=duo"), "duo"),
        (("--config", ELPV, "--config.backbone.taps=('blocks.99',)"), "blocks.99"),
        ((), "--config is missing"),
        (("--config", ELPV, "config.batch_size=3"), "did you mean --config.batch_size"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_end_in_one_sentence(arguments, message, places, command, tmp_path):
    workdir = tmp_path / "run"
    failed = command(*arguments, *(places if arguments else ()), "--workdir", workdir)
    assert failed.returncode == 2, failed.stderr
    errors = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0], failed.stderr
    assert "Traceback" not in failed.stderr
    assert not workdir.exists() or not any(workdir.iterdir())
