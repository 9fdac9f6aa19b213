import importlib.util
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

from jaxad import config as config_lib
from jaxad import methods
from jaxad.augment import anomalies, views
from jaxad.augment import fields as augment
from jaxad.errors import InputError
from jaxad.fields import (
    ABOVE_0,
    NOT_ALL,
    NOT_NEGATIVE,
    ODD,
    PART,
    RANGE,
    SHARE,
    SOME,
    TEXTS,
    Field,
    acting,
    at_least,
    between,
    check,
    defaults,
    differing,
    flat,
    idle,
    markdown,
    numbers_of,
    one_of,
    range_within,
    some_of,
    text,
)
from jaxad.methods import reconpatch_fields, tocoad_fields

ROOT = pathlib.Path(__file__).parents[1]
NAN = float("nan")

TABLE = dict(
    sigma=Field(0.5, "bandwidth (ours)", ABOVE_0),
    decoder=dict(
        skip=Field("none", "connections", one_of("none", "unet")),
        size=Field((3,), "a|b", numbers_of("one number", lambda x: x > 0, 1)),
    ),
    flip=Field(False, "mirror"),
)


def test_the_defaults_are_a_config_of_their_own():
    config = defaults(TABLE)
    wanted = {"skip": "none", "size": (3,)}
    assert config.to_dict() == {"sigma": 0.5, "decoder": wanted, "flip": False}
    config.decoder.skip = "unet"
    assert defaults(TABLE).decoder.skip == "none"


@pytest.mark.parametrize(
    ("bound", "default", "good", "bad"),
    [
        (ABOVE_0, 1.0, [1, 0.1], [0, -1.0, NAN, "1", None, True]),
        (NOT_NEGATIVE, 1, [0, 5], [-1, 1.5, "a", False]),
        (SHARE, 0.5, [0, 1, 0.5], [-0.1, 1.1, NAN]),
        (SOME, 0.5, [0.01, 1], [0, 1.1]),
        (NOT_ALL, 0.5, [0, 0.99], [-0.1, 1.0]),
        (PART, 0.5, [0.1], [0.0, 1.0]),
        (ODD, 3, [1, 3], [0, 2, -1, 3.0]),
        (at_least(2), 2, [2, 3], [1]),
        (between(1, 3), 2, [1, 3], [0, 4]),
        (one_of("a", "b"), "a", ["a", "b"], ["c", 1, ("a",)]),
        (some_of("a", "b"), ("a",), [(), ["b", "a"]], ["a", ("c",), (1,)]),
        (TEXTS, (), [(), ("a", "b")], ["a", (1,)]),
        (RANGE, (1, 2), [(1, 1), [0, 2.5]], [(2, 1), (1,), (1, NAN), ("a", "b"), 3]),
        (range_within(1, 8), (1, 8), [(2, 3)], [(0, 3), (3, 9), (3, 2)]),
        (numbers_of("w", lambda x: x > 0, 0, 2), (), [(), (1, 2)], [(1,), (1, 0)]),
        (numbers_of("w", lambda x: x > 0), (), [(), (1, 2, 3)], [("a",), (True,)]),
        (None, 1, [-3], [0.5, "a", None]),
        (None, True, [False], [0, "yes"]),
        (None, "a", [""], [1, None]),
        (None, 0.5, [-1], ["a"]),
    ],
    ids=lambda value: getattr(value, "words", ""),
)
def test_what_a_field_may_be(bound, default, good, bad):
    field = Field(default, "meaning", bound)
    for value in (default, *good):
        field.check("a.b", value)
    for value in bad:
        with pytest.raises(InputError, match=r"^config\.a\.b="):
            field.check("a.b", value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sigma": -1.0}, "config.method.sigma=-1.0 must be above 0"),
        ({"sigma": "a"}, "config.method.sigma='a' must be a number"),
        (
            {"decoder.skip": "unnet"},
            "config.method.decoder.skip='unnet' is not known (did you mean 'unet'?); "
            "choose one of none, unet",
        ),
        (
            {"decoder.size": ("a",)},
            "config.method.decoder.size=('a',) must be one number",
        ),
        ({"flip": 1}, "config.method.flip=1 must be true or false"),
    ],
)
def test_a_sentence_names_the_field(changes, sentence):
    config = defaults(TABLE)
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    with pytest.raises(InputError) as error:
        check(TABLE, config, "method")
    assert str(error.value) == sentence


def test_a_field_that_is_missing():
    config = {"sigma": 0.5, "decoder": 3}
    with pytest.raises(InputError, match="^config.decoder.skip is missing; .* is none"):
        check(TABLE, config)


UNDER = dict(
    kind=Field("a", "kind", one_of("a", "b")),
    parts=Field(("x", "y"), "parts", some_of("x", "y")),
    b=acting(
        dict(one=Field(1, "one"), two=Field(2, "", under=("mode", 1))), "kind", "b"
    ),
    mode=Field(0, "mode", under=("parts", "x")),
    names=Field((), "names", TEXTS, under=("kind", "a", "b")),
)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, {}),
        ({"names": ["x"], "mode": 1}, {}),
        ({"b.one": 3}, {"b.one": "kind"}),
        ({"b.one": 3, "kind": "b"}, {}),
        ({"b.one": 3, "kind": "own.part"}, {}),  # which may read it
        ({"mode": 2, "parts": ("y",)}, {"mode": "parts"}),
        ({"mode": 2, "parts": ("y", "x")}, {}),
        ({"b.two": 3}, {"b.two": "mode"}),
        ({"b.two": 3, "mode": 1}, {}),
        ({"b.two": 3, "mode": 1, "parts": ()}, {"b.two": "parts", "mode": "parts"}),
    ],
)
def test_fields_without_effect_are_found_with_what_is_in_their_way(changes, found):
    config = defaults(UNDER)
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    table = {**UNDER, "kind": Field("a", "kind")}
    assert {one.name: one.other for one in idle(table, config)} == found
    in_group = [one.name for one in idle(table, config, "method")]
    assert in_group == [f"method.{name}" for name in found]


