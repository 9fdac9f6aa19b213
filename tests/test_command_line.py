"""What is typed: names of configs and commands, mistakes, and `--help`."""

import importlib.util
import os
import pathlib

import calls
import ml_collections
import pytest
import test_architecture
from absl import flags

import jaxad
from jaxad import __main__ as entry
from jaxad import command_line, sweep
from jaxad import config as config_lib
from jaxad.errors import InputError, NotHere

ROOT = pathlib.Path(__file__).parents[1]


def answers(lines, folder):
    """(exit status, output, whether JAX was imported) of each line."""
    found = calls.calls([line.split() for line in lines], folder)
    return dict(zip(lines, found, strict=True))


FILES = {
    "README.md": "# No config\n",
    "fault.py": "def get_config(arg=None)\n    return 1\n",
    "empty.py": "x = 1\n",
    "plain.py": "def get_config(arg=None):\n    return {}\n",
    "needs.py": "import nowhere\n",
    "wrong.py": "from jaxad import config\n\ndef get_config():\n"
    "    made = config.base()\n    made.bachbone.name = 'x'\n    return made\n",
    "own.py": "from jaxad import config\n\ndef get_config():\n"
    "    made = config.base()\n    made.backbone.mine = 3\n    return made\n",
    "my/mine.py": "from jaxad import config, fields\n"
    "FIELDS = dict(name=fields.Field('my.mine', ''), kind=fields.Field('a', ''),\n"
    "    b=fields.Field(1, '', under=('kind', 'b')))\n"
    "def build(config, backbone):\n    pass\n"
    "def get_config():\n    made = config.base()\n"
    "    made.method = fields.defaults(FIELDS)\n    return made\n",
}
OF_METHOD = "config.method has no field 'zz'; it has "
MISTAKES = {
    "mian --config a": "'mian' is not a command (did you mean 'main'?)",
    "xyz": "'xyz' is not a command; choose one of main, check, predict, report, ",
    # Flags
    "main": "--config is missing; see jaxad main --help",
    "main --workdir x --config.batch_size=3": "--config is missing; see jaxad main",
    "main patchcore_elpv": "--config is missing; did you mean --config patchcore_elpv?",
    "main own.py": "--config is missing; did you mean --config own.py?",
    "main --config patchcore_elpv more": "'more' is not a flag",
    "main --config own.py config.seed=3": "'config.seed=3' is not a flag; did you mean "
    "--config.seed=3?",
    "main --config tocoad_mvtec --worksdir=x": "--worksdir is not a flag (did you mean "
    "'--workdir'?)",
    "check --config own.py --out=x": "--out is not a flag; see jaxad check --help",
    "main --config.seed=3 --config own.py": "--config.seed=3 stands before --config; "
    "put --config first",
    "predict": "--run is missing; see jaxad predict --help",
    "predict images": "'images' is not a flag",
    "predict --run none --images x": "none does not exist; name a run or a detector",
    "predict --run . --images none": ". holds no detector; name a run, or a category ",
    "predict --run plain.py --images x": "plain.py is a file; name a run, or a cat",
    "predict --run exported --images none": "--images=none does not exist",
    "extend --base none --images x --workdir y": "--base=none does not exist",
    "export --run none --out x": "none does not exist; name a run or a detector",
    "serve": "--run is missing; see jaxad serve --help",
    "serve --run none": "none does not exist; name a run or a detector",
    "serve --run plain.py": "plain.py is a file; name a run, or a category inside it",
    "serve --run . --port 99999": "flag --port=99999: 99999 is not an integer "
    "in the range [0, 65535]",
    "report": "RUN is missing; see jaxad report --help",
    "report none": "RUN=none does not exist; name the --workdir of a run",
    "report README.md": "RUN=README.md is a file; name the --workdir of a run",
    "report . .": "a run is named twice; name each once",
    "report . --out x.txt": "--out=x.txt must be a file NAME.html",
    "report . --outt=x.html": "--outt is not a flag (did you mean '--out'?)",
    "sweep --config own.py": "own.py has no sweep(add); run it with python -m jaxad.",
    # Data
    "check --config patchcore_folder:path=none": "config.dataset.path='none' does not ",
    "check --config patchcore_folder": "config.dataset.path='' is empty; name the fold",
    "check --config patchcore_elpv --config.dataset.name=mvtec": "config.dataset.name="
    "'mvtec' is not known (did you mean 'mvtec_ad'?)",
    "main --config patchcore_elpv --config.dataset.category=duo": "config.dataset."
    "category='duo' is not in elpv; choose all or some of ",
    "main --config patchcore_elpv --config.backbone.weights=none.npz": "weights file "
    "none.npz does not exist",
    # Files
    "main --config README.md": "the config file README.md is not a Python file, ",
    "main --config .": "the config file . is a folder; name a file in it",
    "main --config none.py": "the config file none.py does not exist; ours are patch",
    "main --config tocoad_mvtek": "the config file tocoad_mvtek does not exist (did "
    "you mean 'tocoad_mvtec'?)",
    "main --config fault.py": "the config file fault.py has a fault in line 1: expect",
    "main --config empty.py": "the config file empty.py defines no get_config()",
    "main --config plain.py": "get_config() of plain.py returns no config; start from ",
    "main --config needs.py": "the config file needs.py fails in line 1: "
    "ModuleNotFoundError: No module named 'nowhere'",
    "main --config wrong.py": "the config file wrong.py fails in line 5: there is no "
    "field 'bachbone' (did you mean 'backbone'?)",
    "main --config own.py:category=a": "the config file own.py fails: TypeError: get_",
    "main --config patchcore_elpv:fast": "config argument 'fast' does not exist; this ",
    # Fields
    "main --config own.py --config.batch_size=lots": "config.batch_size=lots must be a "
    "whole number",
    "main --config own.py --config.batch_size lots": "config.batch_size=lots must be a "
    "whole number",
    "main --config tocoad_mvtec --config.batch_size=0": "config.batch_size=0 must be "
    "at least 1",
    "main --config tocoad_mvtec --config.backbone.nam": "config.backbone has no field "
    "'nam' (did you mean 'name'?)",
    "main --config own.py --config.backbone.min=3": "config.backbone has no field "
    "'min' (did you mean 'mine'?)",
    "main --config own.py --config.backbone.mine=x": "config.backbone.mine=x must be a "
    "whole number",
    "main --config own.py --config.backbone=x": "config.backbone is a group of fields; "
    "set one of them, such as --config.backbone.",
    "main --config own.py --config.seed.x=1": "config.seed is a field, and has no ",
    "main --config own.py --config.coreset.ratio=all": "config.coreset.ratio=all must "
    "be a number",
    "main --config own.py --config.overlays=most": "config.overlays='most' must be 0 "
    "or more, or all",
    "main --config own.py --config.dataset.check=no": "config.dataset.check=no must be "
    "true or false",
    "main --config own.py --config.dataset.image_size=64": "config.dataset.image_size="
    "(64,) must be two sizes in pixels, (height, width)",
    "main --config own.py --config.backbone.name=resnet19": "config.backbone.name="
    "'resnet19' is not known (did you mean 'resnet18'?)",
    "main --config own.py --config.detector.name=kn": "config.detector.name='kn' is "
    "not known (did you mean 'knn'?)",
    "main --config own.py --config.dataset.resize_to=256": "config.dataset.resize_to="
    "256 has no effect with config.dataset.resize=resize; leave it at 0, or set that",
    **{
        f"main --config {typed}": f"config.{sentence}"
        for typed, sentence in {
            "patchcore_mvtec --config.detector.dim=50": "detector.dim=50 has no effect "
            "with config.detector.name=knn; leave it at 100, or set that to padim",
            "own.py --config.detector.name padim --config.coreset.ratio .1": "coreset."
            "ratio=0.1 has no effect with config.detector.name=padim",
            "two_class_elpv --config.coreset.ratio=0.1": "coreset.ratio=0.1 has no "
            "effect with config.detector.name=logits",
            "two_class_elpv --config.patches.neighbourhood=1": "patches."
            "neighbourhood=1 has no effect with config.method.name=two_class",
            "tocoad_mvtec --config.method.temperature=1": "method.temperature=1.0 has "
            "no effect with config.method.contrastive=simsiam",
            "tocoad_mvtec --config.method.nsa.patches=2": "method.nsa.patches=2 has no "
            "effect with config.method.generator=perlin",
            "tocoad_elpv --config.method.stages=() --config.method.ncl.epochs=3": (
                "method.ncl.epochs=3 has no effect with config.method.stages=()"
            ),
            "my/mine.py --config.method.b=5": "method.b=5 has no effect with config."
            "method.kind=a; leave it at 1, or set that to b",
            "spd_imagenet --config.method.queue=256": "method.queue=256 has no effect "
            "with config.method.base=simsiam; leave it at 65536, or set that to moco",
        }.items()
    },
    "main --config own.py --config.detector.search=exakt": "config.detector.search="
    "'exakt' is not known (did you mean 'exact'?)",
    **{
        f"{command} --config.method.zz=1": OF_METHOD
        for command in (
            "main --config patchcore_elpv",
            "main --config tocoad_mvtec",
            "check --config reconpatch_visa",
            "main --config reconpatch_mvtec_ensemble",
            "main --config spd_imagenet",
            "main --config two_class_folder",
            "sweep --config ablations/tocoad_generator",
            "sweep --config ablations/spd_base",
        )
    },
    "main --config tocoad_mvtec --config.method.focal.gamma=two": "config.method.focal."
    "gamma=two must be a number",
    "main --config tocoad_mvtec --config.method.generator=perlim": "config.method."
    "generator='perlim' is not known (did you mean 'perlin'?)",
    "main --config spd_imagenet --config.method.optimiser=sdg": "config.method."
    "optimiser='sdg' is not known (did you mean 'sgd'?)",
    "main --config reconpatch_elpv --config.method.sigma=-1": "config.method.sigma="
    "-1.0 must be above 0",
    "main --config two_class_elpv --config.method.widths=(3,)": "config.method.widths="
    "(3,) must be five widths",
    # Fields that cannot work together
    "main --config reconpatch_elpv --config.method.k=1024": "config.method.k=1024 must "
    "be below method.batch_size=1024",
    "main --config tocoad_elpv --config.method.stages=('ncl',)": "config.method.guide="
    'gradient must be "none" where method.stages has no "dnp"',
    "main --config spd_imagenet:base=moco --config.method.queue=300": "config.method."
    "queue=300 must be a multiple of config.method.batch_size=256",
    "main --config two_class_elpv --config.detector.image_score=max": "config.detector."
    "image_score=max must be mean with config.method.task=classification",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    (folder / "exported").mkdir()
    (folder / "exported/detector.json").touch()
    return answers(list(MISTAKES), folder)


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_a_sentence_that_needs_no_jax(line, told):
    status, text, jax = told[line]
    assert status == 2
    assert text.startswith(f"error: {MISTAKES[line]}"), text
    assert "\n" not in text
    assert not jax


@pytest.mark.parametrize("command", entry.COMMANDS)
def test_help_says_what_it_does_with_an_example_and_flags(command, helps):
    status, text, jax = helps[f"{command} --help"]
    assert status == 0 and not jax
    assert text == helps[f"{command} -h"][1]
    first = "RUN" if command == "report" else "--"
    about, example = text.splitlines()[0], f"\n  jaxad {command} {first}"
    assert about.endswith(".") and example in text and "\nFlags:\n  --" in text
    assert ("--config.batch_size=16" in text) == (command in ("main", "check", "sweep"))


@pytest.fixture(scope="module")
def helps(tmp_path_factory):
    lines = [f"{name} {flag}" for name in entry.COMMANDS for flag in ("--help", "-h")]
    lines += ["", "--help", "help", "--version"]
    return answers(lines, tmp_path_factory.mktemp("help"))


def test_jaxad_alone_lists_the_commands(helps):
    assert helps[""] == helps["--help"] == helps["help"]
    status, text, jax = helps[""]
    assert status == 0 and not jax
    for name in entry.COMMANDS:
        assert f"\n  {name} " in text
    assert helps["--version"][:2] == (0, jaxad.__version__)


def test_every_command_can_be_called_by_its_name():
    assert set(entry.COMMANDS) == test_architecture.COMMANDS


# ---- Configs by name


def test_configs_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in ("tocoad_mvtec", "tocoad_mvtec.py", "configs/tocoad_mvtec.py"):
        assert config_lib.find(given) == str(ROOT / "configs/tocoad_mvtec.py")
    path = config_lib.find("ablations/reconpatch_dim")
    assert path == str(ROOT / "configs/ablations/reconpatch_dim.py")
    assert config_lib.is_ours(path)
    # A file that is there goes before one of ours.
    (tmp_path / "configs").mkdir()
    own = tmp_path / "configs/tocoad_mvtec.py"
    own.write_text("")
    assert config_lib.find("configs/tocoad_mvtec.py") == "configs/tocoad_mvtec.py"
    assert not config_lib.is_ours("configs/tocoad_mvtec.py")
    assert config_lib.find(str(own)) == str(own)


def test_what_a_study_starts_from():
    config = config_lib.study("reconpatch", "data=elpv,category=poly")
    assert (config.dataset.name, config.dataset.category) == ("elpv", "poly")
    assert config.method.name == "reconpatch"
    assert config_lib.study("tocoad", None).dataset.name == "mvtec_ad"
    with pytest.raises(InputError, match="data=dtd must be one of mvtec, visa, btad"):
        config_lib.study("tocoad", "data=dtd")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("configs/tocoad_mvtec.py", "tocoad_mvtec"),
        ("/far/away/own.py:category=poly,runlocal", "own-category=poly,runlocal"),
        ("a.py:path=/data/new parts", "a-path=_data_new_parts"),
        ("a.py:" + "x" * 300, "a-" + "x" * 189 + "-"),
        ("a.py:" + "é" * 300, "a-" + "é" * 94 + "-"),
    ],
)
def test_a_run_lies_in_a_folder_of_the_config_s_name(typed, expected, monkeypatch):
    assert "config" in flags.FLAGS, sweep
    monkeypatch.setattr(
        command_line.config_flags, "get_config_filename", lambda flag: typed
    )
    folder, name = os.path.split(command_line.workdir(None))
    assert folder == "runs" and name.startswith(expected)
    assert len(os.fsencode(name)) <= 200
    assert len(name) - len(expected) in (0, 8)
    assert command_line.workdir("here") == "here"


