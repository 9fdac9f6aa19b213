"""Every program of a run compiled for TPU slices, none of which need be there.

  python benchmarks/tpu.py [--slices v5e-8,v5e-256,v6e-8] [--runs "tocoad_mvtec;..."]
                           [--programs step] [--effort -1] [--seconds 3600]
                           [--out PAGE] [--texts FOLDER]

Needs the extra `tpu`, whose compiler it is, and no TPU. Prints a row a program as it is
compiled: memory of a chip, operations, traffic, collectives, the roofline of the chip's
published peaks, which no run can be faster than, and what compiling took. A program
that cannot be compiled has its error in the row, and so has one that is not compiled
after `--seconds`. `--effort 0` compiles as a run does, and says so in the row; from the
usual -1 to it seconds may become hours. `--out` keeps the rows in the table of a page,
as docs/accelerators.md, and leaves out what that has; `--texts` keeps the compiled
programs' texts.
"""

import argparse
import os
import pathlib
import sys
import threading
import time
from typing import Any, NamedTuple

from gpu import config_of

from jaxad.devices import costs, slices
from jaxad.run import pipeline as pipeline_lib
from jaxad.run import programs


class Run(NamedTuple):
    """A config of ours.

    Attributes:
      config, argument: its name, and its argument.
      images: of the largest category of its data, or of the corpus.
      fields: of the config that are others.
      heads: of categories and seeds, where one program trains several.
    """

    config: str
    argument: str
    images: int
    fields: dict[str, Any] = {}
    heads: int = 1


RUNS = {
    "patchcore_elpv": Run("patchcore_elpv", "", 352),
    "patchcore_mvtec": Run("patchcore_mvtec", "", 391),
    "patchcore_mvtec, approximate": Run(
        "patchcore_mvtec", "", 391, {"detector.search": "approximate"}
    ),
    "reconpatch_mvtec": Run("reconpatch_mvtec", "", 391),
    "reconpatch_mvtec, 15 heads": Run(
        "reconpatch_mvtec", "", 391, {"method.vectorize": 0}, heads=15
    ),
    "tocoad_mvtec": Run("tocoad_mvtec", "", 391),
    "spd_simsiam": Run("spd_imagenet", "base=simsiam", 1_268_000),
    "spd_moco": Run("spd_imagenet", "base=moco", 1_268_000),
    "spd_simclr": Run("spd_imagenet", "base=simclr", 1_268_000),
    "spd_supervised": Run("spd_imagenet", "base=supervised", 1_268_000),
}
HEAD = (
    "| slice | config | program | MB of a chip | GFLOP | GB moved | "
    "collectives (MB) | at best, ms | CPU s to compile |",
    "|---|---|---|--:|--:|--:|---|--:|--:|",
)


class Table:
    """The rows so far, in a page's table where there is a page."""

    def __init__(self, page: pathlib.Path | None):
        self._page, self._before, self._after = page, [], []
        self._rows: list[str] = []
        if page and page.exists():
            lines = page.read_text(encoding="utf-8").splitlines()
            first = lines.index(HEAD[0]) if HEAD[0] in lines else len(lines)
            rest = iter(lines[first + len(HEAD) :])
            self._before = lines[:first]
            for line in rest:
                if not line.startswith("|"):
                    self._after = [line, *rest]
                    break
                self._rows.append(line)
        for line in (*HEAD, *self._rows):
            print(line, flush=True)

    def has(self, label: str) -> bool:
        return any(row.startswith(label) for row in self._rows)

    def add(self, row: str) -> None:
        print(row, flush=True)
        self._rows.append(row)
        if self._page:
            self._rows.sort(key=_order)
            lines = *self._before, *HEAD, *self._rows, *self._after
            self._page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _order(row: str) -> tuple[int, int]:
    """By slice and config, and else as they came."""
    where, run = (cell.strip() for cell in row.split("|")[1:3])
    return slices.NAMES.index(where), list(RUNS).index(run)


def row(label: str, program, chip, mesh, passes: int, effort, text) -> str:
    start = time.process_time()
    try:
        compiled = slices.compiled(program, effort)
    except Exception as error:  # whatever the compiler says is the finding
        return f"{label} {type(error).__name__}: {str(error).splitlines()[0]} ||||||"
    taken = time.process_time() - start
    if text:
        text.write_text(compiled.as_text(), encoding="utf-8")
    cost = costs.of(program, compiled, mesh.size)
    sent = ", ".join(
        f"{count} {kind} ({size / 1e6:.3g})"
        for kind, (count, size) in cost.collectives.items()
    )
    return (
        f"{label} {cost.peak / 1e6:,.0f} | {cost.operations / 1e9:.3g} | "
        f"{cost.moved / 1e9:.3g} | {sent or 'none'} | "
        f"{1e3 * cost.seconds(chip, passes):.3g} | {taken:.2g} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", default="v5e-8,v5e-256,v6e-8")
    parser.add_argument("--runs", default=";".join(RUNS), help="with ; between them")
    parser.add_argument(
        "--programs", default="", help="parts of their names, with ; between them"
    )
    parser.add_argument("--effort", type=float, default=slices.LEAST)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--texts", type=pathlib.Path)
    arguments = parser.parse_args()
    table, parts = Table(arguments.out), arguments.programs.split(";")
    effort, texts = arguments.effort, arguments.texts
    note = "" if effort == slices.LEAST else f", effort {effort:g}"
    if texts:
        texts.mkdir(parents=True, exist_ok=True)

    def give_up(label: str) -> None:
        """From another thread: nothing else ends a compiler."""
        table.add(f"{label} not compiled in {arguments.seconds:.0f} s ||||||")
        if arguments.out:  # which knows what is done
            os.execv(sys.executable, [sys.executable, *sys.argv])
        os._exit(1)

    for where in arguments.slices.split(","):
        chip, mesh = slices.of(where)
        for name in arguments.runs.split(";"):
            run = RUNS[name]
            config = config_of(run.config, run.argument, False)
            config.update_from_flattened_dict(run.fields)
            for member in pipeline_lib.members(config):
                pipeline = programs.abstract(member, mesh)
                for one in programs.of(pipeline, run.images, run.heads):
                    label = f"| {where} | {name} | {one.name}{note} |"
                    wanted = any(part in one.name for part in parts)
                    if not wanted or table.has(label):
                        continue
                    timer = threading.Timer(arguments.seconds, give_up, [label])
                    timer.start()
                    text = texts and texts / f"{where} {name} {one.name}{note}.txt"
                    passes = costs.PASSES[member.precision]
                    found = row(label, one, chip, mesh, passes, effort, text)
                    timer.cancel()
                    table.add(found)


if __name__ == "__main__":
    main()
