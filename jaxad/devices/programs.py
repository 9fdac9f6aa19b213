"""A program before there is anything to run it on: a function of shapes and devices."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Program:
    """What a run compiles once.

    Attributes:
      name: which part of a run it is.
      function: jitted.
      arguments: trees of `jax.ShapeDtypeStruct`, each with its place on the devices.
      options: the same by name, and what is static.
      calls: how often a run calls it, as far as shapes tell; at least once.
      heads: of categories and seeds that a call works for.
      scores: whether scoring alone calls it; of that `calls` says nothing.
      linear: whether what a call takes grows with the images, which the compiler counts
        for as many as there are.
      lower: what makes it smaller where a device has too little memory.
      operations: of a call on all devices, where a loop of unknown length hides them
        from the compiler; None where it counts them.
      moved: bytes between a device's memory and its units in a call, likewise.
    """

    name: str
    function: Callable = dataclasses.field(repr=False)
    arguments: tuple[Any, ...] = dataclasses.field(repr=False)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    calls: int = 1
    heads: int = 1
    scores: bool = False
    linear: bool = False
    lower: str = ""
    operations: float | None = None
    moved: float | None = None

    def lowered(self, *platforms: str) -> jax.stages.Lowered:
        """Its StableHLO, for "cpu", "cuda" or "tpu", or one text for several."""
        traced = self.function.trace(*self.arguments, **self.options)
        return traced.lower(lowering_platforms=platforms or None)
