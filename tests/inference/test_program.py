"""Programs for other machines: what they say, what is refused, what is left behind."""

import ast
import json
import pathlib
import re
import sys
import types

import calls
import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import runs
import safetensors.numpy
from PIL import Image

from jaxad import data
from jaxad.data.geometry import Geometry
from jaxad.errors import InputError
from jaxad.inference import artefact, folder, gate, predictor
from jaxad.inference.artefact import Answers
from jaxad.run import experiment, identity

PAGE = pathlib.Path(__file__).parents[2] / "docs/export.md"
LOADER = "".join(
    re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
)
NAMED = 'Detector("program")'  # how the page goes on


def images_of(workdir):
    return data.load(identity.stored(workdir).dataset, "things", "test")


@pytest.fixture(scope="module")
def made(whole, tmp_path_factory):
    """The folder of a program, and its card."""
    out = tmp_path_factory.mktemp("export") / "program"
    return out, gate.export(whole, out, images_of(whole))


@pytest.fixture
def copied(made, tmp_path):
    """A copy to be damaged."""
    for path in made[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


# ---- A program says what the detector says


def test_the_card(made):
    out, card = made
    assert json.loads((out / "card.json").read_text()) == card
    assert card["platforms"] == ["cpu", "cuda", "tpu"]
    assert card["input"]["shape"] == ["b", 32, 32, 3]
    assert card["input"]["dtype"] == "uint8"
    assert list(card["output"]) == ["score", "map", "p_value", "anomalous"]
    compared = card["gate"]
    assert (compared["images"], compared["of"], compared["bound"]) == (8, 8, 1e-4)
    assert compared["largest"]["score"] < 1e-5 and compared["largest"]["map"] < 1e-5
    assert compared["largest"]["flipped_verdicts"] == 0
    aurocs = compared["image_auroc"]
    assert aurocs["program"] == aurocs["detector"] == 1.0
    want = {"program.bin", "arrays.safetensors", "samples.npz"}
    assert set(card["files"]) == want
    assert {path.name for path in out.iterdir()} == want | {"card.json"}


def test_arrays_are_those_that_are_read(made, whole):
    found = safetensors.numpy.load_file(made[0] / "arrays.safetensors")
    (member,) = folder.load(whole).members
    bank = np.asarray(member.state["memory_bank"])
    np.testing.assert_array_equal(found.pop("state/memory_bank"), bank)
    assert {name for name in found if not name.startswith("params/")} == {
        "calibration",
        "threshold",
    }  # no owners
    layers = {name.split("/")[3] for name in found if name.startswith("params/")}
    assert layers == {"shallow", "deep"}


def test_the_loader_of_the_docs_gives_what_the_detector_gives(
    made, whole, things, monkeypatch
):
    allowed = {"json", "pathlib", "jax", "numpy", "PIL", "safetensors", "onnxruntime"}
    tree, imported = ast.parse(LOADER), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported <= allowed and NAMED in LOADER
    names = {}
    exec(compile(LOADER.partition("\ndetector = ")[0], PAGE, "exec"), names)
    detector = names["Detector"](made[0], batch_size=3)
    paths = sorted(things.glob("test/*/*.png"))
    found = detector([detector.prepare(path) for path in paths])
    want = predictor.load(whole).predict(paths)
    np.testing.assert_allclose(found["score"], [x.score for x in want], rtol=1e-5)
    np.testing.assert_allclose(found["p_value"], [x.p_value for x in want], rtol=1e-6)
    np.testing.assert_array_equal(found["anomalous"], [x.is_anomalous for x in want])
    assert found["anomalous"].any() and not found["anomalous"].all()
    assert found["map"].shape == (8, 32, 32)
    # An image's answer has the same digits whatever its neighbours in a batch; its bits
    # are the compiler's.
    alone = detector([detector.prepare(paths[5])])
    np.testing.assert_allclose(alone["map"][0], found["map"][5], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(40, 48), (61, 33)])
