"""README.md and docs/: every command and Python block is run, or says why it is not.

`<!-- not run: REASON -->` before a block says so. What is not run is looked at all the
same: flags, configs, fields, files and extras that a command names are there.
"""

import ast
import importlib.util
import inspect
import pathlib
import re
import shlex
import tomllib
import types
from typing import NamedTuple

import calls
import pytest
import runs

import jaxad
from jaxad import __main__ as entry
from jaxad import config as config_lib
from jaxad import detectors, methods
from jaxad.fields import flat

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {
    page.name: page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
REASONS = {
    "installs",
    "minutes",
    "needs data",
    "needs a network",
    "needs a peer",
    "needs a service",
    "needs several hosts",
    "runs until it is stopped",
}
PATTERN = "a pattern"  # of commands, and none itself


class Block(NamedTuple):
    page: str
    file: str | None  # that the text before it names, in backquotes
    reason: str | None
    kind: str
    text: str


_FENCED = re.compile(
    r"(?:`([\w/]+\.py)`:\n\n)?"
    r"(?:^ *<!-- not run: ([^>\n]*) -->\n)?"
    r"^(?P<indent> *)```(\S*)[^\n]*\n(.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


def blocks_of(page, text):
    for file, reason, _, kind, body in _FENCED.findall(text):
        yield Block(page, file or None, reason or None, kind, body)


BLOCKS = [block for page, text in PAGES.items() for block in blocks_of(page, text)]


def commands_of(text):
    """Words of every command in the text of a block."""
    for line in text.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            if words := shlex.split(command, comments=True):
                yield tuple(words)


def spans_of(page):
    """What stands in backquotes outside of blocks."""
    prose = re.sub(r"^( *)```.*?^\1```$", "", PAGES[page], flags=re.M | re.S)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def jaxad_arguments(words):
    """Arguments of the command `jaxad`, None of anything else."""
    match words:
        case ("jaxad", *arguments):
            return arguments
        case ("python", "-m", module, *arguments):
            name = module.removeprefix("jaxad.")
            return [name, *arguments] if name in entry.COMMANDS else None
    return None


def is_command(span):
    first, *rest = span.split()
    return bool(rest) and first in ("python", "jaxad", "make", "pip", "git")


IN_BLOCKS = [
    (block, words)
    for block in BLOCKS
    if block.kind == "sh" and block.reason != PATTERN
    for words in commands_of(block.text)
]
IN_PROSE = [
    tuple(shlex.split(span))
    for page in PAGES
    for span in spans_of(page)
    if is_command(span) and "COMMAND" not in span
]
COMMANDS = sorted({words for _, words in IN_BLOCKS} | set(IN_PROSE))
TYPED = [words for words in COMMANDS if jaxad_arguments(words)]
# In the order of the pages, since one may need what another one has made.
UNMARKED = list(dict.fromkeys(words for block, words in IN_BLOCKS if not block.reason))
TO_RUN = [words for words in UNMARKED if words in TYPED]

# What a page takes for granted. A small network stands in for the default one.
_SMALL = """
import runs
from jaxad import config
config.base = runs.config("", **{"coreset.ratio": 0.1}).copy_and_resolve_references
"""
_PICTURES = f"""{_SMALL}
import numpy
from PIL import Image
array, pil_image = numpy.zeros((40, 48, 3), numpy.uint8), Image.new("L", (40, 40))
"""
GIVEN = {
    "README.md": _PICTURES,
    "predict.md": _PICTURES,
    "threshold.md": """
import numpy
scores = scores_of_the_day = numpy.random.default_rng(0).random(200)
new = [0.5, 2.0]
""",
    "generators.md": """
import jax, numpy
from jaxad import rng
from jaxad.augment import anomalies
step_key = jax.random.key(0)
batch = {"index": numpy.arange(2), "image": numpy.full((2, 32, 32, 3), 0.5)}
""",
}
PYTHON = [block for block in BLOCKS if block.kind == "python" and not block.file]
SCRIPTS = {
    page: "\n".join([GIVEN.get(page, ""), *(b.text for b in PYTHON if b.page == page)])
    for page in dict.fromkeys(block.page for block in PYTHON)
}

# A small network stands in for the default one, and a small run for the demo's.
SMALL = (
    "--config.backbone.name=plugins.backbone",
    "--config.dataset.image_size=(32, 32)",
    "--config.coreset.ratio=0.2",
    "--config.compilation_cache=",
)
DEMO = ("main", "--config", "patchcore_folder:path=mono", "--workdir", "runs/demo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all that the pages name lies."""
    folder = tmp_path_factory.mktemp("docs")
    runs.category(folder / "DIR")
    runs.category(folder / "mono")
    for i in range(8):
        runs.picture(folder / f"NEW/{i}.png", 300 + i)
        runs.picture(folder / f"good parts/{i}.png", 400 + i)
    runs.picture(folder / "a.png", 500)
    runs.picture(folder / "tomorrow/part_017.jpg", 501)
    for i in range(12):
        runs.picture(folder / f"NAMED/{i:04}_ok.png", 600 + i)
        runs.picture(folder / f"NAMED/{i:04}_scratch.png", 700 + i, bad=True)
    (folder / "own").mkdir()
    (folder / "own/__init__.py").touch()
    for block in BLOCKS:
        if block.file:
            (folder / block.file).write_text(block.text)
    return folder


@pytest.fixture(scope="module")
def answers(folder, server):
    """(exit status, output): of commands with --help, of those run, of Python."""
    asked = {}
    for words in TYPED:
        arguments = [*jaxad_arguments(words), "--help"]
        asked["--help", words] = [
            x.replace("FILE", "patchcore_elpv") for x in arguments
        ]
    asked["run", DEMO] = [*DEMO, *SMALL]
    for words in TO_RUN:
        more = ()
        if "--config" in words:
            own = any(word.startswith("own/") for word in words)
            more = SMALL[-1:] if own else SMALL
            if "--config.detector.name=padim" in words:  # which has no coreset
                more = [word for word in more if "coreset" not in word]
        asked["run", words] = [*jaxad_arguments(words), *more]
    for page, text in SCRIPTS.items():
        (folder / f"{page}.py").write_text(text)
        asked["python", page] = ["python", f"{page}.py"]
    found = calls.calls(list(asked.values()), folder, server)
    found = [(status, text) for status, text, _ in found]
    return dict(zip(asked, found, strict=True))


def test_blocks_are_of_a_known_kind():
    """A command in a plain block would go unseen."""
    for block in BLOCKS:
        assert block.reason in {None, PATTERN, *REASONS}, block
        assert block.kind in ("sh", "python", "") or block.kind.startswith("{"), block
        if not block.kind:
            assert not any(map(is_command, filter(str.strip, block.text.splitlines())))
    text = "".join(PAGES.values())
    assert len(re.findall("<!-- not run:", text)) == sum(bool(b.reason) for b in BLOCKS)
    assert len(re.findall(r"^ *```", text, re.M)) == 2 * len(BLOCKS)


@pytest.mark.parametrize("words", TYPED, ids=" ".join)
def test_flags_configs_and_fields_of_a_command_are_there(words, answers):
    status, text = answers["--help", words]
    assert status == 0, text


@pytest.mark.parametrize("words", UNMARKED, ids=" ".join)
def test_a_command_runs(words, answers):
    assert words in TO_RUN, "only jaxad is run here; say before it why this one is not"
    assert answers["run", DEMO][0] == 0, answers["run", DEMO][1]
    status, text = answers["run", words]
    assert status == 0 and "Traceback" not in text, text


@pytest.mark.parametrize(
    "words", [words for words in COMMANDS if words not in TYPED], ids=" ".join
)
def test_any_other_command_is_of_what_is_there(words):
    match words:
        case ("python", "-m"):
            pass
        case ("python", "-m", module, *_):
            assert importlib.util.find_spec(module)
        case ("python", script, *arguments):
            known = set(re.findall(r'add_argument\(\s*"([^"]+)"', source(script)))
            typed = {word for word in arguments if word.startswith("--")}
            assert typed <= known
        case ("make", *targets):
            makefile = (ROOT / "Makefile").read_text()
            for target in targets:
                assert re.search(rf"^{target}:", makefile, re.M)
        case ("curl", *options, address):
            sent = {part.partition("=")[0] for part in options if part != "-F"}
            assert sent <= {"image", "category", "map"}
            assert address == "http://127.0.0.1:8000/v1/predict"
        case ("pip", "install", what, *_):
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            extra = re.fullmatch(r"\.(?:\[(\w+)\])?", what)
            assert extra[1] is None or extra[1] in project["optional-dependencies"]
        case _:
            clone = ("git", "clone", "<this", "repository>", "jaxad"), ("cd", "jaxad")
            assert words in clone


def source(script):
    return (ROOT / script).read_text(encoding="utf-8")


# ---- Python


@pytest.mark.parametrize("page", SCRIPTS)
def test_python_blocks_run(page, answers):
    status, text = answers["python", page]
    assert status == 0, text


def test_the_files_of_one_s_own_are_all_used():
    files = {pathlib.Path(block.file).stem for block in BLOCKS if block.file}
    text = "".join(" ".join(words) for words in TO_RUN)
    text += "".join(block.text for block in BLOCKS if block.file)
    assert {name for name in files if re.search(rf"own[./]{name}", text)} == files


# ---- What pages name


def known_fields():
    tables = [config_lib.FIELDS]
    names = {name for table in tables for name, _ in flat(table)}
    config = config_lib.base()
    for config.method.name in methods.NAMES:
        names |= {name for name, _ in flat(methods.fields(config), "method")}
    groups = {name.rsplit(".", i)[0] for name in names for i in (1, 2)}
    return names | groups


@pytest.mark.parametrize("page", PAGES)
def test_fields_that_a_page_names_exist(page):
    named = re.findall(r"\bconfig\.([a-z]\w*(?:\.[a-z]\w*)*)", " ".join(spans_of(page)))
    assert set(named) - known_fields() - {"json", "base", "py", "a.b"} == set()


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    folders = "jaxad|configs|benchmarks|docs|tests|tfds_builders"
    named = re.findall(rf"(?:{folders})/[\w/.]+\.\w+", " ".join(spans_of(page)))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_index_of_the_api_has_what_one_calls():
    wanted = {f"jaxad.methods.{name}" for name in methods.NAMES}
    wanted |= {f"jaxad.detectors.{name}" for name in detectors.NAMES}
    wanted |= set(jaxad._MODULES.values())
    files = {path.stem for path in (ROOT / "jaxad/augment").glob("*.py")}
    wanted |= {f"jaxad.augment.{name}" for name in files - {"__init__", "fields"}}
    assert wanted - set(re.findall(r"^   ([\w.]+)$", PAGES["api.md"], re.M)) == set()


def test_links_of_the_readme_lead_somewhere():
    """Those of the docs are looked at when the site is built."""
    links = re.findall(r"\]\((?!http)([^)]+)\)", PAGES["README.md"])
    assert links and [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize(
    "script",
    [str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("benchmarks/*.py"))],
)
def test_a_benchmark_uses_what_there_is(script):
    """Names of jaxad's modules, and arguments by keyword, which nobody else checks."""
    tree = ast.parse(source(script))
    known, assigned = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            assigned.add(node.id)
        elif isinstance(node, ast.arg):
            assigned.add(node.arg)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("jaxad"):
            for alias in node.names:
                module = importlib.import_module(node.module)
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                known[alias.asname or alias.name] = getattr(module, alias.name)

    def value(node):
        if isinstance(node, ast.Name) and node.id not in assigned:
            return known.get(node.id)
        if isinstance(node, ast.Attribute):
            of = value(node.value)
            if isinstance(of, types.ModuleType):
                assert hasattr(of, node.attr), f"{of.__name__} has no {node.attr}"
                return getattr(of, node.attr)
        return None

    for node in ast.walk(tree):
        found = value(node.func if isinstance(node, ast.Call) else node)
        if isinstance(node, ast.Call) and inspect.isfunction(found):
            parameters = inspect.signature(found).parameters.values()
            named = {k.arg for k in node.keywords if k.arg}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                assert named <= {p.name for p in parameters}, found
