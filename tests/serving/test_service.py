"""The service as its clients meet it, with a small detector."""

import asyncio
import base64
import dataclasses
import io
import json
import struct
import threading
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from jaxad.inference import places, predictor
from jaxad.inference.regions import regions
from jaxad.serving import app
from jaxad.serving.refusals import Limits
from jaxad.serving.service import Service

LIMITS = Limits(body=200_000, pixels=10_000, images=6)


@pytest.fixture(scope="module")
def detector(whole):
    return predictor.load(whole)


@pytest.fixture(scope="module")
def service(detector):
    made = Service({"things": detector, "others": detector}, LIMITS, batch_size=2)
    made.start()
    assert made.batcher.ready.wait(120)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def client(service):
    return TestClient(app.make(service))


@pytest.fixture(scope="module")
def bad(things):
    return (things / "test/square/0.png").read_bytes()


@pytest.fixture(scope="module")
def good(things):
    return (things / "test/good/0.png").read_bytes()


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def form(*contents, category="things", name="part.png", **fields):
    files = [("image", (name, content)) for content in contents]
    return {"files": files, "data": {"category": category, **fields}}


def body(*contents, category="things", **fields):
    listed = [{"data": base64.b64encode(one).decode()} for one in contents]
    return {"json": {"images": listed, "category": category, **fields}}


def post(client, **request):
    return client.post("/v1/predict", **request)


# ---- Answers


def test_an_answer_is_what_the_detector_says(client, detector, things, bad):
    answer = post(client, **form(bad)).json()
    want = detector.predict(things / "test/square/0.png")
    assert answer["category"] == "things"
    assert answer["threshold"] == detector.threshold.value
    (found,) = answer["results"]
    assert found == {
        "name": "part.png",
        "width": 64,
        "height": 64,
        "score": want.score,
        "p_value": want.p_value,
        "verdict": "anomalous",
        "regions": regions(want.map, detector.pixel_threshold),
        "note": None,
    }


def test_several_are_in_order_and_json_says_the_same(client, detector, bad, good):
    contents = [good, bad, good, bad, bad]
    found = post(client, **form(*contents)).json()["results"]
    want = [detector.predict(Image.open(io.BytesIO(one))).score for one in contents]
    np.testing.assert_allclose([one["score"] for one in found], want, rtol=1e-5)
    again = post(client, **body(*contents)).json()["results"]
    assert [one["name"] for one in again] == [f"image {i}" for i in range(5)]
    assert [one["verdict"] for one in again] == [one["verdict"] for one in found]


def test_a_map_as_values(client, detector, things, bad):
    (found,) = post(client, **body(bad, map="values")).json()["results"]
    with Image.open(io.BytesIO(base64.b64decode(found["map"]["png"]))) as image:
        levels = np.asarray(image).astype(float)
    low, high = found["map"]["low"], found["map"]["high"]
    want = detector.predict(things / "test/square/0.png").map
    assert (low, high) == (want.min(), want.max())
    np.testing.assert_allclose(
        low + (levels - 1) / 65534 * (high - low), want, atol=(high - low) / 60000
    )


def test_a_map_as_a_picture(client, bad):
    (found,) = post(client, **form(bad, map="picture")).json()["results"]
    with Image.open(io.BytesIO(base64.b64decode(found["map"]["png"]))) as image:
        assert image.mode == "RGB" and min(image.size) > 400
        assert image.getpixel((20, 24)) == (200, 30, 30)  # the verdict's colour


def test_pictures_of_all_kinds(client, good):
    with Image.open(io.BytesIO(good)) as image:
        image = image.convert("RGB")
    deep = Image.fromarray(np.full((40, 50), 30_000, np.uint16))
    several = {"save_all": True, "append_images": [image.rotate(90)]}
    kinds = [
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(deep, "PNG"),
        encoded(deep, "TIFF"),
        encoded(image.convert("P"), "GIF"),
    ]
    answer = post(client, **form(*kinds))
    assert answer.status_code == 200, answer.text
    assert {one["note"] for one in answer.json()["results"]} == {None}
    for kind in ("GIF", "TIFF"):
        (found,) = post(client, **form(encoded(image, kind, **several))).json()[
            "results"
        ]
        assert found["note"].endswith("only the first one is looked at")


