"""The command: what it prints, where it writes, and how it ends."""

import os
import pathlib
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import trees

from jaxad import predict
from jaxad.detectors import threshold
from jaxad.errors import InputError
from jaxad.inference import judge, predictor
from jaxad.inference.predictor import Result

ROOT = pathlib.Path(__file__).parents[1]


class Fake:
    """Whatever has a bright pixel is anomalous."""

    card, pixel_threshold, max_pixels = {}, 0.5, 0
    threshold = threshold.calibrate(np.arange(99) / 200, method="split", rate=0.05)

    def stream(self, items, *, batch_size=None):
        for item in items:
            pixels = np.asarray(item.decode().convert("L"), np.float32) / 255
            score = float(pixels.max())
            p_value = float(self.threshold.p_values(score))
            yield Result(item.name, score, p_value, score > 0.5, pixels)


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls the command in `tmp_path`, where `today` has three images."""
    for name, value in (("a", 20), ("b", 30), ("deep/c", 255)):
        trees.image(tmp_path / f"today.5/{name}.png", value)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/detector.json").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predictor, "load", lambda run: Fake())

    def call(images="today.5", **flags):
        defaults = {"out": None, "maps": "all", "fdr": None, "watch": False}
        values = {**defaults, "fail_on_anomaly": False, "run": "run", **flags}
        return predict.main(types.SimpleNamespace(images=images, **values))

    return call


def test_what_it_prints_and_leaves(call, capsys):
    assert call() == 0
    summary, table, maps = capsys.readouterr().out.splitlines()
    assert summary.startswith("3 images: 1 anomalous, 2 normal, 0 broken; ")
    place = "predictions/today.5"
    assert table == f"Predictions: {place}/predictions.csv"
    assert maps == f"Heat maps: {place}/maps"
    assert pathlib.Path(place, "maps/deep/c.png").exists()
    assert call(maps="none", out="elsewhere", fdr=0.1) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "Predictions: elsewhere/predictions.csv"
    ]
    call(images="today.5/a.png")
    assert pathlib.Path("predictions/a/maps/a.png").exists()


def test_the_kinds_of_pictures_are_those_that_there_are():
    assert predict.MAPS == judge.MAPS


def test_how_it_ends(call, monkeypatch):
    assert call(fail_on_anomaly=True) == 3
    assert call(fail_on_anomaly=True) == 3  # also where all was judged before
    assert call(images="today.5/a.png", fail_on_anomaly=True) == 0
    with pytest.raises(InputError, match="--watch has no last one"):
        call(watch=True, fdr=0.1)
    monkeypatch.setattr(Fake, "threshold", None)
    with pytest.raises(InputError, match="--fail_on_anomaly needs verdicts, and run"):
        call(fail_on_anomaly=True, out="new")


WATCHING = f"""
import sys
sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT)!r}]
import runpy, test_predict
from jaxad.inference import predictor, watch
predictor.load, watch._POLL = (lambda run: test_predict.Fake()), 0.1
runpy.run_module("jaxad.predict", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_watch_with_the_summary(number, call, tmp_path):
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", WATCHING, "--run=run", "--images=today.5"),
            *("--watch", "--fail-on-anomaly", "--maps=none"),
        ],
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        told = [process.stdout.readline() for _ in range(3)]
        assert told[0].startswith("a.png: normal, score 0.07843")
        assert told[2].startswith("deep/c.png: anomalous, score 1")
        process.send_signal(number)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert rest.startswith("3 images: 1 anomalous, 2 normal, 0 broken; ")
    assert process.returncode == 3


def test_a_mistake_is_one_sentence(call, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jaxad.predict", "--run=none", "--images=today.5"],
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "none does not exist" in done.stderr
