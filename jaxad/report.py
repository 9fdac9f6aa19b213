"""Writes the report of a run or a study, or compares runs, as one page of HTML.

  python -m jaxad.report RUN [RUN ...] [--out FILE]

Of one run, or of one study of `jaxad.sweep`, the page is `report.html` in its folder;
a run writes it by itself. Several runs are compared with the first: on the same test
images by paired tests, with the images that changed sides; runs on other images stand
side by side. That page is `comparison.html` in the present folder.

A page needs nothing beside it but, of more than 2,500 images, the folder of pictures
that has its name.
"""

import os
import pathlib
from collections.abc import Sequence

from absl import flags

from jaxad import command_line
from jaxad.errors import InputError

_OUT = flags.DEFINE_string("out", None, "The file to write, NAME.html.")


def main(named: Sequence[str]) -> None:
    folders = [pathlib.Path(one).expanduser() for one in named]
    for folder in folders:
        if not folder.is_dir():
            there = "is a file" if folder.exists() else "does not exist"
            raise InputError(f"RUN={folder} {there}; name the --workdir of a run")
    if len(set(folder.resolve() for folder in folders)) < len(folders):
        raise InputError("a run is named twice; name each once")
    page = None if _OUT.value is None else pathlib.Path(_OUT.value).expanduser()
    if page is not None and page.suffix not in (".html", ".htm"):
        raise InputError(f"--out={page} must be a file NAME.html")
    # Nothing is computed, and a run that goes on may hold the accelerators.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from jaxad.reporting import pages

    if len(folders) == 1:
        page = pages.write(folders[0], page)
    else:
        page = page or pathlib.Path("comparison.html")
        pages.write_comparison(folders, page)
    print(f"Report: {page}")


if __name__ == "__main__":
    command_line.run(main, "report", (), operands="RUN")
