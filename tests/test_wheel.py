"""`pip install .` brings all that the commands need, to any folder."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from jaxad import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what a wheel would install, and nothing else."""
    source = tmp_path_factory.mktemp("source")
    for name in ("jaxad", "configs", "tfds_builders"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, source)
    wheels = tmp_path_factory.mktemp("wheels")
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run(
        [sys.executable, "-m", "pip", *build, "--wheel-dir", wheels, source], check=True
    )
    (wheel,) = wheels.iterdir()
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_is_whole(installed):
    top = {path.name.partition("-")[0] for path in installed.iterdir()}
    assert top == {"jaxad", "tfds_builders"}  # no `configs`, which anybody may have
    for folder in ("jaxad", "tfds_builders"):
        missing = [
            path
            for path in (ROOT / folder).rglob("*")
            if path.is_file()
            and not {"__pycache__", "dummy_data"}.intersection(path.parts)
            and not (installed / path.relative_to(ROOT)).exists()
        ]
        assert not missing
    for name in config_lib.names():
        assert (installed / f"jaxad/configs/{name}.py").exists()
    (points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "jaxad = jaxad.__main__:main" in points.read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("main", "--config", "tocoad_mvtec", "--help"), "--config.method.name=tocoad"),
        (
            ("sweep", "--config", "ablations/reconpatch_dim:data=elpv", "--help"),
            "--config.dataset.name=elpv",
        ),
        (("sweep", "--config", "ablations/tocoad_loss", "--seeds=a"), "--seeds=a must"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_configs_work_outside_of_the_clone(arguments, expected, installed, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jaxad", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert expected in done.stdout + done.stderr, done.stderr
    assert str(ROOT) not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
