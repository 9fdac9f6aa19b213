import importlib.util
import os
import platform
import subprocess
import sys

import pytest

from jaxad.devices import allocation

# Settings of malloc are a process's for good, so each case has its own. A block is
# touched and freed, then asked for again, whose pages are new to the process or not.
SCRIPT = """
import resource
from jaxad.devices import allocation

def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"x") * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = allocation.keep_freed()
touched()
print(kept, touched())
"""


def keep_freed(**environment: str) -> tuple[str, int]:
    """What it returned, and the pages that were new the second time."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_"))
    }
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=ours | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, pages = told.stdout.split()
    return kept, int(pages)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_memory_that_was_freed_is_kept_unless_the_user_or_a_plugin_decides(tmp_path):
    (tmp_path / "jax_plugins").mkdir()
    told = tmp_path / "told" / "any-1.dist-info"  # a plugin by an entry point alone
    told.mkdir(parents=True)
    (told / "entry_points.txt").write_text("[jax_plugins]\nany = any\n")
    path, entry = (
        os.pathsep.join([str(place), *filter(None, sys.path)])
        for place in (tmp_path, told.parent)
    )
    assert keep_freed(MALLOC_ARENA_MAX="8")[0] == "False"
    assert keep_freed(GLIBC_TUNABLES="glibc.malloc.arena_max=8")[0] == "False"
    assert keep_freed(PYTHONPATH=path)[0] == "False"
    assert keep_freed(PYTHONPATH=entry)[0] == "False"
    if not any(importlib.util.find_spec(name) for name in allocation._PLUGINS):
        kept, pages = keep_freed()
        assert kept == "True" and pages < 100  # of 16,384
