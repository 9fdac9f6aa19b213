"""Adds normal images to the detector of a run, and leaves that run as it is.

  python -m jaxad.extend --base RUN --images DIR --workdir NEW [--mode exact|fast]

What is learnt stays: the backbone, and a method's map. What scores is fitted again:

* `exact` fits it to the patches of all images, old ones first. A memory bank is then
  the one that a run on all of them would have, index for index. The old images are
  described again, or come from `config.feature_cache`.
* `fast`, of a memory bank, keeps every entry and goes on choosing by the same greedy
  rule, among the patches of the new images alone, until the bank has its share
  (`config.coreset.ratio`) of all patches. Old images are not read. The threshold is
  calibrated on the new images.

Results say how well the bank covers the patches, see `knn.build`. After `fast`
the covering radius of all patches is known where the old descriptors are cached;
elsewhere the larger of the old radius and that of the new patches is a bound, since
more entries bring no patch farther away.

An ensemble's members are extended one by one. What puts their scores on one scale is
measured on all images, so old images are read in either mode.
"""

import os
import pathlib

from absl import flags

from jaxad import command_line

_BASE = flags.DEFINE_string("base", None, "Folder of the run to extend.")
_IMAGES = flags.DEFINE_string("images", None, "New normal images: a folder, or a CSV.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the extended run.")
_MODE = flags.DEFINE_enum("mode", "exact", ("exact", "fast"), "How the bank grows.")
_CATEGORY = flags.DEFINE_string("category", None, "Where the run has several.")


def main() -> None:
    command_line.require_there(base=_BASE.value, images=_IMAGES.value)
    from jaxad.reporting import pages
    from jaxad.run import extend, identity, results

    workdir = _WORKDIR.value
    finished = os.path.exists(os.path.join(workdir, "results.json"))
    command_line.use_compilation_cache(identity.stored(pathlib.Path(_BASE.value)))
    outcome = extend.run(
        _BASE.value,
        _IMAGES.value,
        workdir,
        mode=_MODE.value,
        category=_CATEGORY.value,
    )
    if finished:
        print("This run is finished: nothing to do")
    pages.after(workdir)
    print(results.table(outcome), end="")
    print(f"Results: {os.path.join(workdir, 'results.json')}")
    print(f"Report: {os.path.join(workdir, pages.REPORT)}")


if __name__ == "__main__":
    command_line.run(main, "extend", ("base", "images", "workdir"))
