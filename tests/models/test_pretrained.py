"""Weights from the hub, played by a server on this machine, and converted files."""

import http.server
import pathlib
import threading

import huggingface_hub.constants
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxad.errors import InputError
from jaxad.models import convert, pretrained

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
STATE = {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers `/OWNER/REPO/resolve/REVISION/FILE` as the hub does."""

    files: dict[str, bytes] = {}
    asked: list[str] = []

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        self.asked.append(self.path)
        content = self.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        if content is None:
            known = any(self.path.rsplit("/", 1)[0] in path for path in self.files)
            code = "EntryNotFound" if known else "RepoNotFound"
            self.send_header("X-Error-Code", code)
            content = b""
        self.send_header("ETag", '"abc"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    Hub.files, Hub.asked = {}, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    constants = huggingface_hub.constants
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield Hub
    server.shutdown()
    server.server_close()


def publish(hub, tmp_path, path="/a/net/resolve/main/model.safetensors"):
    save_file(STATE, tmp_path / "w.safetensors")
    hub.files[path] = (tmp_path / "w.safetensors").read_bytes()


def test_a_repository_is_downloaded_once_and_works_without_the_hub(
    hub, tmp_path, monkeypatch
):
    publish(hub, tmp_path)
    _, state = pretrained.read("hf:a/net")
    np.testing.assert_array_equal(state["fc.weight"], STATE["fc.weight"])
    asked = len(hub.asked)
    assert asked
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    pretrained.read("hf:a/net")
    assert len(hub.asked) == asked


def test_a_revision_is_pinned(hub, tmp_path):
    publish(hub, tmp_path, "/a/net/resolve/v1/model.safetensors")
    pretrained.read("hf:a/net@v1")
    assert all("/v1/" in path for path in hub.asked)
    with pytest.raises(InputError, match="hf:a/net@v2 cannot be had.*--revision v2"):
        pretrained.read("hf:a/net@v2")


def test_an_old_repository_has_a_bin_file(hub, tmp_path):
    content = (FIXTURES / "zip.pth").read_bytes()
    hub.files["/a/old/resolve/main/pytorch_model.bin"] = content
    path, state = pretrained.read("hf:a/old")
    assert path.endswith("pytorch_model.bin") and "float32" in state


def test_what_is_nowhere_says_how_to_bring_it_over(hub, tmp_path):
    with pytest.raises(InputError) as caught:
        pretrained.read("hf:timm/no_such_net")
    message = str(caught.value)
    assert message.startswith("weights hf:timm/no_such_net cannot be had: ")
    assert "`hf download timm/no_such_net model.safetensors --local-dir" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ("net", "a/b/c", "a/b c", "/net@v1"))
def test_what_is_no_repository(name):
    with pytest.raises(InputError, match=r"must have the form hf:OWNER/REPO"):
        pretrained.read(f"hf:{name}")


def test_without_a_network(tmp_path, monkeypatch):
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        InputError, match="hub cannot be reached and the cache does not"
    ):
        pretrained.read("hf:a/net")


@pytest.mark.parametrize("wrap", ("state_dict", "model", None))
def test_wrapped_and_parallel_state_dicts(tmp_path, wrap, monkeypatch):
    state = {f"module.{name}": array for name, array in STATE.items()}
    content = {wrap: state, "epoch": 3} if wrap else state
    (tmp_path / "w.pth").touch()
    monkeypatch.setattr(pretrained.pth, "read", lambda path: content)
    _, got = pretrained.read(str(tmp_path / "w.pth"))
    assert got.keys() == STATE.keys()


@pytest.mark.parametrize("content", ({}, [1], {"epoch": 3}, {"state_dict": {"a": "b"}}))
def test_what_is_no_state_dict(tmp_path, content, monkeypatch):
    (tmp_path / "w.pth").touch()
    monkeypatch.setattr(pretrained.pth, "read", lambda path: content)
    with pytest.raises(InputError, match=r"w\.pth.*save model\.state_dict"):
        pretrained.read(str(tmp_path / "w.pth"))


# --- convert ---


def test_convert_keeps_every_name_shape_dtype_and_byte(tmp_path, capsys):
    source, target = str(FIXTURES / "legacy.pth"), tmp_path / "w.safetensors"
    assert convert.main([source, str(target)]) == 0
    assert "11 arrays" in capsys.readouterr().out
    want, got = pretrained.read(source)[1], load_file(target)
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape, name
        assert got[name].tobytes() == array.tobytes(), name
    assert got["bfloat16"].dtype == ml_dtypes.bfloat16
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_convert_refuses(tmp_path, capsys):
    target = str(tmp_path / "w.safetensors")
    assert convert.main([str(FIXTURES / "zip.pth"), str(tmp_path / "w.npz")]) == 2
    assert "w.npz must end in .safetensors" in capsys.readouterr().err
    assert convert.main([str(tmp_path / "no.pth"), target]) == 2
    assert "no.pth does not exist" in capsys.readouterr().err
    assert convert.main([target]) == 2
    assert not list(tmp_path.iterdir())