# ---- A question


class Terminal:
    def __init__(self, answer):
        self.answer, self.asked = answer, ""

    def isatty(self):
        return self.answer is not None

    def readline(self):
        return self.answer

    def write(self, text):
        self.asked += text

    def flush(self):
        pass


def test_data_that_are_not_here_are_told_of_before_jax_is_imported(tmp_path):
    data_dir = f"--config.dataset.data_dir={tmp_path / 'none'}"
    configs = {
        "main": "tocoad_mvtec",
        "check": "spd_mvtec",
        "sweep": "ablations/tocoad_generator",
    }
    lines = [f"{one} --config {config} {data_dir}" for one, config in configs.items()]
    for status, text, jax in answers(lines, tmp_path).values():
        assert status == 2
        assert text.startswith("error: the data set is not on this machine, and is not")
        for part in ("mvtec_anomaly_detection.tar.xz, 5.3 GB", "CC BY-NC-SA 4.0"):
            assert part in text
        # Of several processes the others have to hear of it.
        assert jax != command_line._surely_alone()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "TPU_WORKER_HOSTNAMES"])
def test_what_hints_at_other_processes(variable, monkeypatch):
    for name in list(os.environ):
        if name.startswith(command_line._CLUSTERS):
            monkeypatch.delenv(name)
    without = command_line._surely_alone()
    assert without == (importlib.util.find_spec("libtpu") is None)
    monkeypatch.setenv(variable, "1")
    assert not command_line._surely_alone()
    monkeypatch.delenv(variable)
    monkeypatch.setattr(flags.FLAGS["num_processes"], "value", 2)
    assert not command_line._surely_alone()


