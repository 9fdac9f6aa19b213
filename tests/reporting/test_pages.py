"""Reports of runs: what a page says, of what kind of run, and what it refuses."""

import html.parser
import json
import os
import pathlib
import re
import shutil

import made
import numpy as np
import pytest
import scipy.ndimage

from jaxad import config as config_lib
from jaxad import metrics, statistics
from jaxad.errors import InputError
from jaxad.inference.thumbnails import Thumbnails
from jaxad.reporting import charts, gallery, pages, reading
from jaxad.run import identity, results


class Page(html.parser.HTMLParser):
    """The text of a page, its tags and their attributes, and its tables' rows."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.open, self.rows = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in ("meta", "img", "input", "line", "path", "circle", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # they close in order

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)
            if {"th", "td"} & set(self.open):
                self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def having(self, word):
        """Attributes of the tags that have a class."""
        found = [attrs for _, attrs in self.tags]
        return [a for a in found if word in (a.get("class") or "").split()]

    def row(self, first):
        """Cells of the first row that begins so."""
        cells = [[" ".join(c.split()) for c in row] for row in self.rows]
        return next(row for row in cells if row and row[0] == first)


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'class="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two categories, the first of which was trained; and its scores."""
    folder = tmp_path_factory.mktemp("made") / "a run"
    found = made.run(folder, ("cap", "nut"), draw=3, shift=0.9, overlays=2)
    made.curves(folder / "cap/stage one")
    return folder, found


@pytest.fixture(scope="module")
def page(run):
    return Page(pages.write(run[0]))


def test_a_page_is_one_file_that_asks_for_nothing(run, page):
    text = (run[0] / "report.html").read_text(encoding="utf-8")
    text = re.sub(r'"data:image/[^"]*"', "", text)
    assert not re.findall(r"//\w", text)
    assert "url(" not in text and "@import" not in text
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object")
        if "src" in attrs:
            assert attrs["src"].startswith("data:image/")
        if "href" in attrs:
            assert attrs["href"] in ("results.json", "config.json") or attrs[
                "href"
            ].startswith("#")
    assert page.open == []


def test_a_page_says_what_was_found(run, page):
    _, found = run
    labels = made.split().labels
    for name in ("cap", "nut"):
        area = metrics.auroc(found[name], labels)
        low, high = statistics.auroc_interval(found[name], labels)
        cells = page.row(name)
        assert cells[1:4] == ["40", "12", "10"]
        assert cells[4] == f"{100 * area:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    decided = reading.run(run[0]).categories[0].threshold
    above = decided.verdicts(found["cap"])
    alarms, misses = int(above[labels == 0].sum()), int((~above[labels == 1]).sum())
    assert 0 < misses < 10
    assert page.row("cap")[-2:] == [
        f"{alarms} of 12 ({100 * alarms / 12:.1f} %)",
        f"{misses} of 10 ({10 * misses:.1f} %)",
    ]
    assert decided.guarantee() in page.text
    assert page.text.count("On average at most 4.9 % of new normal images") == 2
    # Kinds of defects, the normal ones told apart.
    kinds = np.array(made.split().defect_types)
    cut = found["cap"][kinds == "cut"]
    assert page.row("cut")[1:3] == [
        "5", f"{int((cut > decided.value).sum())} of 5 "
        f"({20 * (cut > decided.value).sum():.1f} %)",
    ]  # fmt: skip
    normal = found["cap"][kinds == "good"]
    area = np.mean(cut[:, None] > normal)
    assert page.row("cut")[4] == f"{100 * area:.2f}"
    assert page.row("good (normal)")[4] == "–"


def test_a_page_has_what_its_script_needs(run, page):
    path, (_, found) = run[0] / "report.html", run
    data = data_of(path)
    np.testing.assert_array_equal(np.float32(data["scores"]), found["cap"])
    assert data["labels"] == made.split().labels.tolist()
    assert len(data["calibration"]) == 40
    cards = page.having("card")
    assert len(cards) == 2 * (22 + 3)
    shown = [float(card["data-score"]) for card in cards[:22]]
    assert shown == sorted(shown, reverse=True)
    outcomes = [card["data-outcome"] for card in cards[:25]]
    assert outcomes[22:] == ["suspect"] * 3
    value = data["threshold"]
    for card in cards[:22]:
        above = float(card["data-score"]) > value
        expected = {"1": ("miss", "hit"), "0": ("pass", "false_alarm")}
        assert card["data-outcome"] == expected[card["data-label"]][above]
    # Of every outcome the first ten are printed.
    assert sum("more" in card["class"] for card in cards) < 12
    assert len(page.having("mask")) == 2 * 10
    assert len(page.having("map")) == 2 * 25


