"""Jobs of a study: which there are, who does them, and what becomes of failures."""

import contextlib
import runpy
import signal
import subprocess
import sys
import threading

import pytest
import runs

from jaxad import config as config_lib
from jaxad import sweep
from jaxad.devices import locks
from jaxad.errors import InputError
from jaxad.inference import folder
from jaxad.run import experiment, pipeline, results, study


def jobs(folder, rows=("a", "b"), seeds=(0, 1)):
    return study.jobs(config_lib.base(), {row: {} for row in rows}, seeds, folder)


def outcome(auroc=0.5):
    mean = {**dict.fromkeys(results.COLUMNS), "image_auroc": auroc}
    return {"mean": mean, "seconds": {"total": 60.0}}


def attempt(job):
    """A run that takes a minute, and does nothing."""
    for _, workdir in job.runs:
        results.write_json(job.place / workdir / "results.json", outcome())
    return [outcome()] * len(job.runs)


def test_every_row_has_its_fields_seeds_and_folder(tmp_path):
    rows = {"ten %": {"coreset.ratio": 0.1}, "one %": {"feature_cache": "there"}}
    found = study.jobs(config_lib.base(), rows, [0, 2], tmp_path)
    (first, _), (workdir, *_) = zip(*(job.runs[0] for job in found[:2]), strict=True)
    assert workdir == str(tmp_path / "ten_" / "0")
    assert [job.name for job in found] == [
        "ten %, seed 0", "ten %, seed 2", "one %, seed 0", "one %, seed 2"
    ]  # fmt: skip
    assert [job.configs[0].seed for job in found] == [0, 2, 0, 2]
    assert [job.configs[0].coreset.ratio for job in found] == [0.1, 0.1, 0.01, 0.01]
    assert first.feature_cache == str(tmp_path / "features")
    assert first.train.stage_cache == str(tmp_path / "stages")
    assert found[2].configs[0].feature_cache == "there"


def test_seeds_whose_heads_train_together_are_one_job(tmp_path):
    config = config_lib.base()
    with config.unlocked():
        config.method.vectorize = 0
    (job,) = study.jobs(config, {"a": {}}, [0, 1, 2], tmp_path)
    assert [*zip(*job.repeats, strict=True)][0] == (0, 1, 2)
    assert job.name == "a, seeds 0, 1, 2"
    (other,) = study.jobs(config, {"a": {}}, [2, 3], tmp_path)
    with job.tried() as mine:  # of a shell with other seeds it is the same run
        assert mine and other.is_locked
        with other.tried() as theirs:
            assert not theirs
    assert not (job.is_locked or other.is_locked)


@pytest.mark.parametrize(
    "fields", [{"coreset.ration": 0.1}, {"nowhere.ratio": 1}, {"batch_size": "many"}]
)
def test_a_field_that_does_not_exist_or_fit(tmp_path, fields):
    (field,) = fields
    with pytest.raises(InputError, match=f"row 'a' of the sweep sets {field}="):
        study.jobs(config_lib.base(), {"a": fields}, [0], tmp_path)


def test_rows_that_would_share_a_folder(tmp_path):
    with pytest.raises(InputError, match="'a b' and 'a_b' of the sweep would share"):
        jobs(tmp_path, ("a b", "a_b"))
    with pytest.raises(InputError, match="'stages' of the sweep would share"):
        jobs(tmp_path, ("stages",))


def test_a_baseline_that_is_no_row(tmp_path):
    study.begin(jobs(tmp_path), tmp_path, "b")
    written = results.read_json(tmp_path / study.PLAN)
    assert written == {"rows": {"a": "a", "b": "b"}, "baselines": {"a": "b"}}
    study.begin(jobs(tmp_path, "abc"), tmp_path, None, {"c": "b"})
    assert results.read_json(tmp_path / study.PLAN)["baselines"] == {"c": "b"}
    study.begin(jobs(tmp_path, "abc"), tmp_path, "c", {"c": "b"})
    assert results.read_json(tmp_path / study.PLAN)["baselines"] == {"a": "c", "b": "c"}
    with pytest.raises(InputError, match="--baseline=wide is no row"):
        study.begin(jobs(tmp_path), tmp_path, "wide")


def test_a_row_that_was_run_with_other_fields(tmp_path):
    folder, rows = tmp_path / "study", {"a": {}, "b": {"coreset.ratio": 0.1}}

    def begin(rows, **others):
        config = runs.config(tmp_path, **others)
        study.begin(study.jobs(config, rows, [0], folder), folder, "b")

    (job, _) = study.jobs(runs.config(tmp_path), rows, [0], folder)
    (member,) = pipeline.members(job.configs[0])
    results.write_json(job.place / "0" / "config.json", member.to_dict())
    begin(rows, save_seconds=5.0)
    written = results.read_json(folder / study.PLAN)
    says = "row 'a' of .* with config.bank_starts=1, which .* another --workdir"
    with pytest.raises(InputError, match=says):
        begin(dict(reversed(rows.items())), bank_starts=2)
    with pytest.raises(InputError, match="config.batch_size=8, config.coreset.ratio"):
        begin({"a": rows["b"], "b": {}}, batch_size=4)
    assert results.read_json(folder / study.PLAN) == written
    begin(rows | {"new": {"bank_starts": 2}})  # of which nothing has been run
    assert [*results.read_json(folder / study.PLAN)["rows"]] == ["a", "b", "new"]


