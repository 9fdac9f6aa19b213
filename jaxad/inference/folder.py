"""The folder that holds a fitted detector, format 1.

  detector.json           how it is applied: config, thresholds, what made it
  <backbone>/arrays.npz   of each member: the scorer's arrays, and what was learnt
  backbone/<backbone>/arrays.npz   the network, unless it was learnt

In a run the networks lie once, in `<workdir>/backbone/`, and `<workdir>/<category>/
detector/` holds the rest; `copy` brings both into one folder that needs nothing else.
`detector.json` is written last: a folder without it is not finished.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxad import arrays, detectors, methods, models, scores
from jaxad.detectors import averaged, base
from jaxad.detectors.base import Detector, Scorer
from jaxad.devices import processes, sharding
from jaxad.errors import InputError, writing
from jaxad.inference.places import CARD, find
from jaxad.methods.base import Backbone, Method

FORMAT = 1


class Networks(NamedTuple):
    """What a config stands for, apart from any array."""

    backbone: Backbone
    method: Method
    scorer: Scorer


def networks(config: ml_collections.ConfigDict) -> Networks:
    """The backbone, method and scorer of a completed config.

    Raises:
      InputError: one of them is not known, or has fields that cannot work.
    """
    name, taps = config.backbone.name, tuple(config.backbone.taps)
    spec = models.spec(name)
    module = spec.module(dtype=jnp.dtype(config.backbone.dtype))
    extract = models.extractor(module, taps)

    def levels(variables, images):
        return list(extract(variables, images).values())

    backbone = Backbone(name, module, taps, tuple(spec.mean), tuple(spec.std), levels)
    method, scorer = methods.build(config, backbone), detectors.build(config)
    if method.log_odds:
        scorer = averaged.with_log_odds(scorer, config.detector.to_dict())
    return Networks(backbone, method, scorer)


# ---- Members


def save_backbone(place: pathlib.Path, variables: dict, fingerprint: str) -> None:
    """Writes a network that no stage has changed, once for all that use it.

    Args:
      place: `backbone` of a run.
      variables: folded.
      fingerprint: sha256 of the variables as they were loaded.
    """
    if processes.first() and not place.exists():
        arrays.save(place, {"variables": variables, "sha256": _bytes(fingerprint)})


def save_member(
    place: pathlib.Path, detector: Detector, variables: dict, fingerprint: str
) -> None:
    """Writes the arrays of a detector, its backbone only where that was learnt.

    Args:
      place: folder of the member.
      detector: fitted.
      variables: of the backbone that it began with.
      fingerprint: theirs, as they were loaded.
    """
    state = base.on_host(detector.state)  # of all processes
    if not processes.first():
        return
    learnt = dict(detector.params)
    if learnt["backbone"] is variables:
        del learnt["backbone"]
    tree = {
        "state": state,
        "params": learnt,
        "report": detector.report,
        "backbone_sha256": _bytes(fingerprint),
    }
    if detector.spread is not None:
        tree["spread"] = {
            "median": detector.spread.median,
            "deviation": detector.spread.deviation,
        }
    arrays.save(place, tree)


def restore_member(
    place: pathlib.Path,
    config: ml_collections.ConfigDict,
    parts: Networks,
    variables: dict,
    fingerprint: str,
    mesh: sharding.Mesh | None = None,
) -> Detector:
    """The detector that `save_member` wrote.

    Args:
      place: its folder.
      config: completed.
      parts: of `networks`.
      variables: of the backbone where it was not learnt.
      fingerprint: theirs.
      mesh: the devices on which the variables lie.

    Raises:
      InputError: it is missing or damaged, or belongs to other backbone weights.
    """
    tree = arrays.restore(place)
    if bytes(tree["backbone_sha256"]).hex() != fingerprint:
        raise InputError(
            f"{place} was fitted with other weights of {parts.backbone.name} than "
            "config.backbone.weights gives now; restore those weights, or fit again in "
            "another --workdir"
        )
    learnt = tree.get("params", {})
    if mesh:
        learnt = jax.tree.map(lambda x: sharding.replicate(x, mesh), learnt)
    spread = scores.Spread(**tree["spread"]) if "spread" in tree else None
    return Detector(
        params={"backbone": variables, **learnt},
        state=parts.scorer.place(tree.get("state", {}), mesh),
        method=parts.method,
        backbone=parts.backbone,
        scorer=parts.scorer,
        options=tuple(config.detector.to_dict().items()),
        spread=spread,
        report={name: value.item() for name, value in tree.get("report", {}).items()},
    )


def _bytes(fingerprint: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(fingerprint), np.uint8)


# ---- The whole


def save_card(folder: pathlib.Path, content: dict) -> None:
    """Writes `detector.json`, which makes the folder a finished detector.

    Args:
      folder: with the arrays of all members.
      content: `members`, each with `name`, `config` and `backbone`, and what else the
        detector is to know; plain JSON.
    """
    if not processes.first():
        return
    members = [
        {**member, "arrays": arrays.seal(folder / member["name"])}
        for member in content["members"]
    ]
    content = {"format": FORMAT, **content, "members": members}
    path = folder / CARD
    temporary = path.with_name(f".{CARD}.{os.getpid()}.tmp")
    with writing(path):
        text = json.dumps({**content, "sha256": key(content)}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)


def read_card(folder: pathlib.Path) -> dict:
    """What `save_card` wrote.

    Raises:
      InputError: it is damaged, was changed, or is of a version that cannot be read.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        version, digest = card["format"], card.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is damaged or no detector's; copy the folder again, or remove it "
            "to have it made again"
        ) from None
    if version != FORMAT:
        raise InputError(
            f"{path} has format {version}, and this jaxad reads {FORMAT}; install the "
            "version that wrote it, or fit again"
        )
    if digest != key(card):
        raise InputError(
            f"{path} is not as it was written; copy the folder again, or fit again to "
            "change a threshold"
        )
    return card