def test_what_there_is(client, detector, service):
    found = client.get("/v1/categories").json()["categories"]
    assert [one["name"] for one in found] == ["things", "others"]
    assert found[0]["image_size"] == [32, 32]
    assert found[0]["guarantee"] == detector.threshold.guarantee()
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.head("/readyz").status_code == 200
    schema = client.get("/openapi.json").json()
    operation = schema["paths"]["/v1/predict"]["post"]
    assert set(operation["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/json",
    }
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")  # nothing from elsewhere


# ---- Refusals


def png(width, height, data=b""):
    """A PNG whose header may say more than there is."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header)]
        + [chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    )


def raw(content, kind="application/json", **headers):
    return {"content": content, "headers": {"content-type": kind, **headers}}


SMALL = encoded(Image.effect_noise((20, 20), 50))
NAN = encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF")
PART = (
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    + SMALL
    + b"\r\n"
)
FORM = "multipart/form-data; boundary=x"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
REFUSED = {
    "truncated": (form(SMALL[:90]), 422, "unreadable_image", "part.png cannot be"),
    "empty": (form(b""), 400, "bad_request", "part.png is empty"),
    "text": (form(b"hello"), 415, "not_an_image", "part.png is not an image; PNG"),
    "zip": (form(b"PK\3\4" + bytes(99)), 415, "not_an_image", "part.png is not an im"),
    # Pillow would start Ghostscript.
    "a program": (form(EPS), 415, "not_an_image", "part.png is not an image"),
    "bomb": (
        form(png(100_000, 100_000, bytes(99))),
        413,
        "too_many_pixels",
        "part.png has 100000 x 100000 pixels, more than 10000",
    ),
    "together": (
        form(*[png(100, 90)] * 5),
        413,
        "too_many_pixels",
        "the images have 45000 pixels together, more than 40000",
    ),
    "NaN": (form(NAN), 422, "unreadable_image", "part.png cannot be read (32-bit val"),
    "one of two": (form(SMALL, b"x"), 415, "not_an_image", "part.png is not an image"),
    "folders": (form(SMALL, name="../a.png"), 400, "bad_name", "image 0 is called '.."),
    "Windows": (
        {"json": {"images": [{"name": "C:\\a.png", "data": ""}]}},
        400,
        "bad_name",
        "image 0 is called 'C:",
    ),
    "long": (form(SMALL, name="a" * 300), 400, "bad_name", "the name of image 0 has 3"),
    "a path": (
        {"files": {"image": (None, "/etc/passwd")}},
        400,
        "bad_request",
        "image is text, and has to be the file itself",
    ),
    "no image": (
        {"files": {"category": (None, "things")}},
        400,
        "bad_request",
        "the form has no image",
    ),
    "category": (
        form(SMALL, category="thing"),
        404,
        "unknown_category",
        "there is no category 'thing' (did you mean 'things'?); there are things, o",
    ),
    "no category": (
        {"files": {"image": ("a.png", SMALL)}},
        400,
        "bad_request",
        "category is missing; it may be things, others",
    ),
    "field": (
        form(SMALL, mapp="x"),
        400,
        "bad_request",
        "the form has no field 'mapp'",
    ),
    "map": (form(SMALL, map="value"), 400, "bad_request", "map is 'value' (did you me"),
    "many": (form(*[SMALL] * 7), 413, "too_many_images", "a request takes 6 images"),
    "too many": (form(*[SMALL] * 9), 400, "bad_request", "the form cannot be read"),
    "cut off": (raw(PART + PART[:-9], FORM), 400, "bad_request", "the form is cut off"),
    "no boundary": (
        raw(PART, "multipart/form-data"),
        400,
        "bad_request",
        "the form cannot be read (Missing boundary",
    ),
    "kind": (
        raw(SMALL, "image/png"),
        415,
        "unsupported_media_type",
        "Content-Type is image/png; send a form",
    ),
    "packed": (
        raw(b"{}", **{"content-encoding": "gzip"}),
        415,
        "unsupported_media_type",
        "a body with Content-Encoding gzip is not taken",
    ),
    "no JSON": (raw(b"{"), 400, "bad_request", "the JSON cannot be read: Invalid JSON"),
    "deep": (raw(b"[" * 9999), 400, "bad_request", "the JSON cannot be read: Invalid"),
    "not a number": (
        raw(b'{"images": NaN}'),
        400,
        "bad_request",
        "the JSON cannot be read: images: Input should be a valid array",
    ),
    "path in JSON": (
        {"json": {"images": [{"data": "/etc/passwd"}]}},
        400,
        "bad_request",
        "data of image 0 is not base64",
    ),
    "more": (
        {"json": {"images": [], "path": "/"}},
        400,
        "bad_request",
        "the JSON cannot be read: images: List should have at least 1 item",
    ),
    "large": (
        raw(bytes(200_001)),
        413,
        "body_too_large",
        "the body is larger than 0.1907 MB; send fewer or smaller images",
    ),
    "address": (
        {**form(SMALL), "params": {"map": "picture"}},
        400,
        "bad_request",
        "nothing is read from behind the ?",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_told_in_one_form(case, client, service):
    request, status, code, message = REFUSED[case]
    answer = post(client, **request)
    assert answer.status_code == status, answer.text
    (told,) = answer.json().values()
    assert told["code"] == code and told["message"].startswith(message), told
    assert told["request_id"] == answer.headers["x-request-id"]
    assert service._images.taken == service._pixels.taken == service.bytes.taken == 0


def test_other_addresses(client):
    answer = client.get("/v1/nothing", headers={"x-request-id": "mine-1"})
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "code": "not_found",
        "message": "there is nothing at /v1/nothing",
        "request_id": "mine-1",
    }
    assert client.get("/v1/predict").json()["error"]["code"] == "method_not_allowed"
    odd = client.get("/healthz", headers={"x-request-id": "a b\tc"})
    assert len(odd.headers["x-request-id"]) == 32


def asgi(service, chunks):
    """The status of a body that comes in chunks, and how many of them were taken."""
    sent, statuses = 0, []

    async def receive():
        nonlocal sent
        sent += 1
        return {"type": "http.request", "body": next(chunks), "more_body": True}

    async def send(message):
        statuses.append(message.get("status"))

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/predict",
        "raw_path": b"/v1/predict",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
        "scheme": "http",
    }
    asyncio.run(app.make(service)(scope, receive, send))
    return statuses[0], sent


def test_a_body_without_an_end_is_cut_off_while_it_arrives(service):
    def endless():
        while True:
            yield bytes(50_000)

    assert asgi(service, endless()) == (413, 5)
    assert service.bytes.taken == 0
    service.bytes.take(4 * LIMITS.body - 60_000)  # of others
    try:
        assert asgi(service, endless()) == (503, 2)
    finally:
        service.bytes.give_back(4 * LIMITS.body - 60_000)
    assert service.bytes.taken == 0


def test_a_defect_is_told_without_its_insides(client, service, good, monkeypatch):
    def fail(*_):
        raise RuntimeError("a secret place")

    monkeypatch.setattr(service.predictors["things"], "result", fail)
    answer = post(client, **form(good))
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal" and "secret" not in answer.text
    monkeypatch.undo()
    assert post(client, **form(good)).status_code == 200


def test_numbers_for_prometheus(client, bad):
    def numbers():
        lines = client.get("/metrics").text.splitlines()
        rows = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    before = numbers()
    post(client, **form(bad, bad, category="others")), post(client, **form(b"x"))
    after = numbers()
    gained = {
        name: after[name] - before.get(name, 0)
        for name in after
        if after[name] != before.get(name, 0) and not name.startswith("process_")
    }
    others = 'category="others"'
    assert gained[f'jaxad_images_total{{{others},verdict="anomalous"}}'] == 2
    assert gained['jaxad_requests_total{status="200"}'] == 1
    assert gained['jaxad_refusals_total{code="not_an_image"}'] == 1
    assert gained["jaxad_batch_images_sum"] == 2
    assert gained["jaxad_request_seconds_count"] == 2
    assert after[f"jaxad_drift_images{{{others}}}"] == 2
    # Two of the smallest p-value, 1/13: of twelve calibration images.
    assert after[f"jaxad_drift_ks{{{others}}}"] == pytest.approx(12 / 13)
    assert after["jaxad_images_in_flight"] == 0


# ---- Full, and not ready yet


@dataclasses.dataclass
class Slow:
    """Computes nothing before it is let."""

    detector: predictor.Predictor
    go: threading.Event = dataclasses.field(default_factory=threading.Event)

    def __getattr__(self, name):
        return getattr(self.detector, name)

    def scored(self, pixels):
        assert self.go.wait(60)
        return self.detector.scored(pixels)


def test_what_does_not_fit_is_told_to_come_again(detector, good):
    slow = Slow(detector)
    service = Service({"things": slow}, Limits(images=2), batch_size=1)
    client = TestClient(app.make(service))
    service.start()
    try:
        answer = post(client, **form(good))
        assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
        assert answer.json()["error"]["code"] == "not_ready"
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        slow.go.set()
        assert service.batcher.ready.wait(60)
        slow.go.clear()
        answers = []
        ask = threading.Thread(
            target=lambda: answers.append(post(client, **form(good, good)))
        )
        ask.start()
        while service._images.taken < 2:
            pass
        full = post(client, **form(good))
        assert full.status_code == 503 and int(full.headers["retry-after"]) >= 1
        assert full.json()["error"]["code"] == "busy"
        slow.go.set()
        ask.join(60)
        assert answers[0].status_code == 200 and service._images.taken == 0
        assert post(client, **form(good)).status_code == 200
    finally:
        slow.go.set()
        service.stop()


# ---- Which detectors


def test_a_run_is_all_of_its_finished_categories(tmp_path):
    for name in ("cap/detector", "nut/detector", "later"):
        (tmp_path / "run" / name).mkdir(parents=True)
    for name in ("cap", "nut"):
        (tmp_path / "run" / name / "detector/detector.json").touch()
    found = places.find_all(tmp_path / "run")
    assert found == [tmp_path / f"run/{name}/detector" for name in ("cap", "nut")]
    assert places.find_all(tmp_path / "run/cap") == found[:1]
    assert places.find_all(found[1]) == found[1:]


def test_json_answers_are_json(client, bad):
    """No NaN, which is none."""
    text = post(client, **form(bad, map="values")).text
    json.loads(text, parse_constant=pytest.fail)
