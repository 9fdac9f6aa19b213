"""Every test sees eight CPU devices, and silent rank promotion is an error."""

import gc
import os
import shutil
import tempfile

# TensorFlow is a test-only dependency and logs to stderr at import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import calls
import jax
import pytest
import runs
from absl import flags

from jaxad.run import experiment

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Where no numbers are compared, tests mostly compile. XLA's older emitters take two
# thirds of the time, and a program in one part less than in several, which gain nothing
# where every core has tests. XLA ends a process for a flag that it does not know.
_FAST = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1"
if _FAST and jax.__version_info__ < (0, 11):
    flags_of_xla = (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    )
    os.environ["XLA_FLAGS"] = " ".join(flags_of_xla).strip()

# What one test, worker or command has compiled no other one compiles again. The folder
# is this session's own: what another machine has compiled may not run on this one.
_COMPILED = None
if not jax.config.jax_compilation_cache_dir:
    _COMPILED = tempfile.mkdtemp(prefix="jaxad-compiled-")
    for name, value in (
        ("jax_compilation_cache_dir", _COMPILED),
        ("jax_persistent_cache_min_compile_time_secs", 0.0),
    ):
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)

# grain reads absl flags when it starts threads; under pytest nobody parses them.
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


def pytest_collection_finish():
    """Tracing makes many objects, and looking through all modules for garbage takes a
    tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_unconfigure():
    if _COMPILED:
        shutil.rmtree(_COMPILED, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _temporary(tmp_path_factory):
    """TFDS leaves an empty folder for every builder that it makes: here they go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("other")))
        yield


@pytest.fixture(scope="module")
def one_device():
    """Runs have one, whose programs compile in a third of the time that eight take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1)
        yield


@pytest.fixture(scope="session")
def server():
    """Starts commands."""
    made = calls.Server()
    yield made
    made.close()


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    """The images of runs that are stopped."""
    return runs.things(tmp_path_factory.mktemp("images") / "things")


@pytest.fixture(scope="session")
def whole(things, tmp_path_factory):
    """The folder of such a run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    experiment.run(runs.stoppable(things), str(workdir))
    return workdir
