import json

import pytest

from jaxad.training import writer


class Events:
    """Stands for tensorboardX.SummaryWriter."""

    def __init__(self, folder, purge_step):
        self.purge_step, self.scalars, self.closed = purge_step, [], False
        Events.last = self

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch):
    monkeypatch.setattr(writer, "SummaryWriter", None)


def test_one_line_a_step(tmp_path):
    with writer.Writer(tmp_path / "stage") as curves:
        curves.write(10, {"loss": 0.5, "rank": 3})
        # Every line is on disk at once.
        text = (tmp_path / "stage/metrics.jsonl").read_text()
        assert text == '{"step": 10, "loss": 0.5, "rank": 3.0}\n'
        curves.write(20, {"loss": float("nan")})
    text = (tmp_path / "stage/metrics.jsonl").read_text()
    assert text.splitlines()[1] == '{"step": 20, "loss": null}'


@pytest.mark.parametrize("tail", ["", '{"step": 3, "lo', '{"step": 4, "x": 1.0}\n'])
def test_going_on_drops_later_and_broken_lines(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "x": 1.0}\n{"step": 2, "x": 1.0}\n' + tail)
    with writer.Writer(tmp_path, start_step=2) as curves:
        curves.write(3, {"x": 9})
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [1, 2, 3]


def test_tensorboard_gets_the_same_values(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SummaryWriter", Events)
    with writer.Writer(tmp_path, start_step=5) as curves:
        curves.write(7, {"loss": 0.25})
    assert Events.last.purge_step == 6 and Events.last.closed
    assert Events.last.scalars == [("loss", 0.25, 7)]
