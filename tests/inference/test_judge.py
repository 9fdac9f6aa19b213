"""Tables, pictures and summaries of a detector that scores an image by its grey."""

import csv
import dataclasses
import itertools
import json
import signal
import threading
import weakref

import numpy as np
import pytest
import trees
from PIL import Image

from jaxad.data import given
from jaxad.data.images import Geometry
from jaxad.detectors import threshold as threshold_lib
from jaxad.errors import InputError, Preempted
from jaxad.inference import judge, pictures, watch
from jaxad.inference.judge import Summary
from jaxad.inference.predictor import Result

GEOMETRY = Geometry((4, 4))
CALIBRATION = np.arange(19, dtype=np.float32) / 100  # 0 to 0.18


@dataclasses.dataclass
class Fake:
    """Scores an image by its largest value; its map is its values."""

    card: dict = dataclasses.field(default_factory=lambda: {"arrays": "abc"})
    threshold: threshold_lib.Threshold | None = dataclasses.field(
        default_factory=lambda: threshold_lib.calibrate(
            CALIBRATION, method="split", rate=0.1
        )
    )
    pixel_threshold: float | None = 0.5
    max_pixels: int = 0
    judged: list = dataclasses.field(default_factory=list)

    def stream(self, items, *, batch_size=None):
        for one in given.read(items, GEOMETRY):
            self.judged.append(one.name)
            if one.error is not None:
                yield Result(one.name, error=one.error)
                continue
            score = one.image.max()
            p_value = verdict = None
            if self.threshold is not None:
                p_value = float(self.threshold.p_values(score))
                verdict = bool(self.threshold.verdicts(score))
            found = GEOMETRY.undo(one.image[..., 0], one.size)
            yield Result(one.name, float(score), p_value, verdict, found)


def run(images, out, predictor=None, **options):
    predictor = predictor or Fake()
    return judge.judge(predictor, images, out, versions={"jaxad": "1"}, **options)


def rows(out):
    with open(out / "predictions.csv", newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def card(out):
    return json.loads((out / "predictions.json").read_text())


def pictured(out):
    found = (out / "maps").rglob("*")
    return sorted(str(p.relative_to(out / "maps")) for p in found if p.is_file())


def grey(path, value, size=(4, 4)):
    trees.save(path, Image.new("L", size[::-1], value))


@pytest.fixture
def folder(tmp_path):
    """Two good ones, one that is bad on its left, and one that is broken."""
    root = tmp_path / "today"
    grey(root / "a.png", 10)
    grey(root / "deep/b.jpg", 20, size=(20, 90))
    trees.mask(root / "deep/c.png", size=(6, 8))
    (root / "d.png").write_text("no image")
    return root


def test_rows_pictures_and_summary(folder, tmp_path):
    out = tmp_path / "out"
    summary = run(folder, out)
    assert dataclasses.replace(summary, seconds=0) == Summary(4, 1, 2, 1, 0, 0)
    assert summary.seconds > 0
    found = rows(out)
    assert list(found) == ["a.png", "d.png", "deep/b.jpg", "deep/c.png"]
    assert list(found["a.png"]) == [
        "file", "score", "p_value", "verdict", "error", "regions",
    ]  # fmt: skip
    assert found["a.png"] == {
        "file": "a.png", "score": "0.0392156877", "p_value": "0.8",
        "verdict": "normal", "error": "", "regions": "[]",
    }  # fmt: skip
    assert np.float32(found["a.png"]["score"]) == np.float32(10 / 255)
    broken = found["d.png"]
    assert broken["error"].startswith("d.png cannot be read (")
    assert set(broken.values()) == {"d.png", broken["error"], ""}
    bad = found["deep/c.png"]
    assert bad["verdict"] == "anomalous" and bad["p_value"] == "0.05"
    # The left half, in the image's own pixels.
    assert json.loads(bad["regions"]) == [[0, 0, 4, 6, 24]]
    assert pictured(out) == ["a.png", "deep/b.jpg.png", "deep/c.png"]
    with Image.open(out / "maps/deep/b.jpg.png") as picture:
        assert picture.size == (444, 198)  # a strip stays one
    about = card(out)
    assert about.pop("versions") == {"jaxad": "1"} and len(about.pop("detector")) == 64
    assert about == {
        "images": str(folder), "threshold": pytest.approx(0.17), "pixel_threshold": 0.5,
        "fdr": None, "scale": [0.25, 0.75, 0.5],
    }  # fmt: skip


def test_the_summary_in_words():
    assert str(Summary(4, 1, 2, 1, 0, 2.0)) == (
        "4 images: 1 anomalous, 2 normal, 1 broken; 2.0 s, 2.0 images/s"
    )
    assert str(Summary(1, 0, 0, 0, 1, 0.0)) == (
        "1 image: no verdicts, 0 broken; 1 were judged before; 0.0 s"
    )


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ("all", ["a.png", "deep/b.jpg.png", "deep/c.png"]),
        ("anomalous", ["deep/c.png"]),
        ("none", []),
    ],
)
def test_which_images_get_a_picture(maps, expected, folder, tmp_path):
    run(folder, tmp_path / "out", maps=maps)
    assert pictured(tmp_path / "out") == expected
    assert len(rows(tmp_path / "out")) == 4


