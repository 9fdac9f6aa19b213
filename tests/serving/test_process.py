"""The command as a process: its port, its log, and its end."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
import types

import pytest
import runs

from jaxad import serve
from jaxad.errors import InputError
from jaxad.serving import server


@contextlib.contextmanager
def started(run, *more):
    """The command, and the port that it says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxad", "serve", "--run", str(run), "--port=0", *more],
        env=runs.environment(1),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        found = re.match(r"Serving things on http://127\.0\.0\.1:(\d+); ready w", line)
        assert found, line
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def asked(port, path):
    """Status and content, of a connection of its own."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    ) as connection:
        connection.request("GET", path)
        with connection.getresponse() as answer:
            return answer.status, answer.read()


def until(true):
    while not true():
        time.sleep(0.02)


def test_it_ends_in_peace(whole, things):
    """What has come is answered, even where its body is still on its way."""
    content = (things / "test/square/0.png").read_bytes()
    body = b"".join(
        [
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"',
            b"\r\n\r\n" + content + b"\r\n--x--\r\n",
        ]
    )
    head = (
        "POST /v1/predict HTTP/1.1\r\nHost: here\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    with started(whole, "--batch_size=1") as (process, port):
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use; "):
            server.bind("127.0.0.1", port)
        until(lambda: asked(port, "/readyz")[0] == 200)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(head.encode() + body[:100])
            until(lambda: b"in_flight 1.0" in asked(port, "/metrics")[1])
            process.send_signal(signal.SIGTERM)
            until(lambda: not listens(port))
            client.sendall(body[100:])
            with http.client.HTTPResponse(client) as answer:
                answer.begin()
                assert answer.status == 200
                assert json.load(answer)["results"][0]["verdict"] == "anomalous"
        rest, log = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["event"] for line in lines] == ["compiled", "request"]
    assert lines[0]["batches"] == [1] and lines[0]["category"] == "things"
    assert lines[1]["status"] == 200 and lines[1]["images"] == 1
    assert lines[1]["request_id"] and lines[1]["client"] == "127.0.0.1"


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


# ---- Mistakes


def call(**flags):
    defaults = {"host": "127.0.0.1", "port": 0, "batch_size": 1, "queue": 1}
    values = {**defaults, "max_megabytes": 1, "max_pixels": 1, **flags}
    serve.main(types.SimpleNamespace(**values))


def test_without_the_extra(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "jaxad.serving.server")
    monkeypatch.delattr("jaxad.serving.server")
    with pytest.raises(
        InputError, match=r"needs uvicorn, .*pip install 'jaxad\[serve\]'"
    ):
        call(run=whole)


def test_without_a_finished_category(tmp_path):
    (tmp_path / "run/cap").mkdir(parents=True)
    (tmp_path / "run/config.json").touch()
    with pytest.raises(InputError, match="run has no finished detector; run the comm"):
        call(run=tmp_path / "run")
    with pytest.raises(InputError, match="none does not exist"):
        call(run=tmp_path / "none")


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no.such.host.invalid", "--host=no.such.host.invalid is no address"),
        ("192.0.2.1", "--host=192.0.2.1 is no address of this machine"),
    ],
)
def test_an_address_that_is_none(host, message):
    with pytest.raises(InputError, match=message):
        server.bind(host, 0)


def test_the_world_is_told_of(whole, monkeypatch, capsys):
    monkeypatch.setattr(server, "serve", lambda *_: None)
    monkeypatch.setattr(server, "log_lines", lambda: None)
    call(run=whole, host="0.0.0.0")
    serving, warning = capsys.readouterr().out.splitlines()
    assert serving.startswith("Serving things on http://0.0.0.0:")
    assert warning.startswith("Everybody who reaches 0.0.0.0 may ask, unencrypted; ")
    call(run=whole)
    assert "Everybody" not in capsys.readouterr().out