@pytest.mark.parametrize("alone", [True, False])
def test_processes_among_others_are_not_asked(alone, monkeypatch):
    terminal = Terminal("y\n")
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    config = ml_collections.ConfigDict({"dataset": {"download": False}})

    def look(config):
        if not config.dataset.download:
            raise NotHere("it is not here", "Download?")

    if alone:
        command_line.asking(config, look, alone=True)
    else:
        with pytest.raises(NotHere):
            command_line.asking(config, look, alone=False)
    assert config.dataset.download == alone
    assert bool(terminal.asked) == alone


@pytest.mark.parametrize(
    ("answer", "yes"),
    [("y\n", True), ("Yes\n", True), ("\n", False), ("", False), (None, False)],
)
def test_data_are_downloaded_where_somebody_says_so(answer, yes, monkeypatch):
    terminal = Terminal(answer)
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    config = ml_collections.ConfigDict({"dataset": {"download": False}}).lock()

    def run(config):
        if not config.dataset.download:
            raise NotHere("it is not here", "Download 5.3 GB?")
        return "done"

    if yes:
        assert command_line.asking(config, run) == "done"
    else:
        with pytest.raises(NotHere):
            command_line.asking(config, run)
    assert config.dataset.download == yes
    assert terminal.asked == ("Download 5.3 GB? [y/N] " if answer is not None else "")
