"""The signatures of the image operations are part of the style."""

import inspect

import pytest

from jaxad.augment import (
    anomalies,
    blur,
    colour,
    cutpaste,
    geometry,
    nsa,
    poisson,
    views,
)

PUBLIC = [
    function
    for module in (anomalies, blur, colour, cutpaste, geometry, nsa, poisson, views)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
]


@pytest.mark.parametrize("function", PUBLIC, ids=lambda f: f.__name__)
def test_key_comes_first_and_options_by_keyword(function):
    parameters = list(inspect.signature(function).parameters.values())
    names = [p.name for p in parameters]
    assert "rng" not in names and "seed" not in names
    assert "key" not in names[1:]
    for parameter in parameters:
        by_keyword = parameter.kind == parameter.KEYWORD_ONLY
        assert by_keyword == (parameter.default is not parameter.empty)
