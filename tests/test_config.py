import importlib.util
import json
import pathlib
import re

import pytest

from jaxad import config as config_lib
from jaxad import methods
from jaxad.errors import InputError
from jaxad.fields import flat, idle
from jaxad.methods import tocoad_fields
from jaxad.run import identity

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(
    path for path in (ROOT / "configs").rglob("*.py") if path.name != "base.py"
)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parse_arg_takes_the_types_of_the_defaults():
    args = config_lib.parse_arg("k=7,flag,rate=1e-3", k=5, flag=False, rate=0.1, s="a")
    assert args.to_dict() == {"k": 7, "flag": True, "rate": 1e-3, "s": "a"}
    assert config_lib.parse_arg(None, k=5).k == 5


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("runloca", "'runloca' does not exist .did you mean 'runlocal'"),
        ("runlocal=perhaps", "runlocal=perhaps must be true or false"),
        ("k=many", "k=many must be of type int"),
    ],
)
def test_parse_arg_names_what_is_wrong(arg, message):
    with pytest.raises(InputError, match=message):
        config_lib.parse_arg(arg, runlocal=False, k=5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dataset.resize", "crop", "config.dataset.resize='crop' is not known"),
        ("dataset.image_size", (224,), "config.dataset.image_size"),
        ("coreset.ratio", 0.0, "config.coreset.ratio=0.0 must be above 0"),
        ("coreset.ratio", 1.5, "config.coreset.ratio=1.5 must be above 0"),
        ("patches.neighbourhood", 2, "config.patches.neighbourhood=2 must be an odd"),
        ("detector.image_score", "sum", "choose one of max, mean, reweighted"),
        ("batch_size", 0, "config.batch_size=0 must be at least 1"),
        ("overlays", -1, "config.overlays=-1 must be 0 or more, or all"),
        ("overlays", "most", "config.overlays='most' must be 0 or more, or all"),
        ("raw_maps", "tiff", "config.raw_maps='tiff' is not known"),
    ],
)
def test_validate_names_the_field(field, value, message):
    config = config_lib.base()
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        config_lib.validate(config)


def test_a_field_may_be_a_word_or_a_number():
    config = config_lib.base()
    for value in ("all", 0, 7):
        config.overlays = value
        config_lib.validate(config)
    again = config_lib.completed(config.to_dict() | {"overlays": "all"})
    assert again.overlays == "all"