@pytest.mark.parametrize("policy", ["resize", "resize_crop", "pad"])
def test_the_loader_of_the_docs_resizes_as_a_run_does(policy, shape, tmp_path):
    geometry = Geometry((24, 32), policy, 36)
    runs.picture(tmp_path / "a.png", 0, shape)
    dtype = "float32" if policy == "pad" else "uint8"
    asked = {"shape": ["b", 24, 32, 3], "dtype": dtype}
    card = {"input": {**asked, "resize": policy, "resize_to": 36}}
    names = {}
    exec(compile(LOADER.partition("\ndetector = ")[0], PAGE, "exec"), names)
    found = names["Detector"].prepare(
        types.SimpleNamespace(card=card), tmp_path / "a.png"
    )
    want = geometry.image(Image.open(tmp_path / "a.png"))
    assert found.dtype == dtype
    if dtype == "uint8":
        found = found.astype(np.float32) / 255
    np.testing.assert_array_equal(found, want)


def test_padim_on_padded_images(tmp_path):
    workdir, images = tmp_path / "run", runs.category(tmp_path / "things")
    fields = {"detector.name": "padim", "detector.dim": 6, "dataset.resize": "pad"}
    experiment.run(runs.config(images, **fields), str(workdir))
    card = gate.export(workdir, tmp_path / "out", images_of(workdir))
    assert card["gate"]["largest"]["score"] < 1e-5
    # The colour of padding lies between two levels of uint8.
    assert card["input"]["dtype"] == "float32"
    gate.verify(tmp_path / "out")


def test_an_approximate_search_reweighted_without_a_threshold(whole, tmp_path):
    loaded = folder.load(whole)
    config = loaded.configs[0].copy_and_resolve_references()
    config.detector.update(
        image_score="reweighted", reweight_neighbours=3, search="approximate"
    )
    member = loaded.members[0].replace(scorer=folder.networks(config).scorer)
    card = {**loaded.card, "threshold": None, "pixel_threshold": None}
    card["members"] = [{**card["members"][0], "config": config.to_dict()}]
    folder.save(tmp_path / "detector", folder.Loaded((member,), (config,), card))
    made = gate.export(tmp_path / "detector", tmp_path / "out", images_of(whole))
    assert made["gate"]["largest"]["score"] < 1e-5
    assert list(made["output"]) == ["score", "map"]
    assert made["threshold"] is made["gate"]["largest"]["flipped_verdicts"] is None
    gate.verify(tmp_path / "out")


@pytest.mark.parametrize("bank", ["float16", "int8"])
def test_a_smaller_bank_is_measured(bank, whole, made, tmp_path):
    card = gate.export(whole, tmp_path / "out", images_of(whole), bank=bank)
    found = safetensors.numpy.load_file(tmp_path / "out/arrays.safetensors")
    assert found["state/memory_bank"].dtype == bank
    difference = card["gate"]["largest"]["score"]
    assert made[1]["gate"]["largest"]["score"] < difference < card["gate"]["bound"]


def test_an_onnx_model(whole, things, tmp_path):
    out = tmp_path / "model"
    card = gate.export(whole, out, images_of(whole), kind="onnx", bank="float16")
    assert {path.name for path in out.iterdir()} == {
        *("card.json", "model.onnx", "samples.npz"),
    }
    assert card["gate"]["largest"]["score"] < card["gate"]["bound"]
    model = onnx.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    (stored,) = (x for x in model.graph.initializer if x.name == "state/memory_bank")
    assert stored.data_type == onnx.TensorProto.FLOAT16
    gate.verify(out)
    exact = tmp_path / "exact"
    gate.export(whole, exact, images_of(whole), kind="onnx")
    session = onnxruntime.InferenceSession(exact / "model.onnx")
    images = gate.Samples.from_split(images_of(whole)).images
    want = predictor.load(whole).predict(sorted(things.glob("test/*/*.png")))
    for count in (1, 8):
        found = session.run(["score", "p_value"], {"images": images[:count]})
        scores = [x.score for x in want[:count]]
        np.testing.assert_allclose(found[0], scores, rtol=1e-4)
        np.testing.assert_allclose(found[1], [x.p_value for x in want[:count]], 1e-6)


