"""A method of one's own, in a package that is not jaxad's."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxad import config as config_lib
from jaxad import methods
from jaxad.errors import InputError
from jaxad.methods.base import Backbone
from jaxad.run import experiment
from jaxad.training import loop

SCALE = '''
"""Brings every channel to a deviation of one, by a learnt scale."""

import jax.numpy as jnp

from jaxad import patches
from jaxad.errors import InputError
from jaxad.fields import ABOVE_0, Field, at_least, check, defaults
from jaxad.methods.base import Method, Stage

FIELDS = dict(
    name=Field("own_package.scale", "this method"),
    rate=Field(0.5, "of the logarithm", ABOVE_0),
    steps=Field(20, "of training", at_least(1)),
)


def fields():
    return defaults(FIELDS)


def build(config, backbone):
    options = config.method
    check(FIELDS, options, "method")
    describe = patches.descriptor(config.patches)

    def features(params, images):
        return describe(backbone.levels(params["backbone"], images))

    def scaled(x, scale):
        return x * jnp.broadcast_to(scale, x.shape)

    def init(key, params, item):
        return {"scale": jnp.ones(item)}

    def step(state, batch, key):
        deviation = scaled(batch["patches"], state["scale"]).std(0)
        change = jnp.exp(options.rate * jnp.clip(1 - deviation, -1, 1))
        return {"scale": state["scale"] * change}, {"loss": deviation.mean()}

    def stages():
        steps, finish = lambda n: options.steps, lambda state, params: params | state
        return (Stage("scale", "patches", 8, steps, init, step, finish),)

    def refuse(shape):
        if shape[2] < 2:
            raise InputError(f"descriptors {shape} have no channels to compare")

    return Method(features, lambda p, x: scaled(x, p["scale"]), stages, refuse)
'''


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "scale.py").write_text(SCALE)
    (folder / "empty.py").write_text("build = 3\n")
    (folder / "hungry.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


def make_config():
    from own_package import scale

    config = config_lib.base()
    config.method = scale.fields()
    return config


def backbone():
    def levels(variables, images):
        return [images * jnp.asarray([1.0, 10.0, 0.1]).reshape(1, 1, 1, 3)]

    return Backbone("toy", None, ("a",), (0.0,) * 3, (1.0,) * 3, levels)


def test_it_learns_from_patches_of_any_width(tmp_path):
    method = methods.build(make_config(), backbone())
    params = {"backbone": {}}
    images = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)
    described = method.features(params, images)
    method.check(described.shape[1:])
    (stage,) = method.stages
    params = loop.train(stage, params, described, seed=0, workdir=tmp_path / "stage")
    assert params["scale"].shape == (3,)
    spread = np.std(method.project(params, described), (0, 1, 2))
    np.testing.assert_allclose(spread, 1, atol=0.3)
    with pytest.raises(InputError, match="no channels to compare"):
        method.check((8, 8, 1))


def test_stages_are_made_when_they_are_asked_for():
    method = methods.build(make_config(), backbone())
    assert "stages" not in vars(method)
    assert method.stages is method.stages
    # Static arguments of jitted functions are hashed, by identity.
    assert method != methods.build(make_config(), backbone())
    project = jax.jit(lambda method, *x: method.project(*x), static_argnums=0)
    twice = project(method, {"scale": jnp.full(3, 2.0)}, jnp.ones((4, 3)))
    np.testing.assert_array_equal(twice, np.full((4, 3), 2))


def test_its_fields_are_checked_and_listed():
    config = make_config()
    assert list(methods.fields(config)) == ["name", "rate", "steps"]
    config.method.rate = 0.0
    with pytest.raises(InputError, match="config.method.rate=0.0 must be above 0"):
        methods.build(config, backbone())


def test_it_is_fitted_as_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)  # compiles in a third of it
    random, root = np.random.default_rng(0), tmp_path / "things"
    for folder, count in (("train/good", 6), ("test/good", 2), ("test/square", 2)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(90, 110, (32, 32, 3)).astype(np.uint8)
            if folder == "test/square":
                pixels[8:24, 8:24] = 220
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
    config = make_config()
    config.dataset.update(name="folder", path=str(root), category="things")
    config.dataset.update(image_size=(32, 32), check=False)
    config.backbone.name = "plugins.backbone"
    config.coreset.ratio, config.overlays = 0.5, 0
    config.threshold.calibration = "none"
    outcome = experiment.run(config, str(tmp_path / "run"))
    assert outcome["method"] == "own_package.scale"
    assert np.isfinite(outcome["mean"]["image_auroc"])
    assert (tmp_path / "run/things/scale/metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "own_package.missing",
            "config.method.name=own_package.missing does not exist: there is no module "
            "own_package.missing; ",
        ),
        ("nobody.scale", "does not exist: there is no module nobody; install"),
        ("own_package.scale.more", "there is no module own_package.scale.more; "),
        ("own_package.empty", r"=own_package.empty has no build\(config, backbone\); "),
        (
            "own_package.hungry",
            "hungry imports a_package_that_nobody_has, which is not",
        ),
        (".scale", "config.method.name='.scale' must be a dotted path"),
        (
            "reconpach",
            r"='reconpach' is not known \(did you mean 'reconpatch'\?\); choose one of "
            "patchcore, reconpatch, tocoad, spd, two_class or, of your own, a dotted "
            "path",
        ),
    ],
)
def test_what_is_no_method(name, sentence):
    config = config_lib.base()
    config.method.name = name
    with pytest.raises(InputError, match=sentence):
        methods.build(config, backbone())


def test_a_dotted_path_of_ours():
    config = config_lib.base()
    config.method.name = "jaxad.methods.patchcore"
    assert methods.build(config, backbone()).stages == ()