def test_the_plan(tmp_path, monkeypatch):
    config = runs.config(runs.category(tmp_path / "things"))
    rows = {
        "one": {},
        "ten": {"coreset.ratio": 0.1},
        "other taps": {"patches.neighbourhood": 5},
        "wrong": {"dataset.resize": "resize_crop"},
    }
    folder = tmp_path / "study"
    all_of = study.jobs(config, rows, [0, 1], folder)
    told = list(study.plan(all_of, folder, lambda config: 10.0))
    assert told[:3] == [
        "Study: 4 rows, 8 runs, of 1 category each",
        f"Table: {folder / 'study.md'}, as it grows",
        "Shared: 2 feature passes of frozen backbones, kept in features/",
    ]
    assert told[3].startswith("Shared: programs, compiled 4 times at most")
    assert told[4].startswith("The row 'wrong' cannot work: config.dataset.resize_to")
    assert told[5:] == [
        "Time: some 80 seconds, if every run takes what the programs of one do and "
        "shares none of it; reading, scoring and compiling come on top; told better "
        "after the first run"
    ]

    def cannot(config):
        raise TypeError("a step of another shape")

    unknown = "Time: told after the first run"
    *_, last = study.plan(all_of, folder, cannot)
    assert last == unknown
    # Of several processes none asks: where it fails the others would wait for it.
    with monkeypatch.context() as patch:
        patch.setattr(study.jax, "process_count", lambda: 2)
        *_, last = study.plan(all_of, folder, lambda config: 10.0)
    assert last == unknown
    attempt(all_of[0])
    again = list(study.plan(all_of, folder, cannot))
    assert again[0].startswith("Study: 4 rows, 8 runs, 1 of them finished")
    assert again[5] == "Time: about 7 minutes"


def test_what_rows_share_has_one_precision_and_the_same_weights(tmp_path):
    path = runs.category(tmp_path / "things")
    rows = {"one": {}, "other": {"precision": "high"}}
    counts = []
    for weights in ("default", "random"):
        config = runs.config(path, **{"backbone.weights": weights})
        passes, _, _ = study._shared(study.jobs(config, rows, [0, 1], tmp_path))
        counts.append(len(passes))
    assert counts == [2, 4]  # of which random weights are each seed's own


def test_a_row_whose_method_or_data_set_breaks_is_recorded(tmp_path, monkeypatch):
    for name, error in (("broken_method", "RuntimeError"), ("broken_data", "OSError")):
        (tmp_path / f"{name}.py").write_text(f"raise {error}('no driver')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = {
        "method": {"method.name": "broken_method.it"},
        "data": {"dataset.name": "broken_data.it", "dataset.path": ""},
        "good": {},
    }
    config = runs.config(runs.category(tmp_path / "things"))
    all_of, told = study.jobs(config, rows, [0], tmp_path / "study"), []
    first, *_, second, last = study.plan(all_of, tmp_path / "study", lambda config: 0.0)
    assert first == "Study: 3 rows, 3 runs"
    assert second.startswith("The row 'method' cannot work: RuntimeError('no driver')")

    def tried(job):
        if job.row == "good":
            return attempt(job)
        return experiment.run_together(job.runs)

    assert study.run(all_of, tried, told=told.append) == 2
    assert [line.split(":")[0] for line in told[1::2]] == [
        "[1 of 3] method, seed 0 failed",
        "[2 of 3] data, seed 0 failed",
        "[3 of 3] good, seed 0",
    ]


def test_a_failed_run_is_recorded_and_the_others_go_on(tmp_path):
    all_of, told, grown = jobs(tmp_path), [], []

    def fails(job):
        if job.row == "a":
            raise [InputError("no such file"), RuntimeError("out of memory")][
                job.repeats[0].seed
            ]
        return attempt(job)

    def changed():
        grown.append(len(list(tmp_path.glob("*/*/results.json"))))

    failed = study.run(all_of, fails, told=told.append, changed=changed)
    assert failed == 2 and grown == [0, 0, 1, 2]
    assert told[::2] == [f"{job.name} begins" for job in all_of]
    assert told[1] == "[1 of 4] a, seed 0 failed: no such file"
    place = tmp_path / "a" / "1.failed.txt"
    assert told[3].startswith("[2 of 4] a, seed 1 failed: RuntimeError(")
    assert told[3].endswith(f"({place} has all of it)")
    assert "Traceback" in place.read_text()
    assert told[5] == (
        "[3 of 4] b, seed 0: image_auroc 50.00, in 0 seconds; about 60 seconds left"
    )
    assert not list(tmp_path.rglob(".*.lock"))
    # The next call does what has failed, and of the rest it says nothing.
    told.clear()
    assert study.run(all_of, attempt, told=told.append) == 0
    assert told[::2] == ["a, seed 0 begins", "a, seed 1 begins"]
    assert [line[:18] for line in told[1::2]] == [
        "[4 of 4] a, seed 0",
        "[4 of 4] a, seed 1",
    ]
    assert not list(tmp_path.rglob("*.failed.txt"))


