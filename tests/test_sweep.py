import pytest

from jaxad import config as config_lib
from jaxad import sweep
from jaxad.errors import InputError
from jaxad.run import experiment, results


def study(tmp_path, body):
    path = tmp_path / "study.py"
    path.write_text(body)
    return str(path)


def test_rows_in_the_order_of_the_file(tmp_path):
    path = study(
        tmp_path,
        "def sweep(add):\n"
        "    for s in (3, 5):\n"
        "        add(f's={s}', {'patches.neighbourhood': s})\n",
    )
    assert list(sweep.rows(path).items()) == [
        ("s=3", {"patches.neighbourhood": 3}),
        ("s=5", {"patches.neighbourhood": 5}),
    ]


def test_a_file_without_a_sweep(tmp_path):
    with pytest.raises(InputError, match="has no sweep.*python -m jaxad.main"):
        sweep.rows(study(tmp_path, "x = 1\n"))


def test_a_row_named_twice(tmp_path):
    body = "def sweep(add):\n    add('a', {})\n    add('a', {})\n"
    with pytest.raises(InputError, match="adds the row 'a' twice"):
        sweep.rows(study(tmp_path, body))


def outcome(auroc):
    return {"mean": {**dict.fromkeys(results.COLUMNS), "image_auroc": auroc}}


def test_run_gives_every_row_its_fields_seeds_and_folder(tmp_path, monkeypatch):
    seen = []

    def run(config, workdir):
        seen.append((workdir, config.seed, config.coreset.ratio, config.feature_cache))
        assert config.train.stage_cache == str(tmp_path / "stages")
        return outcome(0.5 + config.seed / 10)

    def run_together(runs):
        return [run(*each) for each in runs]

    monkeypatch.setattr(experiment, "run_together", run_together)
    rows = {"ten %": {"coreset.ratio": 0.1}, "one %": {}}
    text = sweep.run(config_lib.base(), rows, [0, 2], str(tmp_path))
    cache = str(tmp_path / "features")
    assert seen == [
        (str(tmp_path / "ten_" / "0"), 0, 0.1, cache),
        (str(tmp_path / "ten_" / "2"), 2, 0.1, cache),
        (str(tmp_path / "one_" / "0"), 0, 0.01, cache),
        (str(tmp_path / "one_" / "2"), 2, 0.01, cache),
    ]
    # 50 and 70 per cent: mean 60, deviation sqrt(200).
    assert text == (
        "| row | image_auroc |\n"
        "| --- | ---: |\n"
        "| ten % | 60.00 ± 14.14 |\n"
        "| one % | 60.00 ± 14.14 |\n"
    )
    assert (tmp_path / "sweep.md").read_text() == text


@pytest.mark.parametrize(
    "fields", [{"coreset.ration": 0.1}, {"nowhere.ratio": 1}, {"batch_size": "many"}]
)
def test_a_field_that_does_not_exist_or_fit(tmp_path, fields):
    (field,) = fields
    with pytest.raises(InputError, match=f"row 'a' of the sweep sets {field}="):
        sweep.run(config_lib.base(), {"a": fields}, [0], str(tmp_path))


def test_the_table_of_backbones_has_their_probes():
    def backbone(knn):
        return {"probes": {}, "mean": {"spread": 0.5, "knn_accuracy": knn}}

    table = sweep.table({"with": [backbone(0.25), backbone(0.75)]})
    assert table.splitlines()[0] == "| row | spread | knn_accuracy |"
    assert "| with | 0.5000 ± 0.0000 | 0.5000 ± 0.3536 |" in table
