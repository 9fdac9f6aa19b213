"""The page, as a browser shows it."""

import shutil
import threading
import time

import pytest
import runs
import uvicorn

from jaxad.inference import predictor
from jaxad.serving import app, server
from jaxad.serving.service import Service

webdriver = pytest.importorskip("selenium.webdriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("no chromium with its chromedriver here", allow_module_level=True)

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402


@pytest.fixture(scope="module")
def address(whole):
    """Of a service with two categories, in this process."""
    detector = predictor.load(whole)
    service = Service({"nut": detector, "cap": detector}, batch_size=1)
    service.start()
    listening = server.bind("127.0.0.1", 0)
    config = uvicorn.Config(app.make(service), http="h11", ws="none", log_config=None)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    running.should_exit = True
    thread.join()
    service.stop()


@pytest.fixture
def page(address, tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{option}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get(address)
    yield driver
    driver.quit()


def text(page, name, contains):
    """That of an element, as soon as it contains something."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = page.find_element(By.ID, name).text
        if contains in found:
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def test_a_picture_is_judged_on_the_page(page, things, tmp_path):
    runs.picture(tmp_path / "part.png", 0, bad=True)
    (tmp_path / "no.png").write_bytes(b"no picture")
    assert "normal images are called anomalous" in text(page, "about", "On average")
    choice = Select(page.find_element(By.ID, "category"))
    assert [one.text for one in choice.options] == ["nut", "cap"]
    choice.select_by_visible_text("cap")
    files = [things / "test/square/0.png", tmp_path / "no.png"]
    page.find_element(By.ID, "files").send_keys("\n".join(map(str, files)))
    assert text(page, "told", "judged") == "1 judged, 1 not."
    failed, judged = page.find_elements(By.CSS_SELECTOR, "#results li")
    assert "not judged · no.png is not an image" in failed.text
    assert judged.text.startswith("0.png\nanomalous · score ")
    image = judged.find_element(By.TAG_NAME, "img")
    assert image.get_property("naturalWidth") > 400
    assert image.get_attribute("alt").startswith("0.png and its anomaly map: anomalous")
    # Nothing but the refusal that was asked for, and that it was not ready at first.
    lines = [line["message"] for line in page.get_log("browser")]
    lines = [line for line in lines if "503 (Service" not in line]
    assert len(lines) == 1 and "415" in lines[0]


def test_in_the_dark_on_a_phone(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True},
    )
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [dark]})
    text(page, "about", "On average")
    body = page.find_element(By.TAG_NAME, "body")
    ink, paper = (
        sum(map(int, body.value_of_css_property(name).strip("rgba()").split(",")[:3]))
        for name in ("color", "background-color")
    )
    assert ink - paper > 400
    wide = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert page.execute_script(wide)
