import pytest

from jaxad import sweep
from jaxad.errors import InputError


def study(tmp_path, body):
    path = tmp_path / "study.py"
    path.write_text(body)
    return str(path)


def test_rows_in_the_order_of_the_file(tmp_path):
    path = study(
        tmp_path,
        "def sweep(add):\n"
        "    fields = {}\n"
        "    for s in (3, 5):\n"
        "        fields['patches.neighbourhood'] = s\n"
        "        add(f's={s}', fields)\n",
    )
    assert list(sweep.rows(path)[0].items()) == [
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


def test_a_row_may_be_compared_with_its_own(tmp_path):
    body = "def sweep(add):\n    add('a', {})\n    add('b', {}, 'a')\n"
    assert sweep.rows(study(tmp_path, body))[1] == {"b": "a"}
    with pytest.raises(InputError, match="compares the row 'b' with 'A', which is no"):
        sweep.rows(study(tmp_path, body.replace("{}, 'a'", "{}, 'A'")))


def test_a_sweep_may_go_by_the_argument_of_the_config(tmp_path):
    path = study(tmp_path, "def sweep(add, arg):\n    add(f'<{arg}>', {})\n")
    assert list(sweep.rows(path, "a=1")[0]) == ["<a=1>"]
    assert list(sweep.rows(path)[0]) == ["<None>"]


def test_an_argument_that_every_row_overrules_is_known():
    path = "configs/ablations/spd_eta.py"
    assert sweep.overruled(path, "data=elpv,eta=0.3,runlocal") == {
        "eta=0.3": {"method.eta"}
    }
    assert sweep.overruled(path, "data=folder,path=.") == {}
    assert sweep.overruled(path, "") == {}
    path = "configs/ablations/spd_few_shot.py"  # whose rows go by the argument
    assert sweep.overruled(path, "data=elpv,size=64") == {}


@pytest.mark.parametrize(("head", "arg"), [("()", ""), ("(arg)", "1")])
def test_a_file_of_one_s_own_reads_its_argument_as_it_likes(head, arg, tmp_path):
    body = f"def get_config{head}:\n    from jaxad import config\n"
    body += "    made = config.base()\n"
    body += "    made.seed = int(arg)\n" if arg else ""
    body += "    return made\ndef sweep(add):\n    add('a', {'seed': 3})\n"
    assert sweep.overruled(study(tmp_path, body + "# \n"), arg) == {}


FAILS = """
from jaxad import config as config_lib

def get_config(arg=None):
    config = config_lib.base()
    config.dataset.name, config.compilation_cache = "folder", ""
    config.backbone.name = "plugins.backbone"
    config.detector.name, config.coreset.ratio = "padim", 0.5
    return config

def sweep(add):
    for name in ("here", "there"):
        add(name, {"dataset.path": name})
"""


def test_the_exit_status_says_that_runs_have_failed(tmp_path, server):
    path = study(tmp_path, FAILS)
    arguments = ("sweep", "--config", path, "--workdir", tmp_path / "runs")
    arguments += ("--config.dataset.path=elsewhere", "--config.overlays=0")
    arguments += ("--seeds=0", "--config.seed=7")
    done = server.start(*arguments, folder=tmp_path).wait()
    assert done.returncode == 1
    assert done.stdout.count("failed: config.dataset.path=") == 2
    assert done.stderr.count("without effect: config.coreset.ratio with") == 1
    overruled = "without effect: config.dataset.path=elsewhere, which every row sets"
    assert done.stderr.count(overruled) == 1 and "config.overlays" not in done.stderr
    assert done.stderr.count("without effect: config.seed=7, which --seeds sets") == 1
    assert "Study: 2 rows, 2 runs" in done.stdout and "## Failed" in done.stdout
    assert (tmp_path / "runs" / "here" / "0.failed.txt").exists()