def test_what_a_run_has_stored_has_later_fields_at_their_defaults(tmp_path):
    config = config_lib.base()
    config.method = tocoad_fields.fields()
    config.method.dnp.batch_size = 7
    config.method.levels = ("layer1",)
    stored = json.loads(json.dumps(config.to_dict()))
    for name in ("sight", "guide_focal"):
        del stored["method"][name]
    del stored["method"]["ncl"]["anchor"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    again = methods.completed(stored).method
    assert (again.sight, again.ncl.anchor, again.guide_focal.gamma) == (0.0, 0.0, 2.0)
    assert (again.dnp.batch_size, tuple(again.levels)) == (7, ("layer1",))
    identity.require_same_run(tmp_path, config)
    config.method.ncl.anchor = 1.0
    with pytest.raises(InputError, match="it differs in method.ncl.anchor"):
        identity.require_same_run(tmp_path, config)
    # Before each guide had a weight of its own.
    (tmp_path / "config.json").write_text(
        json.dumps(stored | {"method": stored["method"] | {"lambda_neg": 1.0}})
    )
    with pytest.raises(InputError, match="another form in this version .*anew"):
        identity.require_same_run(tmp_path, config)


def test_validate_wants_a_crop_no_larger_than_what_it_is_cut_from():
    config = config_lib.base()
    config.dataset.image_size = (224, 224)
    config.dataset.resize = "resize_crop"
    with pytest.raises(InputError, match="dataset.resize_to=0 must be at least"):
        config_lib.validate(config)
    config.dataset.resize_to = 256
    config_lib.validate(config)


# Every field that acts under another one's value: values of its own, what leaves it
# without effect, and what gives it one.
PADIM, OWN = {"detector.name": "padim"}, {"detector.name": "own.spread"}
LOGITS = {"method.name": "two_class"}
IDLE = {
    "dataset.textures": ("dtd", {}, {"method.name": "tocoad"}),
    "dataset.resize_to": (256, {}, {"dataset.resize": "resize_crop"}),
    "backbone.taps": (("layer1",), LOGITS, {"method.name": "reconpatch"}),
    "patches.descriptor": ("pooled", LOGITS, {}),
    "patches.neighbourhood": (1, LOGITS, {"method.name": "own.method"}),
    "patches.level_dim": (512, {}, {"patches.descriptor": "pooled"}),
    "patches.target_dim": (
        512,
        {"patches.descriptor": "pooled", **LOGITS},
        {"patches.descriptor": "pooled"},
    ),
    "coreset.ratio": (0.1, PADIM, OWN),
    "coreset.projection_dim": (128, {"detector.name": "logits"}, {}),
    "detector.search": ("approximate", PADIM, {}),
    "detector.recall_target": (
        0.9,
        {"detector.search": "approximate", **PADIM},
        {"detector.search": "approximate"},
    ),
    "detector.reweight_neighbours": (3, {}, {"detector.image_score": "reweighted"}),
    "detector.top_fraction": (0.1, {}, {"detector.image_score": "top_fraction"}),
    "detector.dim": (50, {}, PADIM),
    "detector.regularisation": (0.1, {}, OWN),
    "threshold.confidence": (0.95, {"threshold.calibration": "none"}, {}),
    "threshold.folds": (3, {"threshold.calibration": "split"}, {}),
    "threshold.share": (
        0.3,
        {"threshold.calibration": "folds"},
        {"threshold.calibration": "split"},
    ),
}


def test_the_fields_that_act_under_another_one_s_value():
    known = dict(flat(config_lib.FIELDS))
    assert IDLE.keys() == {name for name, field in known.items() if field.under}


@pytest.mark.parametrize("name", IDLE)
def test_a_field_without_effect_is_found(name):
    value, without, under = IDLE[name]
    config = config_lib.base()
    config.update_from_flattened_dict({**under, name: value})
    assert name not in [one.name for one in idle(config_lib.FIELDS, config)]
    config = config_lib.base()
    config.update_from_flattened_dict(without)
    assert name not in [one.name for one in idle(config_lib.FIELDS, config)]
    config.update_from_flattened_dict({name: value})
    assert name in [one.name for one in idle(config_lib.FIELDS, config)]
    config_lib.validate(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ensemble.mean_deviation": True}, "False where config.ensemble.members is"),
        (
            {"threshold.false_alarms": 0.0, "threshold.confidence": 0.9},
            "confidence=0.9 must be 0 where config.threshold.false_alarms=0",
        ),
    ],
)
def test_other_fields_without_effect(fields, message):
    config = config_lib.base()
    config.update_from_flattened_dict(fields)
    with pytest.raises(InputError, match=message):
        config_lib.validate(config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_has_a_docstring_with_its_command(path):
    module = load(path)
    config_lib.validate(module.get_config())
    assert methods.idle(module.get_config()) == []
    command = "sweep" if hasattr(module, "sweep") else "main"
    place = path.relative_to(ROOT).as_posix()
    assert f"python -m jaxad.{command} " in module.__doc__
    assert f"--config {place}" in module.__doc__


def test_reconpatch_s_configs_say_that_they_leave_its_equation_10_out():
    paths = [path for path in CONFIGS if path.stem.startswith("reconpatch")]
    paths = [path for path in paths if path.parent.name == "configs"]
    assert len(paths) == 5
    for path in paths:
        module = load(path)
        assert module.get_config().detector.image_score == "max"
        assert "eq. 10" in module.__doc__


# Of arguments that take some words or numbers alone, one that is no default.
GIVEN = {
    "base": "moco",
    "detector": "patchcore",
    "protocol": "2cls_highshot",
    "reading": "map",
    "shots": 5,
    "size": 320,
    "task": "segmentation",
}


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path.parent.name == "configs"], ids=str
)
def test_an_argument_that_is_given_wins_over_runlocal(path, monkeypatch):
    """Every field that it sets to its value has that value in a short run, too."""
    parse, taken = config_lib.parse_arg, {}

    def noted(arg, local=None, **defaults):
        taken.update(defaults)
        return parse(arg, local, **defaults)

    monkeypatch.setattr(config_lib, "parse_arg", noted)
    module, checked = load(path), set()
    usual = dict(flat(module.get_config().to_dict()))
    del taken["runlocal"]
    given = [(name, GIVEN.get(name, _other(x))) for name, x in taken.items()]
    if "category" in taken:
        given.append(("category", "all"))
    for name, value in given:
        whole, local = (
            dict(flat(module.get_config(f"{name}={value}{small}").to_dict()))
            for small in ("", ",runlocal")
        )
        sets = {
            field
            for field, x in whole.items()
            if x in (value, (value, value))
            and (x != usual[field] or field == f"dataset.{name}")
        }
        assert {field: local[field] for field in sets} == {
            field: whole[field] for field in sets
        }
        checked |= {name} if sets else set()
    assert {"backbone", "category", "size", "epochs"} & taken.keys() <= checked


