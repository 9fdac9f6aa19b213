"""A report as a browser shows it: the slider, the gallery, keys, phones, paper."""

import pathlib
import shutil

import made
import numpy as np
import pytest

from jaxad.reporting import pages, reading

webdriver = pytest.importorskip("selenium.webdriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("no chromium with its chromedriver here", allow_module_level=True)

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

OPTIONS = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-dev-shm-usage",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)
ERRORS = ("SEVERE", "WARNING")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in OPTIONS:
        options.add_argument(f"--{option}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The address of a report, its scores, its threshold, and its labels."""
    folder = tmp_path_factory.mktemp("made")
    scores = made.run(folder, draw=3, shift=0.9)["cap"]
    page = pages.write(folder)
    decided = reading.run(folder).categories[0].threshold
    return page.as_uri(), scores, decided.value, made.split().labels


@pytest.fixture
def page(browser, report):
    """The report, anew; nothing may have been complained of when the test ends."""
    show(browser, 1200, 900)
    browser.get(report[0])
    yield browser
    log = browser.get_log("browser")
    assert [line for line in log if line["level"] in ERRORS] == []


def show(browser, width, height, *, mobile=False, **features):
    """A screen of that size, with media features such as a dark scheme."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", metrics | {"mobile": mobile}
    )
    media = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})


def one(page, selector):
    return page.find_element(By.CSS_SELECTOR, selector)


def shown(page):
    """Files of the cards that are to be seen."""
    cards = page.find_elements(By.CSS_SELECTOR, ".card:not([hidden]) .file")
    return [card.get_attribute("textContent") for card in cards]


def told(page):
    parts = ("value", "false-alarms", "misses", "promised")
    return [one(page, f".{part}").text for part in parts]


def expected(threshold, scores, labels):
    alarms = int((scores[labels == 0] > threshold).sum())
    misses = int((scores[labels == 1] <= threshold).sum())
    return [
        f"{alarms} of 12 ({100 * alarms / 12:.1f} %)",
        f"{misses} of 10 ({100 * misses / 10:.1f} %)",
    ]


def test_it_opens_with_the_runs_own_numbers(page, report):
    _, scores, value, labels = report
    assert told(page)[1:3] == expected(value, scores, labels)
    assert told(page)[0] == f"{value:.5g}"
    counts = {
        count.get_attribute("data-of"): int(count.text)
        for count in page.find_elements(By.CSS_SELECTOR, ".count")
    }
    above = scores > value
    assert counts == {
        "all": 22,
        "hit": int(above[labels == 1].sum()),
        "miss": int((~above[labels == 1]).sum()),
        "false_alarm": int(above[labels == 0].sum()),
        "pass": int((~above[labels == 0]).sum()),
        "suspect": 3,
    }


def test_keys_move_the_threshold_and_all_numbers(page, report):
    _, scores, value, labels = report
    before = told(page)
    pull = one(page, ".pull")
    line = one(page, ".threshold").get_attribute("transform")
    pull.send_keys(Keys.HOME)
    assert told(page)[1:3] == ["12 of 12 (100.0 %)", "0 of 10 (0.0 %)"]
    assert one(page, ".promised").text == "100.00"
    assert one(page, ".threshold").get_attribute("transform") != line
    assert one(page, "td.above").text == "5 of 5 (100.0 %)"
    assert one(page, ".count[data-of=hit]").text == "10"
    pull.send_keys(Keys.END)
    assert told(page)[1:3] == ["0 of 12 (0.0 %)", "10 of 10 (100.0 %)"]
    assert one(page, ".count[data-of=miss]").text == "10"
    pull.send_keys(Keys.ARROW_LEFT * 300)
    moved = float(pull.get_attribute("value"))
    assert told(page)[1:3] == expected(moved, scores, labels)
    one(page, ".back").send_keys(Keys.ENTER)
    assert told(page) == before


def test_the_threshold_is_dragged(page, report):
    _, scores, _, labels = report
    svg = one(page, ".histogram")
    width = svg.size["width"]
    drag = webdriver.ActionChains(page).move_to_element_with_offset(svg, 0, 0)
    drag.click_and_hold().move_by_offset(int(-width / 4), 5).release().perform()
    at = float(one(page, ".pull").get_attribute("value"))
    box = page.execute_script("return JSON.parse(document.querySelector('.data').text)")
    share = (at - box["low"]) / (box["high"] - box["low"])
    assert 0.22 < share < 0.28
    assert told(page)[1:3] == expected(at, scores, labels)


def test_the_gallery_filters_and_sorts(page, report):
    _, scores, value, labels = report
    files = made.split().filenames
    falling = [files[i] for i in np.argsort(-scores, kind="stable")]
    assert shown(page) == falling
    one(page, "input[value=miss]").click()
    missed = [files[i] for i in np.flatnonzero((labels == 1) & (scores <= value))]
    assert missed and sorted(shown(page)) == sorted(missed)
    # By keys: the next of the group.
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    passed = [files[i] for i in np.flatnonzero((labels == 0) & (scores <= value))]
    assert sorted(shown(page)) == sorted(passed)
    one(page, "input[value=suspect]").click()
    assert shown(page) == suspects(report)
    one(page, "input[value=all]").click()
    one(page, ".kind option:nth-child(3)").click()
    assert {name.split("/")[1] for name in shown(page)} == {"dent, deep"}
    one(page, ".kind option:nth-child(1)").click()
    one(page, ".order option[value=rising]").click()
    assert shown(page) == falling[::-1]
    one(page, ".order option[value=file]").click()
    assert sorted(shown(page)) == shown(page)


def suspects(report):
    """Files of the three that are shown, the worst first."""
    folder = pathlib.Path(report[0].removeprefix("file://")).parent
    rows = (folder / "cap/suspects.csv").read_text().splitlines()[1:4]
    return [row.split(",")[1] for row in rows]


def test_the_layers_fade(page):
    slider, image = one(page, ".controls .layers input"), ".card .stack"

    def opacity():
        return [
            float(one(page, f"{image} .{layer}").value_of_css_property("opacity"))
            for layer in ("map", "mask")
        ]

    assert opacity() == [1, 0]
    slider.send_keys(Keys.HOME)
    assert opacity() == [0, 0]
    slider.send_keys(Keys.END)
    assert opacity() == [0, 1]


def test_an_image_is_looked_at_closely_by_keys_alone(page, report):
    files = made.split().filenames
    order = [files[i] for i in np.argsort(-report[1], kind="stable")]
    card = one(page, ".card")
    card.send_keys(Keys.ENTER)
    title = one(page, "#zoom-title")
    assert one(page, "#zoom").get_attribute("open") and title.text == order[0]
    view = one(page, "#zoom-view .stack img")
    assert view.size["width"] > 300 and view.get_property("naturalWidth") == 80
    one(page, "#zoom-on").send_keys(Keys.ARROW_RIGHT)
    assert title.text == order[1]
    one(page, "#zoom-back").send_keys(Keys.ARROW_LEFT)
    one(page, "#zoom-back").send_keys(Keys.ARROW_LEFT)  # there is none before
    assert title.text == order[0]
    one(page, "#zoom-layer").send_keys(Keys.HOME)
    map_ = one(page, "#zoom-view .map")
    assert float(map_.value_of_css_property("opacity")) == 0
    one(page, "#zoom-layer").send_keys(Keys.ESCAPE)
    assert not one(page, "#zoom").get_attribute("open")
    assert page.switch_to.active_element == card


def test_every_picture_is_one(page):
    page.execute_script(
        "document.querySelectorAll('img').forEach(one => one.loading = 'eager')"
    )
    sizes = page.execute_async_script(
        "const done = arguments[0], all = [...document.querySelectorAll('img')];"
        "Promise.all(all.map(one => one.decode())).then("
        "() => done(all.map(one => one.naturalWidth)), error => done(String(error)));"
    )
    assert len(sizes) == 25 * 2 + 10 and min(sizes) > 0


def test_on_a_phone_nothing_sticks_out(page):
    show(page, 360, 740, mobile=True)
    wide = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert page.execute_script(wide)
    assert one(page, ".card").size["width"] < 180


def lightness(colour):
    return sum(map(int, colour.strip("rgba()").split(",")[:3]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_the_dark(page, scheme):
    show(page, 1200, 900, prefers_color_scheme=scheme)
    body = one(page, "body")
    paper = lightness(body.value_of_css_property("background-color"))
    ink = lightness(body.value_of_css_property("color"))
    label = lightness(one(page, "svg text.group").value_of_css_property("fill"))
    assert (paper < ink) == (scheme == "dark")
    assert abs(paper - ink) > 400 and abs(paper - label) > 400


def test_on_paper_there_are_no_controls(page):
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    for selector in (".controls", ".pull", ".back"):
        assert not one(page, selector).is_displayed()
    for selector in (".histogram", ".verdict", ".card", "table"):
        assert one(page, selector).is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_without_javascript(browser, report):
    uri, scores, value, labels = report
    off = {"value": True}
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", off)
    try:
        show(browser, 1200, 900)
        browser.get(uri)
        assert told(browser)[1:3] == expected(value, scores, labels)
        assert not one(browser, ".controls").is_displayed()
        assert not one(browser, ".pull").is_displayed()
        cards = browser.find_elements(By.CSS_SELECTOR, ".card")
        assert len(cards) == 25 and all(card.is_displayed() for card in cards)
        top = int(np.argmax(scores))
        outcome = {1: "hit", 0: "false alarm"}[int(labels[top])]
        assert one(browser, ".card .outcome").text == outcome
    finally:
        off["value"] = False
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", off)


def test_a_comparison_and_a_study_complain_of_nothing(browser, tmp_path):
    for name in ("wide", "narrow"):
        made.run(tmp_path / name / "0", draw=len(name))
    folders = [tmp_path / name / "0" for name in ("wide", "narrow")]
    compared = pages.write_comparison(folders, tmp_path / "c.html")
    made.study(tmp_path, "wide", "narrow")
    pages.after_study(str(tmp_path))
    browser.get_log("browser")
    for path in (compared, tmp_path / "report.html"):
        browser.get(path.as_uri())
        assert one(browser, "h1").text
    log = browser.get_log("browser")
    assert [line for line in log if line["level"] in ERRORS] == []