def test_a_page_draws_curves(page):
    lines = [attrs["d"] for attrs in page.having("curve")]
    assert len(lines) == 2 * 2 + 1  # of two categories, and the loss
    assert all(re.fullmatch(r"M[\d. L-]+", line) for line in lines)
    assert "Training: stage one" in page.text
    assert len(page.having("area")) == 2 * 3
    assert len(page.having("threshold")) == 2


def test_a_page_tells_the_config_from_its_defaults(page):
    assert page.row("overlays")[1:3] == ["2", "4"]
    assert page.row("small")[1] == f"random, SHA-256 {'ab' * 32}"
    assert page.row("fit")[1] == "1.2 s" and page.row("python")[1] == "3.12"
    changed = [row for row in page.rows if len(row) == 4 and row[0].startswith("over")]
    assert len(changed) == 1
    assert ["batch_size", "16"] in [[c.strip() for c in row] for row in page.rows]


def test_a_page_tells_the_config_from_its_file(tmp_path):
    made.run(tmp_path / "run", seed=3, batch_size=4)
    file, config = config_lib.base(), config_lib.base()
    file.batch_size = 4
    config.batch_size, config.seed = 4, 3
    identity.note_config_file(tmp_path / "run", "mine.py:a=<b>", file, config)
    page = Page(pages.write(tmp_path / "run"))
    assert "What is not as mine.py:a=<b> has it:" in page.text
    assert page.row("seed")[1:3] == ["3", "0"]
    assert len(page.row("batch_size")) == 2  # among all fields alone
    (tmp_path / "run/config_file.json").unlink()
    identity.note_config_file(tmp_path / "run", "mine.py", config, config)
    identity.note_config_file(tmp_path / "run", "other.py", file, config)  # in vain
    assert "All is as mine.py has it." in Page(pages.write(tmp_path / "run")).text


def test_names_are_text_whatever_they_hold(tmp_path):
    images = made.split()
    images.filenames[0] = "<script>alert(1)</script>&.png"
    images.filenames[1] = os.fsdecode(b"gr\xfcn/\xff.png")
    images.defect_types[12:] = ["</script><b>"] * 10
    made.run(tmp_path / "run", ("<i>",), images=images)
    page = Page(pages.write(tmp_path / "run"))
    assert "<script>alert(1)</script>&.png" in page.text
    assert "gr?n/?.png" in page.text
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert len(scripts) == 2  # the data and the page's own
    assert "</script><b>" in page.text and page.row("<i>")[1] == "40"


def test_a_run_without_a_threshold(tmp_path):
    made.run(tmp_path / "run", decided=False)
    page = Page(pages.write(tmp_path / "run"))
    assert "No threshold was asked for (config.threshold)" in page.text
    assert "so its numbers flatter" in page.text
    assert {card["data-outcome"] for card in page.having("card")} == {""}
    assert page.row("cap")[-2:] == ["–", "–"]


@pytest.mark.parametrize(("normal", "anomalous"), [(0, 0), (5, 0), (0, 5), (4, 1)])
def test_few_test_images(tmp_path, normal, anomalous):
    images = made.split(normal=normal, anomalous=anomalous)
    made.run(tmp_path / "run", images=images)
    page = Page(pages.write(tmp_path / "run"))
    assert page.having("curve") == []
    assert len(page.having("card")) == normal + anomalous + 3
    assert ("There are no test images." in page.text) == (normal + anomalous == 0)


def test_runs_from_before_there_were_thumbnails(tmp_path):
    made.run(tmp_path / "run")
    for name in ("thumbnails.npz", "suspects.npz", "defect_types.csv"):
        (tmp_path / "run/cap" / name).unlink()
    page = Page(pages.write(tmp_path / "run"))
    assert page.text.count("no picture") == 22
    assert "Kinds of defects" not in page.text