def test_what_has_no_onnx_form(whole, tmp_path, monkeypatch):
    loaded = folder.load(whole)

    def refused(message, member=loaded.members[0], **fields):
        config = loaded.configs[0].copy_and_resolve_references()
        config.update_from_flattened_dict(fields)
        changed = loaded._replace(members=(member,), configs=(config,))
        with pytest.raises(InputError, match=message):
            gate._runtime("onnx").write(tmp_path, changed, np.uint8, "float32")

    without = loaded.members[0].replace(state={})
    refused("name=padim has no ONNX form", without, **{"detector.name": "padim"})
    refused("reweighted has no ONNX form", **{"detector.image_score": "reweighted"})
    refused("dtype=bfloat16 has no ONNX form", **{"backbone.dtype": "bfloat16"})
    monkeypatch.setattr(gate._runtime("onnx"), "_LIMIT", 100)
    refused("GiB, and a file of ONNX less than 2")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "jaxad.inference.onnx_model")
    with pytest.raises(InputError, match="onnxruntime is not installed; .*jaxad.onnx"):
        gate._runtime("onnx")


def test_int8_by_hand():
    rows = np.array([[1.0, 0.0, -254.0], [-127.0, 0.0, 1.0]], np.float32)
    stored = artefact._stored_bank(rows, "int8")
    np.testing.assert_array_equal(stored["memory_bank"], [[1, 0, -127], [-127, 0, 0]])
    np.testing.assert_allclose(stored["memory_bank_scale"], [1, 1 / 127, 2])
    restored = artefact.restored(jax.tree.map(jax.numpy.asarray, stored))
    np.testing.assert_allclose(
        restored["memory_bank"], [[1, 0, -254], [-127, 0, 0]], rtol=1e-6
    )


# ---- What the gate looks at


WANT = Answers(
    score=np.array([1.0, 2.0, 8.0], np.float32),
    map=np.array([[[1.0]], [[2.0]], [[8.0]]], np.float32),
    p_value=np.array([0.5, 0.25, 0.25]),
    anomalous=np.array([False, False, True]),
)


def test_differences_by_hand():
    found = WANT._replace(
        score=np.array([1.5, 2.0, 7.0], np.float32),
        map=np.array([[[1.0]], [[2.0]], [[12.0]]], np.float32),
        p_value=np.array([0.5, 0.5, 0.25]),
        anomalous=np.array([True, False, False]),
    )
    assert gate.differences(WANT, found) == {
        "score": 0.25,  # 0.5 of 1, which counts as the median's 2
        "map": 0.5,
        "p_value": 0.25,
        "flipped_verdicts": 2,
    }


def test_a_flipped_verdict_is_no_matter_of_a_bound():
    found = WANT._replace(anomalous=np.array([False, True, True]))
    with pytest.raises(InputError, match="1 of 3 verdicts flip, .* that of b.png, "):
        gate.require_same(["a.png", "b.png", "c.png"], WANT, found, bound=1.0)


@pytest.mark.parametrize("name", ["score", "map"])
def test_a_number_that_is_none_passes_no_gate(name):
    values = getattr(WANT, name).copy()
    values[1] = np.nan
    with pytest.raises(InputError, match=f"a {name} differs by nan"):
        gate.require_same(["a", "b", "c"], WANT, WANT._replace(**{name: values}), 1.0)


def test_at_most_200_images_evenly():
    split = types.SimpleNamespace(
        filenames=[str(i) for i in range(500)], labels=np.zeros(500, np.int32)
    )
    picture = np.zeros((1, 1, 3), np.float32)

    class Split(list):
        filenames, labels = split.filenames, split.labels

    samples = gate.Samples.from_split(Split([{"image": picture}] * 500))
    assert samples.names[:3] == ["0", "2", "5"] and samples.names[-1] == "497"
    assert samples.images.shape == (200, 1, 1, 3) and samples.of == 500
    with pytest.raises(InputError, match="no images to compare .* with --images"):
        gate.Samples.from_split(Split())


# ---- What is refused


def test_a_program_that_differs_is_not_left_behind(whole, tmp_path, monkeypatch):
    def shifted(rows, bank):
        return {"memory_bank": rows * np.float32(1.01)}

    monkeypatch.setattr(artefact, "_stored_bank", shifted)
    with pytest.raises(InputError, match="the program is not the detector"):
        gate.export(whole, tmp_path / "out", images_of(whole))
    assert list(tmp_path.iterdir()) == []


