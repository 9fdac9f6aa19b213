"""Every program of a run compiled for TPU slices, none of which need be there.

  python benchmarks/tpu.py [--slices v5e-8,v5e-256,v6e-8] [--runs tocoad_mvtec,...]
                           [--programs step] [--out docs/tpu.md]

Needs the extra `tpu`, whose compiler it is, and no TPU. Prints a row a program as it is
compiled: memory of a chip, operations, traffic, collectives, and the roofline of the
chip's published peaks: what no run can be faster than. A program that cannot be
compiled has its error in the row. `--out` appends the rows to a file, and goes on where
that ends: compiling takes from seconds to an hour.
"""

import argparse
import pathlib
import time

from gpu import config_of

from jaxad.devices import costs, slices
from jaxad.run import pipeline as pipeline_lib
from jaxad.run import programs

# Name, argument, training images of the largest category of MVTec AD, or the corpus.
RUNS = {
    "patchcore_elpv": ("patchcore_elpv", "", 352),
    "patchcore_mvtec": ("patchcore_mvtec", "", 391),
    "reconpatch_mvtec": ("reconpatch_mvtec", "", 391),
    "tocoad_mvtec": ("tocoad_mvtec", "", 391),
    "spd_simsiam": ("spd_imagenet", "base=simsiam", 1_268_000),
    "spd_moco": ("spd_imagenet", "base=moco", 1_268_000),
    "spd_simclr": ("spd_imagenet", "base=simclr", 1_268_000),
    "spd_supervised": ("spd_imagenet", "base=supervised", 1_268_000),
}
HEAD = (
    "| slice | run | program | compiled in, s | MB of a chip | GFLOP | GB moved | "
    "collectives, MB | at best, ms |\n|---|---|---|--:|--:|--:|--:|---|--:|"
)


def row(where: str, run: str, program, chip, mesh, passes: int) -> str:
    start, label = time.perf_counter(), f"| {where} | {run} | {program.name} "
    try:
        compiled = program.lowered("tpu").compile()
    except Exception as error:  # whatever the compiler says is the finding
        return f"{label}| {type(error).__name__}: {str(error).splitlines()[0]} |||||||"
    taken = time.perf_counter() - start
    cost = costs.of(program, compiled, mesh.size)
    sent = ", ".join(
        f"{count} {kind} ({size / 1e6:.3g})"
        for kind, (count, size) in cost.collectives.items()
    )
    return (
        f"{label}| {taken:.0f} | {cost.peak / 1e6:,.0f} | "
        f"{cost.operations / 1e9:.3g} | {cost.moved / 1e9:.3g} | {sent or 'none'} | "
        f"{1e3 * cost.seconds(chip, passes):.3g} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", default="v5e-8,v5e-256,v6e-8")
    parser.add_argument("--runs", default=",".join(RUNS))
    parser.add_argument("--programs", default="", help="a part of their names")
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    done = ""
    if arguments.out:
        done = arguments.out.read_text() if arguments.out.exists() else ""

    def say(line: str) -> None:
        print(line, flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(f"{line}\n")

    if HEAD not in done:
        say(HEAD)
    for where in arguments.slices.split(","):
        chip, mesh = slices.of(where)
        for run in arguments.runs.split(","):
            name, argument, images = RUNS[run]
            for member in pipeline_lib.members(config_of(name, argument, False)):
                pipeline = programs.abstract(member, mesh)
                for one in programs.of(pipeline, images):
                    wanted = arguments.programs in one.name
                    if wanted and f"| {where} | {run} | {one.name} |" not in done:
                        passes = costs.PASSES[member.precision]
                        say(row(where, run, one, chip, mesh, passes))


if __name__ == "__main__":
    main()