def test_captions(folder, tmp_path, monkeypatch):
    calls, render = {}, pictures.render

    def noting(image, anomaly_map, scale, **options):
        calls[options["title"]] = (image.size, anomaly_map.shape, scale, options)
        return render(image, anomaly_map, scale, **options)

    monkeypatch.setattr(pictures, "render", noting)
    run(folder, tmp_path / "out")
    size, shape, scale, options = calls["deep/b.jpg"]
    assert size == (90, 20) and shape == (20, 90) and scale == (0.25, 0.75, 0.5)
    assert options["verdict"] == "normal"
    assert options["details"] == ["score 0.07843 (threshold 0.17)", "p = 0.6"]
    run(folder, tmp_path / "bare", Fake(threshold=None, pixel_threshold=None))
    *_, scale, options = calls["deep/b.jpg"]
    assert options["verdict"] is None and options["details"] == ["score 0.07843"]
    assert scale == pytest.approx((10 / 255, 10 / 255, None)[:2] + (scale[2],))
    found = rows(tmp_path / "bare")["deep/b.jpg"]
    assert (found["p_value"], found["verdict"], found["regions"]) == ("", "", "")


def test_one_image_and_a_table(folder, tmp_path, capsys):
    run(folder / "deep/c.png", tmp_path / "one")
    assert list(rows(tmp_path / "one")) == ["c.png"]
    assert capsys.readouterr().out == "c.png: anomalous, score 1, p = 0.05\n"
    (folder / "list.csv").write_text("file,lot\ndeep/c.png,1\na.png,2\ndeep/c.png,3\n")
    summary = run(folder / "list.csv", tmp_path / "list")
    assert list(rows(tmp_path / "list")) == ["deep/c.png", "a.png"]
    assert summary.images == 2 and capsys.readouterr().out == ""


def test_the_output_is_no_input(folder):
    out = folder / "predictions"
    run(folder, out)
    predictor = Fake()
    run(folder, out, predictor)
    assert predictor.judged == ["d.png"]
    with pytest.raises(InputError, match="holds the images; choose another folder"):
        run(folder, folder)
    with pytest.raises(InputError, match="holds the images"):
        run(folder / "deep", folder)


# ---- Going on