@pytest.mark.parametrize(
    ("other", "message"),
    [("modes", "a under modes: modes is no field"), ("b", "a under b under a: a has")],
)
def test_a_table_whose_fields_act_under_nothing(other, message):
    table = dict(a=Field(1, "", under=(other, 2)), b=Field(2, "", under=("a", 3)))
    with pytest.raises(InputError, match=message):
        idle(table, {"a": 3, "b": 2})


def test_what_is_missing_is_no_field_without_effect():
    assert idle(UNDER, {"b": {"one": 3}}) == []
    assert [one.name for one in idle(UNDER, {"kind": "a", "b": {"one": 3}})] == [
        "b.one"
    ]


def test_a_sentence_on_a_field_without_effect():
    config = defaults(UNDER)
    config.b.one = 3
    (found,) = idle(UNDER, config, "method")
    assert str(found) == (
        "config.method.b.one=3 has no effect with config.method.kind=a; leave it at 1, "
        "or set that to b"
    )


def test_lists_of_fields():
    assert markdown(TABLE, "method").splitlines()[2:] == [
        "| `method.sigma` | `0.5` | above 0 | bandwidth (ours) |",
        "| `method.decoder.skip` | `none` | one of none, unet | connections |",
        r"| `method.decoder.size` | `(3,)` | one number | a\|b |",
        "| `method.flip` | `False` | true or false | mirror |",
    ]
    config = defaults(TABLE)
    config.sigma = 2.0
    assert text(TABLE, config).splitlines()[:4] == [
        "  --config.sigma=2.0  (above 0; 0.5 by default)",
        "      bandwidth (ours)",
        "  --config.decoder.skip=none  (one of none, unet)",
        "      connections",
    ]


@pytest.mark.parametrize(
    "table",
    [config_lib.FIELDS, reconpatch_fields.FIELDS, tocoad_fields.FIELDS],
    ids=len,
)
def test_every_default_is_within_its_bounds(table):
    check(table, defaults(table))
    assert all(field.meaning for _, field in flat(table))


@pytest.mark.parametrize(
    ("function", "table"),
    [
        (anomalies.perlin, augment.PERLIN),
        (anomalies.vary_texture, augment.PERLIN["vary"]),
        (anomalies.cutpaste_patch, augment.CUTPASTE["patch"]),
        (anomalies.cutpaste_scar, augment.CUTPASTE["scar"]),
        (anomalies.nsa, augment.NSA),
        (views.weak_view, augment.WEAK_VIEW),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_constants_of_a_generator_are_its_function_s(function, table):
    parameters = inspect.signature(function).parameters
    for name, entry in table.items():
        if isinstance(entry, Field):
            assert parameters[name].default == entry.default, name
        else:
            assert name in parameters


def test_the_page_of_fields_is_up_to_date():
    spec = importlib.util.spec_from_file_location("page", ROOT / "docs" / "fields.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    committed = (ROOT / "docs" / "fields.md").read_text(encoding="utf-8")
    assert page.text() == committed, "run python docs/fields.py"


# ---- --help


def ask(*arguments, command="main"):
    return subprocess.run(
        [sys.executable, "-m", f"jaxad.{command}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", ["main", "sweep"])
def test_help_lists_flags_and_fields_and_needs_no_jax(command):
    asked = ask("--help", command=command)
    assert asked.returncode == 0
    assert f"python -m jaxad.{command} --config configs/" in asked.stdout
    for flag in ("config", "workdir", "coordinator"):
        assert f"\n  --{flag}: " in asked.stdout
    assert "\n  --config.batch_size=16  (at least 1)\n" in asked.stdout
    for name, field in flat(config_lib.FIELDS):
        assert f"\n  --config.{name}=" in asked.stdout
        assert field.meaning.split()[0] in asked.stdout
    assert "tfds" not in asked.stdout and "grain" not in asked.stdout
    imported = {line.split("|")[-1].strip() for line in asked.stderr.splitlines()}
    assert "absl.flags" in imported and not imported & {"jax", "scipy", "orbax"}


def test_help_of_a_config_lists_its_method_s_fields_and_values():
    config = "configs/reconpatch_elpv.py:dim=32"
    asked = ask("--config", config, "--config.method.k=7", "-h")
    assert asked.returncode == 0, asked.stderr
    assert "--config.method.dim=32  (at least 1; 512 by default)" in asked.stdout
    assert "--config.method.k=7  (at least 1; 5 by default)" in asked.stdout
    for name, _ in flat(reconpatch_fields.FIELDS, "method"):
        assert f"\n  --config.{name}=" in asked.stdout


def test_help_of_a_config_that_does_not_exist():
    asked = ask("--config", "configs/none.py", "--help")
    assert asked.returncode == 2 and not asked.stdout
    assert "error: the config file configs/none.py does not exist" in asked.stderr


def test_the_table_of_a_method_without_fields_is_its_name():
    assert list(methods.fields(config_lib.base())) == ["name"]


def test_what_differs_goes_by_names_in_dots():
    one = {"seed": 0, "train": {"keep": 2, "save": {"every": 5}}}
    other = {"seed": 0, "train": {"keep": 3, "save": {"every": 5}}, "more": 1}
    assert list(flat(one)) == [("seed", 0), ("train.keep", 2), ("train.save.every", 5)]
    assert differing(one, other) == differing(other, one) == {"train.keep", "more"}
