"""A run before it begins: what its programs take, of devices here or of a TPU slice.

Every program is compiled, from shapes alone. What is compiled for devices that are here
lies in the compilation cache, where the run finds it.
"""

import logging
import re
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxad import config as config_lib
from jaxad import data, methods
from jaxad.devices import costs, sharding, slices
from jaxad.devices.programs import Program
from jaxad.errors import InputError, NotHere
from jaxad.run import pipeline as pipeline_lib
from jaxad.run import pretrain, programs, provenance

_LOG = logging.getLogger(__name__)
_SAVED = 4  # times the memory, which more effort has not been seen to save


def run(config, slice_name: str | None, show: Callable[[str], None]) -> float:
    """Shows what the largest category of a run takes, and how long all of them.

    Nothing is faster than the published peaks of a slice's chips. The rates of devices
    that are here are measured, and a CPU, for one, has caches faster than its memory.

    Args:
      config: as `experiment.run` takes it.
      slice_name: of TPUs, such as "v5e-8"; None for the devices that are here.
      show: called with every line, as soon as it is known.

    Returns:
      Seconds for all categories, without reading, scoring and compiling.

    Raises:
      InputError: a field that cannot work, an unknown slice, or a program that does not
        fit a device's memory.
    """
    config_lib.validate(config)
    if slice_name:
        chip, mesh = slices.of(slice_name)
        passes, devices = costs.PASSES[config.precision], slice_name
        heading, takes = "at best", "no faster than"
    else:
        chip, mesh = slices.here(config.precision), None
        if jax.device_count() > 1:
            mesh = sharding.make_mesh()
        passes, devices = 1, f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        heading, takes = "about", "about"
    members = pipeline_lib.members(config)
    counts = _images(members[0])
    images = max(counts)
    show(f"{config.method.name} on {images} of {sum(counts)} images; {devices}")
    show(f"{'program':<34}{'calls':>9}{'GFLOP':>10}{'MB':>9}{'ms':>10}  collectives")
    show(f"{'':<34}{'':>9}{'a device':>10}{'':>9}{heading:>10}")
    largest, whole, most = 0.0, 0.0, 0
    for member in members:
        pipeline = programs.abstract(member, mesh)
        found = {n: programs.of(pipeline, n, len(counts)) for n in set(counts)}
        for i, one in enumerate(found[images]):
            cost = _compiled(one, chip, mesh)
            show(_line(one, cost, cost.seconds(chip, passes)))
            most = max(most, cost.peak)
            if one.scores:
                continue
            each = [
                _seconds(cost, found[n][i], n / images, chip, mesh, passes)
                for n in counts
            ]
            largest += max(each) / one.heads
            whole += _together(each, one.heads)
    show(
        f"at most {most / 1e9:.2f} of {chip.memory / 1e9:.1f} GB of a device; without "
        f"reading, scoring and compiling {takes} {largest:.3g} s for {images} images, "
        f"{whole:.3g} s for all"
    )
    return whole


def _seconds(cost, one: Program, share: float, chip, mesh, passes: int) -> float:
    """Of all calls for a category that has a share of the images of `cost`."""
    cost = cost.of_fewer(one, share, mesh.size if mesh else 1)
    return one.calls * cost.seconds(chip, passes)


def _together(seconds: Sequence[float], heads: int) -> float:
    """Of categories, so many at a time, which all take as long as the longest."""
    groups = (seconds[at : at + heads] for at in range(0, len(seconds), heads))
    return sum(len(group) * max(group) / heads for group in groups)


def _images(config) -> list[int]:
    """That each category is learnt from."""
    if methods.leaves(config) == "backbone":
        corpus, validation = pretrain.pictures(config)
        share = 0.0 if validation else config.method.held_out
        return [round(len(corpus) * (1 - share))]
    return [_count(config, name) for name in data.categories(config.dataset)]


def _count(config, category: str) -> int:
    """Of the images that are here, or as published: nothing is downloaded."""
    config = config.copy_and_resolve_references()
    config.dataset.download = False
    try:
        return len(provenance.train_images(config, category))
    except NotHere:
        return data.published(config.dataset, category)


def _compiled(one: Program, chip: slices.Chip, mesh) -> costs.Cost:
    if not _is_tpu(mesh):
        return _fitting(one, lambda: one.lowered().compile(), chip, mesh)
    try:
        return _fitting(one, lambda: slices.compiled(one), chip, mesh)
    except _TooLarge as error:
        # More effort may need less memory, and is what a run has.
        if error.needs > _SAVED * chip.memory:
            raise
        _LOG.warning(
            "%s does not fit as it was compiled, in haste; compiling it as a run does, "
            "which may take long",
            one.name,
        )
        return _fitting(one, lambda: slices.compiled(one, 0.0), chip, mesh)


def _fitting(one: Program, compiled, chip: slices.Chip, mesh) -> costs.Cost:
    """Raises _TooLarge where it needs more memory than there is."""
    try:
        cost = costs.of(one, compiled(), mesh.size if mesh else 1)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _TooLarge(one, _needed(str(error)), chip) from error
    if cost.peak > chip.memory:
        raise _TooLarge(one, cost.peak, chip)
    return cost


def _needed(text: str) -> float:
    """Bytes, of what the compilers of TPUs and GPUs say of too little; 0 if nothing."""
    found = re.search(r"(?:Used |required for [\w ]+\()([\d.]+)([KMGT])", text)
    return float(found[1]) * 1024 ** (1 + "KMGT".index(found[2])) if found else 0.0


def _line(one: Program, cost: costs.Cost, seconds: float) -> str:
    sent = ", ".join(
        f"{count} {kind} ({size / 1e6:.3g} MB)"
        for kind, (count, size) in cost.collectives.items()
    )
    calls = "" if one.scores else f"{one.calls:,}"
    line = (
        f"{one.name:<34}{calls:>9}{cost.operations / 1e9:>10.4g}"
        f"{cost.peak / 1e6:>9,.0f}{1e3 * seconds:>10.3g}  {sent}"
    )
    return line.rstrip()


def _is_tpu(mesh) -> bool:
    return mesh is not None and mesh.devices.flat[0].platform == "tpu"


class _TooLarge(InputError):
    """Of a program: names its largest arguments, and what makes them smaller.

    Attributes:
      needs: bytes of a device, 0 where the compiler does not tell.
    """

    def __init__(self, one: Program, needs: float, chip: slices.Chip):
        self.needs = needs
        leaves = [
            leaf
            for leaf in jax.tree.leaves(one.arguments)
            if isinstance(leaf, jax.ShapeDtypeStruct)
            and not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
        ]
        named = ", ".join(
            f"{leaf.dtype.name} {list(leaf.shape)} ({_size(leaf) / 1e9:.2f} GB)"
            for leaf in sorted(leaves, key=_size, reverse=True)[:3]
        )
        takes = f"needs {needs / 1e9:.1f} GB" if needs else "does not fit"
        super().__init__(
            f"{one.name} {takes}, and a device has {chip.memory / 1e9:.1f} GB; its "
            f"largest arguments are {named}; lower "
            f"{one.lower or 'config.dataset.image_size'}"
        )


def _size(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes on a device."""
    place = getattr(leaf, "sharding", None)
    shape = place.shard_shape(leaf.shape) if place else leaf.shape
    return int(np.prod(shape)) * np.dtype(leaf.dtype).itemsize
