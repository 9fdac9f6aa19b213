"""Programs from shapes alone: what is in them, for devices that need not be there."""

import contextlib
import re

import jax
import numpy as np
import pytest
import runs
from jax._src import compiler  # nothing else tells a program's text

from jaxad import config as config_lib
from jaxad.detectors import base
from jaxad.devices import sharding
from jaxad.errors import InputError
from jaxad.inference import predictor
from jaxad.methods import reconpatch, spd, tocoad, two_class_fields
from jaxad.models import layers
from jaxad.run import experiment, pipeline, programs, results

PLATFORMS = "cpu", "cuda", "tpu"
PRODUCT = re.compile(r"stablehlo\.(?:dot_general|convolution).*", re.MULTILINE)


def config(method="patchcore", **fields):
    made = runs.config("somewhere")
    if method == "reconpatch":
        made.method = reconpatch.fields()
        made.method.update(dim=8, projection_dim=4, batch_size=16)
    elif method == "tocoad":
        made.backbone.name = "plugins.levels"
        made.method = tocoad.fields()
        made.method.decoder.depths = (1, 1, 1)
        made.method.heads.update(width=16, bottleneck=8)
        made.method.texture = "dtd"
    elif method == "two_class":
        made.backbone.name = "plugins.levels"
        made = two_class_fields.configured(made, "classification")
        made.threshold.calibration = "none"
    elif method != "patchcore":  # a base of SPD
        made.backbone.name = "plugins.levels"
        made.method = spd.fields(method)
        widths = (8,) * len(made.method.projector)
        made.method.update(projector=widths, batch_size=8, queue=16, groups=1)
        made.method.update(zero_residuals=False, classes=3)
    made.update_from_flattened_dict(fields)
    return made


def of(mesh=None, method="patchcore", heads=1, **fields):
    (member,) = pipeline.members(config(method, **fields))
    found = programs.of(programs.abstract(member, mesh), 32, heads)
    return {one.name: one for one in found}


def products(text):
    """(types of the operands, precision) of every product in a program's text."""
    found = []
    for line in PRODUCT.findall(text):
        types = re.search(r": \(tensor<([^>]*)>, tensor<([^>]*)>\)", line).groups()
        precision = set(re.findall(r"HIGHEST|HIGH|DEFAULT", line)) or {"DEFAULT"}
        found.append(({one.rpartition("x")[2] for one in types}, precision))
    return found


def assert_good(text, precision="HIGHEST"):
    """Float32 products at a precision, and nothing that a TPU has not."""
    for types, found in products(text):
        assert found == {precision} or types == {"bf16"}, (types, found)
    assert "xf64>" not in text and "callback" not in text


# Of a run on one device, and with all that is different on several.
ALL = [
    (1, "patchcore", {"coreset.projection_dim": 4}),
    (8, "patchcore", {"detector.search": "approximate"}),
    (8, "patchcore", {"detector.name": "padim"}),
    (1, "reconpatch", {"heads": 2, "method.vectorize": 0}),
    (8, "reconpatch", {}),
    (1, "tocoad", {}),
    (1, "moco", {}),
]


@pytest.mark.parametrize(("devices", "method", "fields"), ALL)
def test_every_program_is_one_for_gpus_and_tpus_in_float32(devices, method, fields):
    found = of(sharding.make_mesh() if devices > 1 else None, method, **fields)
    several = {}
    for name, one in found.items():
        if name.endswith("start"):  # no products, and long to write
            continue
        text = one.lowered(*PLATFORMS).as_text()
        assert_good(text)
        several[name] = len(products(text))
    step = found.get("reconpatch: step")
    assert step is None or step.heads == fields.get("heads", 1)
    networks = {n for n in found if n.endswith("step") or n.startswith("features")}
    assert networks and all(several[name] for name in networks), several


@contextlib.contextmanager
def listening():
    """The texts of all programs that the block asks the compiler, or its cache, for."""
    asked, plain = [], compiler.compile_or_get_cached

    def listen(backend, computation, *rest, **options):
        asked.append(shortened(str(computation)))
        return plain(backend, computation, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "compile_or_get_cached", listen)
        yield asked