def test_pictures_that_were_drawn_are_linked(tmp_path):
    made.run(tmp_path / "run")
    maps = tmp_path / "run/cap/maps"
    maps.mkdir()
    for name in ("hit_1_test_cut_12", "suspect_2_train_3", "hit_2_elsewhere"):
        (maps / f"{name}.png").touch()
    page = Page(pages.write(tmp_path / "run"))
    full = [card["data-full"] for card in page.having("card") if "data-full" in card]
    assert full == ["cap/maps/hit_1_test_cut_12.png"]
    page = Page(pages.write(tmp_path / "run", tmp_path / "other/far.html"))
    full = [card["data-full"] for card in page.having("card") if "data-full" in card]
    assert full == ["../run/cap/maps/hit_1_test_cut_12.png"]


# ---- Weight


def noisy():
    """A thumbnail that takes as much as any."""
    found, random = Thumbnails(), np.random.default_rng(0)
    mask = np.zeros((192, 192), np.uint8)
    mask[20:90, 30:160] = 1
    smooth = scipy.ndimage.gaussian_filter(random.random((192, 192)), 8)
    image, geometry = random.random((192, 192, 3)), made.Geometry((192, 192))
    found.add(0, image, smooth, mask, geometry, (192, 192))
    return found.get(0)


def test_two_thousand_images_fit_into_ten_megabytes(tmp_path):
    one, scale = noisy(), gallery.pictures.Scale(0.4, 0.6, 0.5)
    album = gallery.Album(tmp_path / "a.html", [one] * 2000)
    layers = album.add(one, scale)
    weight = sum(map(len, (layers.image, layers.map, layers.mask)))
    assert len(one.image) > 10_000 and weight * 2000 < 10_000_000
    assert (layers.width, layers.height) == (192, 192)
    assert list(tmp_path.iterdir()) == []
    # Fewer need not be made smaller.
    few = gallery.Album(tmp_path / "a.html", [one] * 20).add(one, scale)
    assert len(few.image) > 3 * len(layers.image)


def test_more_images_lie_beside_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "MOST", 20)
    made.run(tmp_path / "run")
    page = Page(pages.write(tmp_path / "run", tmp_path / "two words.html"))
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 2 * 25 + 10
    assert "two%20words_files/000001.webp" in sources
    there = {
        f"two%20words_files/{p.name}" for p in (tmp_path / "two words_files").iterdir()
    }
    assert set(sources) == there


# ---- When it is written


def test_after_a_run_a_page_is_written_once(tmp_path, caplog):
    made.run(tmp_path)
    pages.after(str(tmp_path))
    path = tmp_path / "report.html"
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))
    before = path.stat().st_mtime_ns
    pages.after(str(tmp_path))
    assert path.stat().st_mtime_ns == before
    os.utime(path, ns=(1, 1))  # of results that were there before
    pages.after(str(tmp_path))
    assert path.stat().st_mtime_ns > before - 10**10
    assert caplog.text == ""


