import io
import logging

import pytest

from jaxad import progress


@pytest.fixture
def at(monkeypatch):
    """Sets the clock; the latest line was written at 0."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_latest", 0.0)
    return lambda seconds: now.__setitem__(0, seconds)


def test_without_a_terminal_there_is_a_line_a_minute_with_an_estimate(at, caplog):
    caplog.set_level(logging.INFO, "jaxad")
    with progress.bar(total=100, unit="img", desc="a: features", initial=10) as bar:
        at(50)  # with the programs compiled
        bar.update(10)
        for second in range(52, 70, 2):
            at(second)
            bar.update()
        assert bar.n == 29
    with progress.bar(total=1000, unit="step", desc="ncl") as bar:
        at(100)
        bar.update(5)
        at(121)
        bar.update(10)
        at(190)
        bar.update(985)
    assert [record.getMessage() for record in caplog.records] == [
        # One in two seconds since the first ten, and 75 to come.
        "a: features: 25 of 100 images, about 2 minutes left",
        "ncl: 15 of 1000 steps, about 34 minutes left",
        "ncl: 1000 of 1000 steps",
    ]


def test_the_first_step_has_no_estimate(at, caplog):
    caplog.set_level(logging.INFO, "jaxad")
    with progress.bar(total=100, unit="img", desc="fit") as bar:
        at(61)
        bar.update()
    assert caplog.records[0].getMessage() == "fit: 1 of 100 images"


def test_without_a_total_there_is_a_count(at, caplog):
    caplog.set_level(logging.INFO, "jaxad")
    with progress.bar(total=None, unit="file", desc="extract a.zip") as bar:
        bar.update(4)
        at(61)
        bar.update()
    assert caplog.records[0].getMessage() == "extract a.zip: 5 files"


def test_what_is_not_shown_says_nothing(at, caplog, capsys):
    caplog.set_level(logging.INFO, "jaxad")
    with progress.bar(total=100, unit="img", desc="fit", shown=False) as bar:
        at(61)
        bar.update()
        bar.set_postfix({"loss": "1"})
    assert not caplog.records and capsys.readouterr() == ("", "")


def test_in_a_terminal_there_is_a_bar(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "jaxad")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.bar(total=2, unit="img", desc="fit") as bar:
        bar.update(2)
    assert "fit: 100%" in terminal.getvalue() and not caplog.records


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(89, "89 seconds"), (90, "2 minutes"), (5390, "90 minutes"), (5400, "1.5 hours")],
)
def test_in_words(seconds, words):
    assert progress.in_words(seconds) == words
