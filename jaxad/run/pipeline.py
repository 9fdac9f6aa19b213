"""From a config to what all categories of a run share: networks, method, devices."""

import dataclasses
import functools
import logging

import jax
import numpy as np

from jaxad import config as config_lib
from jaxad import data, fields, methods, models
from jaxad.detectors.base import Scorer
from jaxad.devices import processes, sharding
from jaxad.errors import InputError
from jaxad.inference import folder
from jaxad.methods.base import Backbone, Method, Stage

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """What all categories of a run share.

    Attributes:
      config: completed; nothing is left to a default of the backbone.
      backbone, variables: the pretrained network, folded unless a stage trains it.
      fingerprint: sha256 of the variables as loaded.
      method: how the representation is learnt.
      scorer: what scores it.
      mesh: the devices that share the images; None where there is but one.
      teacher: the method whose stages train, where those of a category differ; None is
        `method`. Whatever is compiled for `method` serves all categories.
    """

    config: object
    backbone: Backbone
    variables: dict
    fingerprint: str
    method: Method
    scorer: Scorer
    mesh: sharding.Mesh | None
    teacher: Method | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What is trained, in that order."""
        return (self.teacher or self.method).stages

    def of_category(self, category: str) -> "Pipeline":
        """As a category has it: the method's fields may differ by category."""
        config = methods.of_category(self.config, category)
        if config is self.config:
            return self
        teacher = folder.networks(config).method
        return dataclasses.replace(self, config=config, teacher=teacher)

    @property
    def images_a_call(self) -> int:
        """`config.batch_size` images for every device."""
        return self.config.batch_size * (self.mesh.size if self.mesh else 1)

    @property
    def networks(self) -> folder.Networks:
        """What of it does not depend on the images."""
        return folder.Networks(self.backbone, self.method, self.scorer)

    def place(self, images: np.ndarray):
        """Spreads over the devices a batch, of which each process gives its share."""
        return sharding.spread(images, self.mesh) if self.mesh else images


def members(config) -> list:
    """A completed config for every backbone of the run: one, or an ensemble's.

    What is left to the backbone (taps, image size) and to the data (a texture source)
    is filled in. The given config is left as it is. Needs no weights.

    Raises:
      InputError: an unknown backbone, one that is named twice, or a field that cannot
        work with it.
    """
    names = tuple(config.ensemble.members)
    if len(set(names)) < len(names):
        raise InputError(
            f"config.ensemble.members={names} names a backbone twice; each member must "
            "be another one"
        )
    completed = []
    for name in names or (config.backbone.name,):
        member = config.copy_and_resolve_references()
        spec = models.spec(name)
        with member.unlocked():
            member.backbone.name = name
            taps = () if names else tuple(member.backbone.taps)
            member.backbone.taps = taps or tuple(spec.taps)
            # All members see images of one size, the first one's.
            if completed:
                member.dataset.image_size = completed[0].dataset.image_size
            elif not any(member.dataset.image_size):
                member.dataset.image_size = tuple(spec.image_size)
            textures = functools.partial(data.load_textures, member.dataset)
            methods.complete(member, textures=textures)
        config_lib.validate(member)
        completed.append(member)
    return completed


def tell_idle(config) -> None:
    """Names in one line the fields that have no effect, and why."""
    by_cause: dict[str, list[str]] = {}
    for one in methods.idle(config):
        cause = f"config.{one.other}={fields.shown(one.found)}"
        by_cause.setdefault(cause, []).append(f"config.{one.name}")
    if by_cause:
        causes = (f"{', '.join(names)} with {x}" for x, names in by_cause.items())
        _LOG.warning("without effect: %s", "; ".join(causes))


def load(config) -> Pipeline:
    """Loads the backbone and builds the method.

    Args:
      config: one of `members`.

    Raises:
      InputError: an unknown tap or method, or weights that cannot be had.
    """
    name = config.backbone.name
    # First, for it refuses what the backbone cannot have, and weights may be far away.
    backbone, method, scorer = folder.networks(config)
    tunes = any(stage.tunes for stage in method.stages)
    with processes.one_after_first():  # which downloads them
        module, variables = models.load(
            name,
            config.backbone.weights,
            seed=config.seed,
            dtype=jax.numpy.dtype(config.backbone.dtype),
        )
    folded = models.fold(module, variables)
    image = jax.ShapeDtypeStruct((1, *config.dataset.image_size, 3), np.float32)
    jax.eval_shape(backbone.levels, folded, image)  # names a tap that does not exist
    fingerprint = models.fingerprint(variables)
    processes.require_same({f"the weights of {name}": fingerprint})
    # A backbone that is left is left as it came.
    if method.product is None and not tunes:
        variables = folded
    mesh = sharding.make_mesh() if jax.device_count() > 1 else None
    if mesh:
        variables = jax.tree.map(lambda x: sharding.replicate(x, mesh), variables)
    return Pipeline(config, backbone, variables, fingerprint, method, scorer, mesh)