class Stopping(Fake):
    """Is told to stop after so many images."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def stream(self, items, *, batch_size=None):
        yield from itertools.islice(super().stream(items), self.after)
        raise Preempted("told to stop")


@pytest.fixture
def many(tmp_path):
    root = tmp_path / "many"
    for i in range(40):
        grey(root / f"{i:02}.png", 6 * i)
    return root


@pytest.fixture(autouse=True)
def no_large_pictures(monkeypatch):
    """They take most of the time, and have tests of their own."""
    monkeypatch.setattr(pictures, "_ENLARGED", 30)


def test_a_stopped_call_goes_on(many, tmp_path):
    run(many, tmp_path / "whole")
    with pytest.raises(Preempted):
        run(many, tmp_path / "out", Stopping(30))
    before = list(rows(tmp_path / "out"))
    assert 0 < len(before) <= 30
    predictor = Fake()
    summary = run(many, tmp_path / "out", predictor)
    assert predictor.judged == [f"{i:02}.png" for i in range(len(before), 40)]
    assert (summary.images, summary.earlier) == (40, len(before))
    for name in ("predictions.csv", "predictions.json"):
        assert (tmp_path / "out" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes()
    assert len(pictured(tmp_path / "out")) == 40
    predictor = Fake()
    again = run(many, tmp_path / "out", predictor)
    assert predictor.judged == [] and again.earlier == 40
    assert (again.anomalous, again.normal) == (summary.anomalous, summary.normal)


def test_a_row_that_was_cut_off_is_dropped(many, tmp_path):
    out = tmp_path / "out"
    run(many, out)
    table = out / "predictions.csv"
    whole = table.read_bytes()
    for cut in (1, 7, len(whole) - 3, len(whole)):
        table.write_bytes(whole[:-cut])
        run(many, out)
        assert table.read_bytes() == whole


def test_broken_images_are_judged_again(folder, tmp_path):
    run(folder, tmp_path / "out")
    grey(folder / "d.png", 255)
    predictor = Fake()
    summary = run(folder, tmp_path / "out", predictor)
    assert predictor.judged == ["d.png"]
    assert (summary.anomalous, summary.broken, summary.earlier) == (2, 0, 3)
    assert rows(tmp_path / "out")["d.png"]["verdict"] == "anomalous"


def test_a_folder_of_something_else_is_refused(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, out)
    other = threshold_lib.calibrate(CALIBRATION + 1, method="split", rate=0.1)
    for predictor, images, options, field in (
        (Fake(card={"arrays": "other"}), folder, {}, "detector;"),
        (Fake(threshold=other), folder, {}, "threshold .0.17.* there"),
        (Fake(), folder / "deep", {}, "images ./.*/today there"),
        (Fake(), folder, {"fdr": 0.1}, "fdr .None there"),
    ):
        with pytest.raises(InputError, match=f"differ in {field}.*another --out"):
            run(images, out, predictor, **options)
    (out / "predictions.json").write_text("{")
    with pytest.raises(InputError, match="predictions.json is not valid JSON"):
        run(folder, out)
    (out / "predictions.json").unlink()
    with pytest.raises(InputError, match="is not empty and holds no predictions"):
        run(folder, out)
    with pytest.raises(InputError, match="is a file; name a folder"):
        run(folder, folder / "a.png")
    with pytest.raises(InputError, match="nothing does not exist"):
        run(tmp_path / "nothing", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_two_at_once_are_refused(folder, tmp_path):
    class Rival(Fake):
        def stream(self, items, *, batch_size=None):
            with pytest.raises(InputError, match="another process writes to"):
                run(folder, tmp_path / "out")
            yield from super().stream(items)

    run(folder, tmp_path / "out", Rival())
    assert len(rows(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    "name", ['with "quotes", and commas.png', "two\nlines.png", "no utf-8 \udcff.png"]
)
def test_strange_names_come_back(name, tmp_path):
    try:
        grey(tmp_path / "images" / name, 10)
    except (OSError, UnicodeEncodeError):
        pytest.skip("a file cannot have that name here")
    grey(tmp_path / "images/z.png", 10)
    for _ in range(2):
        predictor = Fake()
        summary = run(tmp_path / "images", tmp_path / "out", predictor)
        assert summary.images == 2
    assert predictor.judged == []
    assert name in pictured(tmp_path / "out")


def test_names_of_any_length(tmp_path):
    name = "é" * 120 + ".jpg"
    grey(tmp_path / "images" / name, 10)
    run(tmp_path / "images", tmp_path / "out")
    (row,) = rows(tmp_path / "out").values()
    assert (row["file"], row["error"]) == (name, "")
    (picture,) = pictured(tmp_path / "out")
    assert picture.endswith("é.jpg.png") and len(picture.encode()) < 140


def test_an_image_of_too_many_pixels_has_its_error_in_its_row(folder, tmp_path):
    run(folder, tmp_path / "out", Fake(max_pixels=1))
    error = rows(tmp_path / "out")["a.png"]["error"]
    assert "more than config.dataset.max_pixels=1" in error


def test_no_two_images_share_a_picture(tmp_path):
    names = ["x.png", "x.jpg", "x.jpg.png", "x.PNG", "1.5.png", "in/x.bmp"]
    for name in names:
        grey(tmp_path / "images" / name, 10)
    run(tmp_path / "images", tmp_path / "out")
    found = pictured(tmp_path / "out")
    assert found == [
        "1.5.png", "in/x.bmp.png", "x.PNG", "x.jpg.png", "x.jpg.png.png", "x.png",
    ]  # fmt: skip


def test_pictures_stay_in_their_folder(tmp_path):
    grey(tmp_path / "up.png", 10)
    table = tmp_path / "tables/t.csv"
    table.parent.mkdir()
    table.write_text(f"file\n../up.png\n{tmp_path}/up.png\n")
    run(table, tmp_path / "out")
    whole = str(tmp_path).lstrip("/")
    assert pictured(tmp_path / "out") == sorted(["_/up.png", f"{whole}/up.png"])


# ---- All images together


def stamped(path):
    """The verdict on a picture."""
    with Image.open(path) as picture:
        chip = np.asarray(picture.crop((12, 12, 12 + 98, 12 + 24)))
    for verdict in ("", "normal", "anomalous"):
        if np.array_equal(chip, np.asarray(pictures._chip(verdict))):
            return verdict
    return None


def test_a_false_discovery_rate(many, tmp_path):
    """Of 40 images 10 are above all 19 calibration scores: p = 1/20."""
    for i in range(40):
        grey(many / f"{i:02}.png", 255 if i % 4 == 1 else 20)
    out = tmp_path / "out"
    summary = run(many, out, fdr=0.2)
    assert (summary.anomalous, summary.normal) == (10, 30)
    found = rows(out)
    for i in range(40):
        expected = "anomalous" if i % 4 == 1 else "normal"
        assert found[f"{i:02}.png"]["verdict"] == expected
    # The picture says so, as if it had been known.
    for name, verdict in (("00.png", "normal"), ("01.png", "anomalous")):
        assert stamped(out / "maps" / name) == verdict
    predictor = Fake()
    run(many, out, predictor, fdr=0.2)
    assert predictor.judged == [] and rows(out) == found


def test_too_few_calibration_images_are_told(many, tmp_path, caplog):
    summary = run(many, tmp_path / "out", fdr=0.01, maps="anomalous")
    assert summary.anomalous == 0
    assert "good images; you have 19, so nothing can be reported" in caplog.text
    assert not (tmp_path / "out/maps").exists()
    for i in range(40):
        grey(many / f"{i:02}.png", 255 if i < 2 else 20)
    caplog.clear()
    summary = run(many, tmp_path / "two", fdr=0.2, maps="anomalous")
    assert summary.anomalous == 0
    assert "unless 10 or more are reported together" in caplog.text
    # They might have been: drawn before that was known.
    assert pictured(tmp_path / "two") == ["00.png", "01.png"]


def test_later_images_change_verdicts(many, tmp_path):
    for i in range(40):
        grey(many / f"{i:02}.png", 255 if i < 2 else 20)
    run(many, tmp_path / "out", fdr=0.2)
    for i in range(40, 60):
        grey(many / f"{i:02}.png", 255)
    summary = run(many, tmp_path / "out", fdr=0.2)
    assert (summary.anomalous, summary.earlier) == (22, 40)
    assert stamped(tmp_path / "out/maps/01.png") == "anomalous"


def test_mistakes_with_a_false_discovery_rate(folder, tmp_path):
    bare = Fake(threshold=None, pixel_threshold=None)
    with pytest.raises(InputError, match="has no threshold, and so no p-values"):
        run(folder, tmp_path / "out", bare, fdr=0.1)
    for rate in (0.0, 1.0, 10.0):
        with pytest.raises(InputError, match="--fdr=.* must lie above 0 and below 1"):
            run(folder, tmp_path / "out", fdr=rate)
    assert not (tmp_path / "out").exists()


# ---- A folder that images come into


def follow(folder, out, acts, predictor=None):
    """Follows a folder; every look is followed by one of the acts, then it stops."""
    stop, acts = threading.Event(), iter(acts)

    class Looks:
        is_set = staticmethod(stop.is_set)

        def wait(self, seconds):
            assert seconds == watch._POLL
            act = next(acts, stop.set)
            act()

    return judge.follow(
        predictor or Fake(), folder, out, Looks(), maps="none", versions={}
    )


def idle():
    pass


def test_files_are_judged_once_they_are_whole(folder, tmp_path, capsys):
    late, predictor = folder / "deep/late.png", Fake()
    whole = trees.encoded(Image.new("L", (30, 30), 9))

    def size_is(count):
        def act():
            late.write_bytes(whole[:count])
            assert "deep/late.png" not in predictor.judged

        return act

    sizes = [size_is(0), size_is(0), size_is(20), size_is(40), size_is(None)]
    summary = follow(folder, tmp_path / "out", [*sizes, idle, idle], predictor)
    assert dataclasses.replace(summary, seconds=0) == Summary(5, 1, 3, 1, 0, 0)
    assert predictor.judged == [
        "a.png", "d.png", "deep/b.jpg", "deep/c.png", "deep/late.png",
    ]  # fmt: skip
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "a.png: normal, score 0.03922, p = 0.8"
    assert told[1].startswith("d.png cannot be read")
    assert told[-1].startswith("deep/late.png: normal")


def test_a_broken_file_comes_again_when_it_changes(folder, tmp_path):
    predictor = Fake()

    def mend():
        assert predictor.judged.count("d.png") == 1
        grey(folder / "d.png", 255)

    acts = [idle, idle, idle, mend, idle, idle]
    summary = follow(folder, tmp_path / "out", acts, predictor)
    assert predictor.judged.count("d.png") == 2 and len(predictor.judged) == 5
    assert dataclasses.replace(summary, seconds=0) == Summary(4, 2, 2, 0, 0, 0)
    assert len(rows(tmp_path / "out")) == 4


def test_following_goes_on_and_leaves_its_output_out(folder):
    out = folder / "predictions"
    follow(folder, out, [idle, idle])
    predictor = Fake()
    grey(folder / "new.png", 7)
    summary = follow(folder, out, [idle, idle, lambda: (folder / "a.png").unlink()])
    assert (summary.images, summary.earlier) == (5, 3)
    assert follow(folder, out, [idle], predictor).earlier == 4


def test_pictures_that_are_not_read_are_told_of_once(folder, tmp_path, caplog):
    (folder / "deep/phone.heic").write_bytes(b"x")
    follow(folder, tmp_path / "out", [idle, idle])
    assert caplog.messages == [
        "deep/phone.heic is a picture that cannot be read; left out"
    ]


def test_an_empty_folder_is_waited_for(tmp_path):
    (tmp_path / "in").mkdir()
    acts = [lambda: grey(tmp_path / "in/a.png", 255), idle, idle]
    assert follow(tmp_path / "in", tmp_path / "out", acts).anomalous == 1
    with pytest.raises(InputError, match="--watch follows a folder, which .*a.png is"):
        follow(tmp_path / "in/a.png", tmp_path / "out", [])


def test_stopping_ends_after_an_image(many, tmp_path):
    stop = threading.Event()

    class Told(Fake):
        def stream(self, items, *, batch_size=None):
            assert batch_size == 1
            for result in super().stream(items):
                if result.name == "20.png":
                    stop.set()
                yield result

    def looks(told):
        assert told is stop
        return iter([None, None, None])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "looks", looks)
        summary = judge.follow(
            Told(), many, tmp_path / "out", stop, maps="none", versions={}
        )
    assert 0 < summary.images <= 21 and len(rows(tmp_path / "out")) == summary.images


@pytest.fixture
def interruptible():
    """As in a terminal: what runs in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_stops_once_and_the_next_one_interrupts(interruptible):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    for number in (signal.SIGTERM, signal.SIGINT):
        with watch.stopping() as stop:
            assert not stop.is_set()
            signal.raise_signal(number)
            assert stop.is_set() and list(watch.looks(stop)) == []
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    after = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    assert after == before


