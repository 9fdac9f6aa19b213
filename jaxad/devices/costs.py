"""What a compiled program takes: memory, operations, traffic; a bound on its time."""

import dataclasses
import re

import numpy as np

from jaxad.devices.programs import Program
from jaxad.devices.slices import Chip

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    "collective-permute",
)
# Passes of bfloat16 products that one of float32 takes on a TPU.
PASSES = {"highest": 6, "high": 3, "default": 1}

_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one call, on each device.

    Attributes:
      arguments, scratch, peak: bytes: what it is given, what it needs beside that and
        its results, and all that is there at the same time.
      operations: of products and all else.
      moved: bytes between memory and units.
      collectives: by kind, (how many, bytes of their results).
    """

    arguments: int
    scratch: int
    peak: int
    operations: float
    moved: float
    collectives: dict[str, tuple[int, int]]

    def of_fewer(self, program: Program, share: float, devices: int) -> "Cost":
        """Of the same program for that share of the images, which is not compiled."""
        if program.operations is not None:
            operations, moved = program.operations / devices, program.moved
        else:
            scale = share if program.linear else 1.0
            operations, moved = scale * self.operations, scale * self.moved
        return dataclasses.replace(self, operations=operations, moved=moved)

    def seconds(self, chip: Chip, passes: int) -> float:
        """The roofline: nothing with the chip's rates is faster."""
        sent = sum(size for _, size in self.collectives.values())
        return max(
            passes * self.operations / chip.operations,
            self.moved / chip.bandwidth,
            sent / chip.link,
        )


def of(program: Program, compiled, devices: int) -> Cost:
    """What the compiler says of a program, and what it cannot see in a loop."""
    memory, counted = compiled.memory_analysis(), compiled.cost_analysis() or {}
    operations = max(counted.get("flops", 0.0), 0.0)
    moved = counted.get("bytes accessed", 0.0)
    if program.operations is not None:
        operations = program.operations / devices
    if program.moved is not None:
        moved = program.moved
    given, made = memory.argument_size_in_bytes, memory.output_size_in_bytes
    kept, scratch = memory.alias_size_in_bytes, memory.temp_size_in_bytes
    code = memory.generated_code_size_in_bytes
    return Cost(
        arguments=given,
        scratch=scratch,
        peak=given + made - kept + scratch + code,
        operations=operations,
        moved=moved,
        # Of one device the text may have some, which send nothing.
        collectives=collectives(compiled.as_text()) if devices > 1 else {},
    )


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """Of a compiled program: by kind, how many, and the bytes of their results."""
    found: dict[str, tuple[int, int]] = {}
    for shapes, kind in _COLLECTIVE.findall(text):
        size = sum(
            _BYTES.get(dtype, 4) * int(np.prod([int(n) for n in sides.split(",") if n]))
            for dtype, sides in _SHAPE.findall(shapes)
        )
        count, total = found.get(kind, (0, 0))
        found[kind] = count + 1, total + size
    return found