def test_what_others_work_on_is_waited_for(tmp_path, monkeypatch):
    all_of, order = jobs(tmp_path, seeds=(0,)), []
    other = contextlib.ExitStack()
    assert other.enter_context(all_of[0].tried())
    assert all_of[0].is_locked

    def finish(seconds):
        order.append("waits")
        place = all_of[0].failures()[0]
        results.write_text(place, "the other one has failed")
        other.close()

    def attempted(job):
        order.append(job.row)
        return attempt(job)

    monkeypatch.setattr(study.time, "sleep", finish)
    failed = study.run(all_of, attempted, told=lambda line: None)
    assert order == ["b", "waits"] and failed == 1  # not tried again at once
    assert not all_of[0].is_locked


def test_two_workers_do_no_run_twice(tmp_path):
    all_of, done = jobs(tmp_path, "abcdefgh", (0,)), []

    def once(job):
        if not job.is_finished:
            done.append(job.row)
        return attempt(job)

    workers = [
        threading.Thread(target=study.run, args=(all_of, once), kwargs={"told": str})
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(done) == list("abcdefgh")


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    lock = tmp_path / ".run.lock"
    script = (
        f"import fcntl, time; file = open({str(lock)!r}, 'w'); "
        "fcntl.flock(file, fcntl.LOCK_EX); print('has it', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=-1) as other:
        other.stdout.readline()
        with locks.tried(tmp_path / "run") as mine:
            assert not mine
        other.send_signal(signal.SIGKILL)
    assert lock.exists()
    with locks.tried(tmp_path / "run") as mine:
        assert mine
    assert not lock.exists()


def test_a_seed_of_few_shots_is_a_draw(tmp_path):
    few = {"dataset.protocol": "2cls_fewshot", "dataset.shots": 5}
    rows = {"few": few, "all": {}}
    found = study.jobs(config_lib.base(), rows, [0, 3], tmp_path)
    drawn = [(one.seed, one.dataset.draw) for job in found for one in job.configs]
    assert drawn == [(0, 0), (3, 3), (0, 0), (3, 0)]
    found = study.jobs(config_lib.base(), rows, [0, 3], tmp_path, [1, 2])
    drawn = [(one.seed, one.dataset.draw) for job in found for one in job.configs]
    assert drawn == [(0, 1), (0, 2), (3, 1), (3, 2), (0, 0), (3, 0)]
    assert found[3].name == "few, seed 3, draw 2" and found[3].places[0].name == "3.2"
    assert study.Repeat.of_folder("3.2") == (3, 2)
    assert study.Repeat.of_folder("0") == (0, None)
    assert study.Repeat.of_folder("features") is None
    with pytest.raises(InputError, match="--draws has no effect, since no row takes"):
        study.jobs(config_lib.base(), {"all": {}}, [0], tmp_path, [1, 2])


def test_every_seed_has_its_weights(tmp_path):
    config = config_lib.base()
    with config.unlocked():
        config.method.vectorize = 0
    fields = {"backbone.weights": "pre/{seed}/backbone.safetensors"}
    found = study.jobs(config, {"a": fields}, [0, 3], tmp_path)
    assert [[one.backbone.weights for one in job.configs] for job in found] == [
        ["pre/0/backbone.safetensors"],
        ["pre/3/backbone.safetensors"],
    ]


ABLATIONS = [
    name
    for name in config_lib.names()
    if name.startswith(("ablations/tocoad", "ablations/reconpatch"))
]


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_row_of_an_ablation_is_a_run(name, tmp_path):
    path = config_lib.find(name)
    module, added = runpy.run_path(path), sweep.rows(path)[0]
    config = module["get_config"]("data=elpv,category=poly")
    assert config.dataset.category == "poly"
    found = []
    for job in study.jobs(config, added, [0], tmp_path):
        (member, *_) = pipeline.members(job.configs[0])
        folder.networks(member)  # which checks the method's fields
        with member.unlocked():
            del member["feature_cache"], member["train"]
        found.append(member.to_json())
    assert len(added) > 1 and len(set(found)) == len(added)
    with pytest.raises(InputError, match="data=mnist"):
        module["get_config"]("data=mnist")


def test_every_table_of_the_papers_is_one_config():
    """ReConPatch's 1 to 7 and ToCoAD's A1 to A7."""
    abouts = [runpy.run_path(config_lib.find(name))["__doc__"] for name in ABLATIONS]
    for table in range(1, 8):
        assert sum(f"ReConPatch, Table {table}:" in about for about in abouts) == 1
        assert sum(f"ToCoAD, ablation A{table}:" in about for about in abouts) == 1