def _other(default):
    return default + 1 if isinstance(default, int | float) else f"{default}x"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_takes_runlocal(path):
    full, local = load(path).get_config(), load(path).get_config("runlocal")
    config_lib.validate(local)
    assert full.dataset.limit == 0
    assert 0 < local.dataset.limit <= 32
    if path.parent.name == "configs":
        assert re.search("second|minute", load(path).__doc__.partition("`runlocal`")[2])
    if local.dataset.name != "folder" and local.method.name != "spd":
        assert "," not in local.dataset.category != "all"  # which SPD's classes may be


@pytest.mark.parametrize("name", ["elpv", "mvtec", "visa", "btad"])
@pytest.mark.parametrize(
    ("reading", "stages", "log_odds"),
    [("map", ("dnp", "whitening"), 1.0), ("place", ("dnp", "ncl", "whitening"), 0.25)],
)
def test_tocoad_s_configs_have_what_poly_chooses(name, reading, stages, log_odds):
    module = load(ROOT / f"configs/tocoad_{name}.py")
    config = module.get_config(f"reading={reading}")
    methods.check(config)
    assert config.method.stages == stages
    whitening = config.method.whitening
    assert (whitening.shrinkage, whitening.log_odds) == (1.0, log_odds)
    assert config.method.grey == (name == "elpv")
    assert methods.idle(config) == []
    with pytest.raises(InputError, match="reading=D must be one of paper, map, place"):
        module.get_config("reading=D")


def test_the_study_of_the_map_is_of_no_other_reading():
    study = load(ROOT / "configs/ablations/tocoad_map.py")
    for data in ("elpv", "btad"):
        config = study.get_config(f"data={data}")
        assert config.dataset.name == data
        assert config.method.stages == ("dnp", "whitening")
    with pytest.raises(InputError, match="argument reading has no effect on"):
        study.get_config("reading=paper")


def test_what_an_argument_gives_by_a_name():
    taken = config_lib.taken
    assert taken("a=1,path=data=2,a=3", "a") == ("3", "path=data=2")
    assert taken("path=data=2", "data") == (None, "path=data=2")  # no part of a value
    assert taken("runlocal,", "runlocal") == ("", "")
    assert taken(None, "a") == (None, "")


def test_poly_is_where_settings_are_chosen_if_nothing_else_is_said():
    study = load(ROOT / "configs/ablations/tocoad_selection.py")
    assert study.get_config().dataset.category == "poly"
    assert study.get_config("category=mono").dataset.category == "mono"
    config = study.get_config("data=mvtec")
    assert (config.dataset.name, config.dataset.category) == ("mvtec_ad", "all")