def test_a_run_ends_well_without_its_page(tmp_path, caplog):
    made.run(tmp_path)
    (tmp_path / "report.html").mkdir()
    os.utime(tmp_path / "report.html", ns=(1, 1))
    pages.after(str(tmp_path))
    assert "no report: " in caplog.text and "cannot be written" in caplog.text
    shutil.rmtree(tmp_path / "report.html")
    (tmp_path / "cap/thumbnails.npz").write_bytes(b"x")
    pages.after(str(tmp_path))
    assert "thumbnails.npz is damaged" in caplog.text


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "config.json does not exist; name the --workdir of a run or"),
        ("results.json", "is not finished: it has no results.json; give the command"),
        ("cap/scores.csv", "scores.csv does not exist"),
    ],
)
def test_what_is_no_finished_run(tmp_path, missing, message):
    made.run(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=message):
        pages.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_damaged_files_are_named(tmp_path):
    made.run(tmp_path)
    made.curves(tmp_path / "cap/ncl", 3)
    curves = tmp_path / "cap/ncl/metrics.jsonl"
    curves.write_text(curves.read_text() + '{"loss": 1}\n')
    with pytest.raises(InputError, match="metrics.jsonl: line 4 is no line of curves"):
        pages.write(tmp_path)
    curves.unlink()
    (tmp_path / "cap/scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="scores.csv has no columns file and score"):
        pages.write(tmp_path)


# ---- Studies


def test_a_study_has_a_line_a_row(tmp_path):
    for row, shift in (("wide", 2.0), ("narrow", 1.0)):
        for seed in (0, 1):
            folder = tmp_path / row / str(seed)
            fields = {"coreset.ratio": shift / 10, "feature_cache": row}
            made.run(folder, draw=10 * seed, shift=shift, seed=seed, **fields)
    made.study(tmp_path, "wide", "narrow")
    plots = tmp_path / "plots"
    plots.mkdir()
    for name in ("gone_dots.svg", "mine.svg"):
        (plots / name).touch()
    assert pages.after_study(str(tmp_path)) == tmp_path / "report.html"
    assert (plots / "image_auroc_dots.svg").exists() and (plots / "mine.svg").exists()
    assert not (plots / "gone_dots.svg").exists()
    page = Page(tmp_path / "report.html")
    for row, shift in (("wide", 2.0), ("narrow", 1.0)):
        images = made.split()
        areas = [
            100 * metrics.auroc(made.scores_of(images, seed, shift), images.labels)
            for seed in (0, 10)
        ]
        spread = f"{np.mean(areas):.2f} ± {np.std(areas, ddof=1):.2f}"
        assert page.row(row)[1:3] == ["2", spread]
    links = [attrs["href"] for tag, attrs in page.tags if "href" in attrs]
    assert set(links) == {
        f"{r}/{s}/report.html" for r in ("wide", "narrow") for s in "01"
    }
    assert all((tmp_path / link).exists() for link in links)
    assert page.row("coreset.ratio")[1:] == ["0.2", "0.1"]
    assert not [row for row in page.rows if row[0] in ("seed", "feature_cache")]
    assert len(page.having("dot")) == 2 * 2 * 2  # two metrics


def test_a_study_of_backbones_has_no_page(tmp_path, caplog):
    for row in ("wide", "narrow"):
        probed = {"probes": {}, "mean": {"spread": 0.5, "knn_accuracy": 0.25}}
        results.write_json(tmp_path / row / "0/results.json", probed)
        results.write_json(tmp_path / row / "0/config.json", {})
    made.study(tmp_path, "wide", "narrow")
    assert pages.after_study(str(tmp_path)) is None
    assert not (tmp_path / "report.html").exists() and caplog.text == ""
    lines = (tmp_path / "study.md").read_text().splitlines()
    assert lines[2] == "| row | runs | spread | knn_accuracy |"
    assert lines[4] == "| wide | 1 | 0.5000 | 0.2500 |"


# ---- Charts


def test_places_by_hand():
    axes = charts.Axes((0, 10), (0, 1), width=120, height=60, left=10, right=10,
                       top=5, bottom=5)  # fmt: skip
    assert [axes.x(v) for v in (0, 2.5, 10)] == [10, 35, 110]
    assert [axes.y(v) for v in (0, 0.5, 1)] == [55, 30, 5]
    assert axes.line([0, 10], [0, 1]) == "M10.0 55.0L110.0 5.0"
    band = axes.band(np.array([0, 10]), np.array([0, 0]), np.array([1, 1]))
    assert band == "M10.0 5.0L110.0 5.0L110.0 55.0L10.0 55.0Z"
    assert axes.line([], []) == "" == axes.band([], [], [])
    long = axes.line(np.linspace(0, 10, 5000), np.zeros(5000))
    assert long.count("L") == 399 and long.endswith("L110.0 55.0")


def test_histograms_are_shares():
    drawn = charts.histograms([("a", "A", [0.5, 0.5, 1.5, 1.5]), ("b", "B", []),
                               ("c", "C", [1.5])], 0, 2, bins=2)  # fmt: skip
    assert [(g.name, g.count) for g in drawn.groups] == [("a", 4), ("c", 1)]
    first, second = (re.findall(r"[\d.]+ ([\d.]+)", g.area) for g in drawn.groups)
    # The highest share, all of "c", is 54 high; half of "a" half of that.
    assert [float(y) for y in first] == [82, 55, 55, 55, 55, 82]
    assert [float(y) for y in second] == [156, 156, 156, 102, 102, 156]


def test_ranges_are_never_empty():
    assert charts.spread([]) == (0, 1)
    assert charts.spread([2.0], [2.0]) == (1.9, 2.1)
    assert charts.spread([0.0]) == (-1, 1)
    low, high = charts.spread([0, 100.0], [50])
    assert (low, high) == (-2, 102)
    assert charts.least_share(np.array([0.64, 0.9])) == pytest.approx(0.6)
    assert charts.least_share(np.array([0.0])) == 0
    assert pathlib.Path(pages.__file__).with_name("templates").is_dir()
