"""The arrows between the parts, read from the syntax tree."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "jaxad"
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path
    for path in ROOT.rglob("*.py")
}
# What a part may never import, by the first component below jaxad.
RUN = {"fit", "experiment", "extend", "main"}
FORBIDDEN = {
    "methods": {"train", "feed", "data", "checkpoint", "writer", "evaluate"}
    | {"pipeline", "descriptors", "results", "detectors"}
    | RUN,
    "detectors": {"train", "feed", "data", "checkpoint", "writer", "evaluate"}
    | {"pipeline", "descriptors", "results"}
    | RUN,
    "models": {"methods", "detectors", "train", "data", "pipeline", *RUN},
    "data": {"methods", "detectors", "train", "models", "pipeline", *RUN},
    "feed": {"data", "train", "detectors", "pipeline", *RUN},
    "train": {"data", "detectors", "pipeline", *RUN},
    "pipeline": {"descriptors", "detectors", "train", "evaluate", *RUN},
    "descriptors": {"train", "evaluate", *RUN},
    "stages": {"train", "evaluate", *RUN},
    "evaluate": {"train", *RUN},
    "fit": {"evaluate", *(RUN - {"fit"})},
    "experiment": {"extend", "main"},
    **dict.fromkeys(
        ("patches", "scores", "losses", "augment", "memory_bank", "coreset")
        + ("distances", "metrics", "optim", "rows", "sharding", "rng"),
        {"methods", "detectors", "train", "feed", "data", "evaluate", "results"}
        | {"pipeline", "descriptors", "checkpoint", "writer"}
        | RUN,
    ),
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
    """`methods` of `jaxad.methods.tocoad`; "" outside jaxad."""
    names = module.split(".")
    return names[1] if names[0] == "jaxad" and len(names) > 1 else ""


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows(module):
    found = {part(name) for name in imports(MODULES[module])}
    assert not found & FORBIDDEN.get(part(module), set())


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_models_know_linen(module):
    if part(module) != "models":
        linen = {n for n in imports(MODULES[module]) if n.startswith("flax.linen")}
        assert not linen


@pytest.mark.parametrize("module", sorted(MODULES))
def test_siblings_do_not_know_each_other(module):
    if part(module) in ("methods", "detectors") and module.count(".") == 2:
        shared = {f"jaxad.{part(module)}.base", f"jaxad.{part(module)}"}
        for name in imports(MODULES[module]):
            sibling = ".".join(name.split(".")[:3])
            if sibling in MODULES and part(sibling) == part(module):
                assert sibling in shared, f"{module} imports {sibling}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_needs_tensorflow_or_torch(module):
    packages = {name.split(".")[0] for name in imports(MODULES[module])}
    assert not packages & {"tensorflow", "torch", "torchvision", "timm", "sklearn"}