# ---- Many


class Alive:
    """Counts objects from when they are told of until they are gone."""

    def __init__(self):
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def told(self, thing):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        weakref.finalize(thing, self.gone)
        return thing

    def gone(self):
        with self.lock:
            self.now -= 1


def test_thousands_are_judged_in_bounded_memory(tmp_path, monkeypatch):
    maps, kept, small = Alive(), Alive(), pictures.small

    class Counting(Fake):
        def stream(self, items, *, batch_size=None):
            for result in super().stream(items):
                maps.told(result.map)
                yield result

    monkeypatch.setattr(pictures, "small", lambda image: kept.told(small(image)))
    encoded = trees.encoded(Image.new("L", (2, 2), 7))
    decoded = given.images.decode_image
    monkeypatch.setattr(given, "_of_bytes", lambda *_: decoded(encoded))
    table = tmp_path / "many.csv"
    table.write_text("file\n" + "".join(f"{i}.png\n" for i in range(2_000)))
    summary = run(table, tmp_path / "out", Counting(), maps="anomalous")
    assert summary.images == summary.normal == len(rows(tmp_path / "out")) == 2_000
    assert 1 < maps.most <= 3 * judge._THREADS
    assert 1 < kept.most <= 3 * judge._THREADS + 2 * given._THREADS