def key(card: dict) -> str:
    """Names all that a detector's folder says of it, its arrays among that."""
    text = json.dumps(card, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Loaded(NamedTuple):
    """A detector from its folder.

    Attributes:
      members: one, or those of an ensemble.
      configs: of the members, completed.
      card: what `detector.json` says.
    """

    members: tuple[Detector, ...]
    configs: tuple[ml_collections.ConfigDict, ...]
    card: dict[str, Any]


def load(path: str | os.PathLike, mesh: sharding.Mesh | None = None) -> Loaded:
    """The fitted detector in a folder.

    Args:
      path: a detector's folder, a category's in a run, or a run with one category.
      mesh: the devices that are to share a batch.

    Raises:
      InputError: there is none, or it is unfinished, incomplete, damaged or of another
        version.
    """
    folder = find(path)
    card = read_card(folder)
    members, configs = [], []
    for member in card["members"]:
        config = methods.completed(member["config"])
        place = folder / member["name"]
        if arrays.seal(place) != member["arrays"]:
            raise InputError(
                f"{place} is not what {folder / CARD} belongs to; copy the folder again"
            )
        fingerprint = member["backbone"]["sha256"]
        variables = {}
        if not member["backbone"]["learnt"]:
            variables = _backbone(folder, member["name"], fingerprint, mesh)
        members.append(
            restore_member(
                place, config, networks(config), variables, fingerprint, mesh
            )
        )
        configs.append(config)
    return Loaded(tuple(members), tuple(configs), card)


def _backbone(folder, name, fingerprint, mesh) -> dict:
    place = _backbone_place(folder, name)
    tree = arrays.restore(place)
    if bytes(tree["sha256"]).hex() != fingerprint:
        raise InputError(
            f"{place} is not the backbone that {folder} was fitted with; copy that one"
        )
    variables = tree.get("variables", {})
    if mesh:
        return jax.tree.map(lambda x: sharding.replicate(x, mesh), variables)
    return jax.device_put(variables)


def _backbone_place(folder: pathlib.Path, name: str) -> pathlib.Path:
    own, of_run = folder / "backbone" / name, folder.parents[1] / "backbone" / name
    for place in (own, of_run):
        if place.is_dir():
            return place
    raise InputError(
        f"{folder} has no backbone: neither {own} nor {of_run} is there; make a folder "
        "that has all with python -m jaxad.export --format folder"
    )


def save(out: str | os.PathLike, loaded: Loaded) -> None:
    """Writes a detector that is in memory, with all that it needs.

    Args:
      out: the folder to make; must not exist, or be empty.

    Raises:
      InputError: there is something in `out`, or it cannot be written.
    """
    with made(out) as folder:
        for detector, member in zip(
            loaded.members, loaded.card["members"], strict=True
        ):
            backbone, place = member["backbone"], folder / member["name"]
            variables = {} if backbone["learnt"] else detector.params["backbone"]
            if variables:
                to = folder / "backbone" / member["name"]
                save_backbone(to, variables, backbone["sha256"])
            save_member(place, detector, variables, backbone["sha256"])
        save_card(folder, loaded.card)


def copy(path: str | os.PathLike, out: str | os.PathLike) -> None:
    """Brings all that a detector needs into one folder.

    Args:
      path: as `load` takes it.
      out: the folder to make; must not exist, or be empty.

    Raises:
      InputError: as `load`; there is something in `out`, or it cannot be written.
    """
    source = find(path)
    members = load(source).card["members"]  # all of it is whole
    with made(out) as folder:
        for member in members:
            name = member["name"]
            shutil.copytree(source / name, folder / name)
            if not member["backbone"]["learnt"]:
                place = _backbone_place(source, name)
                shutil.copytree(place, folder / "backbone" / name)
        shutil.copy2(source / CARD, folder / CARD)


@contextlib.contextmanager
def made(out: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A folder that is whole, or not there.

    Raises:
      InputError: there is something in `out`, or it cannot be written.
    """
    out = pathlib.Path(out).expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already; name a folder that is not")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with writing(out, "folder"):
            temporary.mkdir(parents=True)
            yield temporary
            if out.is_dir():
                out.rmdir()
            os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