def test_another_machine_may_refuse(copied):
    _, largest = gate.verify(copied)
    assert largest["score"] < 1e-5
    arrays = safetensors.numpy.load_file(copied / "arrays.safetensors")
    arrays["state/memory_bank"] *= np.float32(1.01)
    safetensors.numpy.save_file(arrays, copied / "arrays.safetensors")
    with pytest.raises(InputError, match="arrays.safetensors is not the file that"):
        gate.verify(copied)
    card = json.loads((copied / "card.json").read_text())
    artefact.write_card(copied, card)  # it computes something else, file or machine
    with pytest.raises(InputError, match="the program is not the detector"):
        gate.verify(copied)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "card.json").unlink(), "card.json is missing or damaged"),
        (lambda d: (d / "card.json").write_text("[]"), "card.json is missing or dam"),
        (lambda d: (d / "samples.npz").unlink(), "samples.npz is not the file that"),
        (lambda d: rewritten(d, format=2), "has format 2, and this jaxad reads 1"),
        (lambda d: broken(d), "program.bin cannot be read by JAX .* six"),
    ],
    ids=("no_card", "no_dictionary", "no_samples", "newer", "unreadable"),
)
def test_what_is_not_whole_is_told(damage, message, copied):
    damage(copied)
    with pytest.raises(InputError, match=message):
        gate.verify(copied)


def test_a_device_that_it_is_not_for_is_told(copied, monkeypatch):
    monkeypatch.setattr(jax.export, "default_export_platform", lambda: "rocm")
    with pytest.raises(InputError, match="is for cpu, cuda, tpu, and JAX has rocm"):
        gate.verify(copied)


def rewritten(place, **fields):
    card = json.loads((place / "card.json").read_text())
    (place / "card.json").write_text(json.dumps({**card, **fields}))


def broken(place):
    (place / "program.bin").write_bytes(b"of another time")
    artefact.write_card(place, json.loads((place / "card.json").read_text()))


def test_detectors_that_are_no_program(whole):
    loaded = folder.load(whole)
    twice = loaded._replace(
        members=loaded.members * 2, card={"members": [{"name": "a"}, {"name": "b"}]}
    )
    with pytest.raises(InputError, match=r"an ensemble \(a, b\) cannot be one program"):
        artefact.require_possible(twice, "float32")
    config = loaded.configs[0].copy_and_resolve_references()
    config.detector.max_device_bytes = 1000
    with pytest.raises(InputError, match="max_device_bytes=1000 keeps the memory bank"):
        artefact.require_possible(loaded._replace(configs=(config,)), "float32")
    config = loaded.configs[0].copy_and_resolve_references()
    config.detector.name = "padim"
    member = loaded.members[0].replace(state={})
    without = loaded._replace(members=(member,), configs=(config,))
    with pytest.raises(InputError, match="--bank=int8 has no effect on .*name=padim"):
        artefact.require_possible(without, "int8")
    artefact.require_possible(without, "float32")


def test_the_command(whole, made, things, server, tmp_path):
    """Flags that have no effect, and what is not there, end with one sentence."""
    precious = tmp_path / "thesis.txt"
    precious.write_text("precious")
    folder.copy(whole, tmp_path / "moved")
    (tmp_path / "unfinished/things").mkdir(parents=True)
    (tmp_path / "unfinished/config.json").write_text("{}")
    run, out = f"--run={whole}", f"--out={tmp_path / 'new'}"
    to = "--format=stablehlo"
    wrong = {
        (run, to): "--out is missing",
        (run, out, "--bank=int8"): "--bank has no effect with --format folder",
        (f"--verify={made[0]}", run): "--run has no effect with --verify",
        (f"--verify={precious}",): "card.json is missing or damaged",
        (run, to, f"--out={precious}"): "thesis.txt is there already",
        (f"--run={tmp_path / 'unfinished'}", to, out): "has no finished detector",
        (f"--run={tmp_path / 'moved'}", to, out): "name some with --images",
    }
    asked = [["export", *arguments] for arguments in wrong]
    answers = calls.calls(asked, tmp_path, server)
    for (status, text, _), message in zip(answers, wrong.values(), strict=True):
        assert status == 2 and message in text and "Traceback" not in text, text
    assert precious.read_text() == "precious" and not (tmp_path / "new").exists()
    images = f"--images={things / 'test/square'}"
    moved = ["export", f"--run={tmp_path / 'moved'}", to, out, images]
    ((status, text, _),) = calls.calls([moved], tmp_path, server)
    assert status == 0 and "Compared on 4 images on cpu" in text, text
    assert "AUROC" not in text  # all are taken for normal