def shortened(text):
    """Without long constants, which not every text has in full."""
    return re.sub(r"dense(_resource)?<[^>]*>", "dense", text)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two categories, and what they compiled."""
    jax.clear_caches()  # whatever other tests of this process have compiled
    root = tmp_path_factory.mktemp("programs")
    for name in "ab":
        images = runs.category(root / "images" / name, train=16)
    fields = {"dataset.path": str(images.parent), "dataset.image_size": (24, 32)}
    made = config("reconpatch", **fields, **{"method.epochs": 1})
    made.threshold.calibration = "none"
    first = root / "run/a/result.json"
    with listening() as asked, pytest.MonkeyPatch.context() as patch:
        of_first, write = [], results.write_json

        def noted(path, content):
            write(path, content)
            if path == first:
                of_first[:] = [len(asked)]

        patch.setattr(results, "write_json", noted)
        experiment.run(made, str(root / "run"))
    return made, root, asked[: of_first[0]], asked[of_first[0] :]


def test_the_programs_of_a_run_are_those_that_it_compiles(run):
    """By their text: one that is missing, or of other shapes, would be told nothing."""
    made, _, asked, _ = run
    (member,) = pipeline.members(made)
    found = programs.of(programs.abstract(member, sharding.make_mesh()), 16)
    texts = {one.name: shortened(one.lowered().as_text()) for one in found}
    assert not [name for name, text in texts.items() if text not in asked]


def test_a_run_compiles_few_programs_and_a_second_category_none(run):
    _, _, first, second = run
    assert [text[:60] for text in second] == []
    assert len(first) < 60


def test_a_restored_detector_asks_for_few_programs_and_finds_them_on_disk(run):
    _, root, _, _ = run

    def first_prediction():
        jax.clear_caches()  # as in a process that has just begun
        predictor.load(root / "run/a").predict(root / "images/a/test/good/0.png")

    with listening() as asked:
        first_prediction()
    assert 0 < len(asked) < 20
    kinds = []

    def listen(event, **_):
        kinds.append(event.rpartition("/")[2])

    jax.monitoring.register_event_listener(listen)
    try:
        first_prediction()
    finally:
        jax.monitoring.unregister_event_listener(listen)
    assert kinds.count("cache_hits") == len(asked)
    assert "cache_misses" not in kinds


CONVOLUTIONS = {
    "product": dict(kernel=(1, 1, 8, 8)),
    "depthwise": dict(kernel=(3, 3, 1, 8), groups=8, padding=1),
    "grouped": dict(kernel=(3, 3, 4, 8), groups=2, padding=1),
    "winograd": dict(kernel=(3, 3, 64, 64), frozen=True, padding=1),
    "unrolled": dict(kernel=(5, 5, 8, 8), strides=2, padding=1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_form_of_a_convolution_has_the_precision(name):
    options = dict(CONVOLUTIONS[name])
    kernel = jax.ShapeDtypeStruct(options.pop("kernel"), np.float32)
    depth = kernel.shape[2] * options.get("groups", 1)
    x = jax.ShapeDtypeStruct((1, 4, 4, depth), np.float32)
    apply = jax.jit(lambda x, kernel: layers.conv(x, kernel, **options))
    with jax.default_matmul_precision("highest"):
        text = apply.trace(x, kernel).lower(lowering_platforms=PLATFORMS).as_text()
    assert_good(text)
    assert products(text)


@pytest.mark.parametrize("precision", ["high", "default"])
def test_networks_and_their_training_have_what_the_config_says(precision):
    found = of(method="reconpatch", precision=precision)

    def precisions(name):
        return {one for _, (one,) in products(found[name].lowered().as_text())}

    # Descriptors are brought to one grid, and compared, in float32 all the same.
    for name in ("features", "features, mapped", "reconpatch: step"):
        assert precisions(name) == {"HIGHEST", precision.upper()}
    assert precisions("features: map") == {precision.upper()}
    assert precisions("coreset: bounds") == precisions("anomaly maps") == {"HIGHEST"}


def test_a_method_s_own_precision_is_for_its_trace_alone():
    (member,) = pipeline.members(config(precision="high"))
    made = programs.abstract(member, None)
    base.programs(made.method, made.backbone, {}, (32, 32, 3), 1, None)
    assert jax.config.jax_default_matmul_precision is None


def test_a_misspelt_precision_is_told():
    with pytest.raises(InputError, match="precision='hihgest' is not known .did you"):
        config_lib.validate(config(precision="hihgest"))


def test_what_was_made_before_there_was_a_precision_has_the_device_s():
    stored = config_lib.base().to_dict()
    assert config_lib.completed(stored).precision == "highest"
    del stored["precision"]
    assert config_lib.completed(stored).precision == "default"


def test_a_two_class_run_describes_no_image_but_those_that_it_scores():
    found = of(method="two_class")
    (features, _), (training, *_) = base.FEATURES, [n for n in found if "step" in n]
    assert found[features].scores and not found[training].scores
    assert not of()[features].scores
