"""The arrows between the parts, read from the syntax tree.

A file directly in `jaxad/` is a command or something every part uses; a folder is a
part. `ARROWS` says what each may import.
"""

import ast
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "jaxad"
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path
    for path in ROOT.rglob("*.py")
}

COMMANDS = {"main", "check", "predict", "report", "extend", "sweep", "export", "serve"}
EVERYWHERE = {"errors", "config", "config_fields", "fields", "names", "rng", "arrays"}
EVERYWHERE |= {"progress", "signals"}
# What the commands share, and what calls them by name.
AROUND = {"command_line", "arguments", "__main__"}
PURE = {
    "curves",
    "histogram",
    "losses",
    "metrics",
    "optim",
    "patches",
    "probes",
    "protocols",
}
PURE |= {"resampled", "scores", "statistics"}
ARROWS = {
    "commands": {"run", "inference", "reporting", "serving", "data", "methods"}
    | {"devices"},
    # What a finished run shows.
    "reporting": {"run", "inference", "detectors", "data", "methods", "pure"},
    # Detectors for whoever asks.
    "serving": {"inference", "data"},
    "run": {"training", "inference", "detectors", "data", "methods", "models"}
    | {"augment", "devices", "pure"},
    "training": {"methods", "devices"},
    # A fitted detector without the run that made it.
    "inference": {"detectors", "data", "methods", "models", "devices", "pure"},
    "detectors": {"methods", "bank", "devices", "pure"},
    "methods": {"models", "augment", "pure"},
    "data": set(),
    "augment": set(),
    "models": set(),
    "bank": {"devices"},
    "devices": set(),
    "pure": set(),
}


def imports(path):
    """Dotted names that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(module):
    """`methods` of `jaxad.methods.tocoad`, `commands` of `jaxad.main`; None outside."""
    names = module.removesuffix(".__init__").split(".")
    if names[0] != "jaxad" or len(names) == 1:
        return None
    name = names[1]
    if name in COMMANDS | AROUND:
        return "commands"
    return "pure" if name in PURE else name


ARROWS_FOUND = {
    module: {part(name) for name in imports(path)} - {None}
    for module, path in MODULES.items()
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows(module):
    mine = part(module)
    if mine is None or mine in EVERYWHERE:  # these know each other alone
        assert ARROWS_FOUND[module] <= EVERYWHERE
    else:
        assert ARROWS_FOUND[module] <= ARROWS[mine] | EVERYWHERE | {mine}


def test_no_circle():
    graphlib.TopologicalSorter(ARROWS).prepare()  # raises CycleError


def test_every_arrow_is_drawn():
    """An arrow that nobody uses is none."""
    drawn = {(part(m), to) for m, found in ARROWS_FOUND.items() for to in found}
    assert {(a, b) for a, to in ARROWS.items() for b in to} <= drawn


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_file_at_the_top_is_a_command_or_used_everywhere(module):
    if module.count(".") == 1 and MODULES[module].name != "__init__.py":
        name = module.removeprefix("jaxad.")
        assert name in COMMANDS | AROUND | EVERYWHERE | PURE


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_models_know_linen(module):
    if part(module) != "models":
        linen = {n for n in imports(MODULES[module]) if n.startswith("flax.linen")}
        assert not linen


@pytest.mark.parametrize("module", sorted(MODULES))
def test_siblings_do_not_know_each_other(module):
    """A method or a scorer never leans on another one; files of one begin alike."""
    if part(module) in ("methods", "detectors") and module.count(".") == 2:
        shared = {f"jaxad.{part(module)}.{name}" for name in SHARED[part(module)]}
        for name in imports(MODULES[module]):
            sibling = ".".join(name.split(".")[:3])
            if sibling in MODULES and part(sibling) == part(module):
                own = sibling.split("_")[0] == module.split("_")[0]
                assert own or sibling in shared, f"{module} imports {sibling}"


SHARED = {"methods": {"base"}, "detectors": {"base", "threshold"}}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_needs_tensorflow_or_torch(module):
    packages = {name.split(".")[0] for name in imports(MODULES[module])}
    assert not packages & {"tensorflow", "torch", "torchvision", "timm", "sklearn"}
