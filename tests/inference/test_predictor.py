"""What people hand over, and what they are told."""

import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
import runs
from PIL import Image

import jaxad
from jaxad.detectors import base
from jaxad.errors import InputError
from jaxad.inference import predictor
from jaxad.run import experiment

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return runs.category(tmp_path_factory.mktemp("predictor") / "cap", train=24)


@pytest.fixture(scope="module")
def detector(images):
    workdir = images.parent / "run"
    fields = {"threshold.false_alarms": 0.1}
    experiment.run(runs.config(images, **fields), str(workdir))
    return jaxad.load(workdir / "cap")


def test_a_result_says_all(detector, images):
    result = detector.predict(images / "test/square/0.png")
    assert result.name == "0.png"
    assert result.map.shape == (40, 48) and result.map.dtype == np.float32
    assert result.is_anomalous is (result.score > detector.threshold.value)
    above = (detector.threshold.scores >= result.score).sum()
    assert result.p_value == (1 + above) / 25
    assert result.error is None


def test_pictures_files_and_arrays_are_the_same(detector, images):
    path = images / "test/good/0.png"
    want = detector.predict(path)
    with Image.open(path) as image:
        pixels = np.asarray(image)
        given = [image.copy(), pixels, pixels.astype(np.uint16) * 257, str(path)]
    for one in given:
        got = detector.predict(one)
        assert got.score == want.score, type(one)
        np.testing.assert_array_equal(got.map, want.map)
    small = pixels[:32, :32]  # of the detector's size: nothing is resized or rounded
    soft = detector.predict(small / np.float32(255))
    assert soft.score == detector.predict(small).score


def test_a_list_is_in_order_and_of_any_length(detector, images):
    paths = sorted((images / "test").rglob("*.png"))
    alone = [detector.predict(path).score for path in paths]
    for given in (paths, images / "test"):
        results = detector.predict(given)
        np.testing.assert_allclose([r.score for r in results], alone, rtol=1e-5)
    many = detector.predict(paths * 3)  # more than two batches
    np.testing.assert_allclose([r.score for r in many], 3 * alone, rtol=1e-5)


def test_nothing_is_compiled_twice(detector, images):
    paths = sorted((images / "test").rglob("*.png"))
    detector.predict(paths), detector.predict(paths[0])
    compiled = []

    def listen(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x + 1)(np.float32(0))
        assert len(compiled) == 1  # the listener works
        detector.predict(paths * 2), detector.predict(paths[1])
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compiled) == 1


def test_one_that_cannot_be_read_ends_no_stream(detector, images, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    from jaxad.data import given

    paths = [images / "test/good/0.png", tmp_path / "broken.png"] * 5
    results = list(detector.stream(given.items(paths)))
    assert [result.error is None for result in results] == [True, False] * 5
    assert "broken.png cannot be read" in results[1].error
    assert len({result.score for result in results[::2]}) == 1
    with pytest.raises(InputError, match="broken.png cannot be read"):
        detector.predict(paths)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.full((4, 4, 3), 200.0), "has values from 200 to 200; floats must lie in"),
        (np.full((4, 4), np.nan), "has NaN; floats must lie in"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"uint8 \[0, 4, 4, 3\]"),
        (np.zeros((4, 4, 3), int), "array of int64"),
        ([], "an empty list"),
        ("nowhere.png", "nowhere.png does not exist"),
    ],
)
def test_mistakes_are_told(given, message, detector):
    with pytest.raises(InputError, match=message):
        detector.predict(given)


def test_a_loaded_detector_can_be_pickled(detector, images):
    path = images / "test/good/0.png"
    other = pickle.loads(pickle.dumps(detector))
    assert other.predict(path).score == detector.predict(path).score


def test_it_is_a_function_of_arrays_in_a_program(detector, images):
    with Image.open(images / "test/square/0.png") as image:
        pixels = np.asarray(image)[:32, :32] / np.float32(255)
    apply = jax.jit(lambda x: base.predict(detector.members, x))
    scores, maps = jax.export.export(apply)(pixels[None]).call(pixels[None])
    want = detector.predict(pixels)
    np.testing.assert_allclose(scores, [want.score], rtol=1e-5)
    np.testing.assert_allclose(maps[0], want.map, rtol=1e-4, atol=1e-6)
    with pytest.raises(
        InputError, match=r"base.predict\(detector.members.*\[b, 32, 32,"
    ):
        jax.jit(detector.predict)(pixels)
    with pytest.raises(TypeError, match=r"save\(folder\), and jaxad.load"):
        pickle.dumps(detector.members)


def test_fit_without_a_run(images, tmp_path):
    config = runs.config("", **{"threshold.false_alarms": 0.1})
    detector = jaxad.fit(images / "train/good", config)
    bad = detector.predict(images / "test/square")
    good = detector.predict(images / "test/good")
    assert min(r.score for r in bad) > max(r.score for r in good)
    with pytest.raises(TypeError, match=r"save\(folder\), and load it there"):
        pickle.dumps(detector)
    detector.save(tmp_path / "saved")
    again = jaxad.load(tmp_path / "saved")
    assert [r.score for r in again.predict(images / "test/square")] == [
        r.score for r in bad
    ]
    assert again.threshold.value == detector.threshold.value
    with pytest.raises(InputError, match="is there already"):
        detector.save(tmp_path / "saved")


def test_fit_on_arrays_is_fit_on_their_files(images):
    paths = sorted((images / "train/good").glob("*.png"))
    arrays = [np.asarray(Image.open(path)) for path in paths]
    config = runs.config("")
    of_files, of_arrays = jaxad.fit(paths, config), jaxad.fit(arrays, config)
    test = images / "test/square/0.png"
    assert of_files.predict(test).score == of_arrays.predict(test).score


def test_fit_needs_images_enough(images):
    config = runs.config("", **{"detector.name": "plugins.detector"})
    with pytest.raises(InputError, match="a mean of 1 image is none"):
        jaxad.fit([images / "test/good/0.png"], config)


def test_without_a_threshold_there_is_no_verdict(images):
    config = runs.config("", **{"threshold.calibration": "none"})
    result = jaxad.fit(images, config).predict(images / "test/square/0.png")
    assert result.p_value is None and result.is_anomalous is None
    assert result.score > 0


def test_import_is_light():
    script = "import sys, jaxad; assert 'jax' not in sys.modules; dir(jaxad.load)"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert jaxad.load is predictor.load
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        jaxad.laod  # noqa: B018
