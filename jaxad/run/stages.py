"""Where the training stages of a detector are kept, and for how long."""

import contextlib
import logging
import pathlib
from collections.abc import Callable, Iterator

from jaxad import data
from jaxad.devices import processes
from jaxad.devices.locks import locked
from jaxad.methods.base import Stage
from jaxad.run import keys, results
from jaxad.run.pipeline import Pipeline
from jaxad.training import checkpoint

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def kept(
    pipeline: Pipeline,
    stage: Stage,
    split: data.Split,
    folder: pathlib.Path,
    *,
    textures: data.Split | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[pathlib.Path]:
    """The folder that a stage is trained in: the run's, or one that runs share.

    Checkpoints of the run that come of other images or weights are removed. A first
    stage that names the fields it depends on lies in `config.train.stage_cache`, where
    a run at a time works on it: the next one finds it finished, or goes on with it.

    Args:
      split, textures: what it trains on.
      folder: of the detector.
      waiting: called again and again while another run works on it.
    """
    config = pipeline.config
    images = keys.digest(
        {
            "images": split.version,
            "textures": textures.version if textures and stage.textures else None,
        }
    )
    first = stage is pipeline.stages[0]
    if not (config.train.stage_cache and first and stage.fields):
        made_by = keys.digest({"data": images, "backbone": pipeline.fingerprint})
        _forget_other(folder / stage.name, made_by)
        yield folder / stage.name
        return
    key = {
        "stage": stage.name,
        "method": config.method.name,
        "fields": {name: _plain(config.method[name]) for name in stage.fields},
        "seed": config.seed,
        "backbone": pipeline.fingerprint,
        "dtype": config.backbone.dtype,
        "precision": config.precision,
        "data": images,
        "batch_size": stage.batch_size,
        "versions": results.versions(),
    }
    cache = pathlib.Path(config.train.stage_cache).expanduser()
    shared = cache / f"{stage.name}-{keys.digest(key)}"
    with locked(shared, waiting, "config.train.stage_cache"):
        yield shared


def forget(pipeline: Pipeline, folder: pathlib.Path) -> None:
    """Removes the checkpoints of a saved detector's stages, which are many times its
    size. Their curves stay, and so does a stage that runs share."""
    if processes.first():
        for stage in pipeline.stages:
            checkpoint.remove(folder / stage.name)


def _forget_other(folder: pathlib.Path, made_by: str) -> None:
    path = folder / "made_by"
    if processes.first() and not (path.exists() and path.read_text() == made_by):
        if checkpoint.remove(folder):
            _LOG.warning(
                "%s was trained on other images or from other weights; it begins again",
                folder,
            )
        results.write_text(path, made_by)
    processes.wait()


def _plain(field):
    return field.to_dict() if hasattr(field, "to_dict") else field
