"""Pretrained weights: where they come from, and how they become variables.

A source is one of
  a path            .safetensors, .npz, or .pth / .pt (read by `jaxad.models.pth`)
  hf:OWNER/REPO     a repository of the Hugging Face hub, optionally @REVISION
  package:NAME      the one .pth file that an installed Python package brings

A .safetensors file that `write` has made holds variables under their own names; all
others hold PyTorch's.

Names and shapes are checked both ways: a parameter that the file lacks, and one that
the backbone lacks, stop the run.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import pathlib
import re
from collections.abc import Callable

import flax
import jax.numpy as jnp
import numpy as np

from jaxad.errors import InputError, writing
from jaxad.models import pth

_LOG = logging.getLogger(__name__)

# Bookkeeping of PyTorch's BatchNorm, of no use in inference.
IGNORE = (r"(.*\.)?num_batches_tracked",)
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
# OIHW to HWIO, and [out, in] to [in, out].
_LAYOUTS = {4: (2, 3, 1, 0), 2: (1, 0)}
_OURS = ("params/", "batch_stats/")
_MEND = (
    "set config.backbone.name to the network that they are of, or choose other "
    "config.backbone.weights"
)
_LEAVES = {"bias": "bias", "running_mean": "mean", "running_var": "var"}


def read(source: str) -> tuple[str, dict[str, np.ndarray]]:
    """The file's path, and its arrays by the names that the file gives them.

    Raises:
      InputError: the source cannot be had, or is not read without running code.
    """
    if source.startswith("hf:"):
        path = hub_file(source.removeprefix("hf:"))
    elif source.startswith("package:"):
        path = package_file(source.removeprefix("package:"))
    else:
        path = pathlib.Path(source).expanduser()
    if not path.is_file():
        raise InputError(f"weights file {path} does not exist")
    readers = {
        ".safetensors": _read_safetensors,
        ".npz": _read_npz,
        ".pth": pth.read,
        ".pt": pth.read,
        ".bin": pth.read,
    }
    if path.suffix not in readers:
        raise InputError(f"weights file {path} must end in one of {', '.join(readers)}")
    return str(path), _state_dict(path, readers[path.suffix](path))


def package_file(package: str) -> pathlib.Path:
    """The one .pth file inside an installed package, found without importing it."""
    found = importlib.util.find_spec(package)
    if found is None:
        raise InputError(
            f"the package {package} is not installed; "
            f"pip install {package.replace('_', '-')}"
        )
    (folder,) = found.submodule_search_locations
    files = sorted(pathlib.Path(folder).rglob("*.pth"))
    if len(files) != 1:
        raise InputError(
            f"the package {package} in {folder} holds {len(files)} .pth files instead "
            "of one; install it again"
        )
    return files[0]


def hub_file(name: str) -> pathlib.Path:
    """The weights file of a repository `OWNER/REPO[@REVISION]` of the hub.

    What the cache holds is used as it is, without asking the hub; the rest is
    downloaded. So a run needs the network once, and its weights stay what they were.

    Raises:
      InputError: it is neither in the cache nor to be downloaded.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    repository, _, revision = name.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise InputError(f"hf:{name} must have the form hf:OWNER/REPO[@REVISION]")
    fetch = functools.partial(
        hub.hf_hub_download, repository, revision=revision or None
    )
    try:
        for file in _HUB_FILES:
            with contextlib.suppress(LocalEntryNotFoundError):
                return pathlib.Path(fetch(file, local_files_only=True))
    except HFValidationError as error:
        raise InputError(f"hf:{name} is no repository's name: {error}") from None
    _LOG.info("fetching hf:%s", name)
    reason = f"it has none of {', '.join(_HUB_FILES)}"
    for file in _HUB_FILES:
        try:
            return pathlib.Path(fetch(file))
        except LocalEntryNotFoundError:
            reason = "the hub cannot be reached and the cache does not hold it"
        except EntryNotFoundError:
            continue
        except Exception as error:
            # Whatever went wrong, the way out is the same.
            reason = str(error).strip().partition("\n")[0]
        break
    at = f" --revision {revision}" if revision else ""
    raise InputError(
        f"weights hf:{name} cannot be had: {reason}; where there is a network, run "
        f"`hf download {repository} {_HUB_FILES[0]}{at} --local-dir weights`, bring "
        "the file here and name its path as config.backbone.weights"
    )


def assign(
    path: str,
    state: dict[str, np.ndarray],
    shapes: dict,
    rename: Callable[[str], str],
    ignore: tuple[str, ...] = (),
) -> dict:
    """Variables from PyTorch's arrays.

    Args:
      path: of the file, for messages.
      state: arrays by PyTorch's names.
      shapes: the backbone's variables as shapes, from `jax.eval_shape`.
      rename: from a parameter's name in the file to its path here.
      ignore: patterns of further names that the backbone has no use for.

    Returns:
      float32 variables of the structure of `shapes`.

    Raises:
      InputError: a missing or a left-over name, or a wrong shape.
    """
    wanted = flax.traverse_util.flatten_dict(shapes, sep="/")
    found, sources, left_over = {}, {}, []
    for name, array in state.items():
        if any(re.fullmatch(pattern, name) for pattern in (*IGNORE, *ignore)):
            continue
        key, value = _place(rename(name), array)
        if key not in wanted:
            left_over.append(name)
            continue
        if key in found:
            raise InputError(f"{path}: {name} and {sources[key]} both give {key}")
        _require_shape(path, name, value, wanted[key], key)
        found[key], sources[key] = value, name
    return _whole(path, found, wanted, left_over)


def is_ours(state: dict[str, np.ndarray]) -> bool:
    """Whether arrays have the names that `write` gives them."""
    return all(name.startswith(_OURS) for name in state)


def write(path: pathlib.Path, variables: dict, about: str) -> None:
    """Writes a backbone's variables, for `config.backbone.weights`.

    Args:
      path: ends in .safetensors.
      variables: not folded.
      about: the file, for people; it is the header's one entry, since the order of
        several would not be the same twice.
    """
    from safetensors.numpy import save_file

    named = flax.traverse_util.flatten_dict(variables, sep="/")
    arrays = {key: np.asarray(value, order="C") for key, value in named.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            save_file(arrays, temporary, metadata={"jaxad": about})
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def restore(path: str, state: dict[str, np.ndarray], shapes: dict) -> dict:
    """The variables that `write` wrote.

    Args:
      path: of the file, for messages.
      state: its arrays.
      shapes: the backbone's variables as shapes, from `jax.eval_shape`.

    Raises:
      InputError: as `assign`.
    """
    wanted = flax.traverse_util.flatten_dict(shapes, sep="/")
    for name, value in state.items():
        if name in wanted:
            _require_shape(path, name, value, wanted[name])
    found = {name: value for name, value in state.items() if name in wanted}
    return _whole(path, found, wanted, [name for name in state if name not in wanted])


def _require_shape(path, name, value, wanted, place="") -> None:
    if value.shape != wanted.shape:
        what = f"{name} has shape {value.shape}{place and f' as {place}'}"
        raise InputError(
            f"{path}: {what}, but the backbone needs {wanted.shape}; {_MEND}"
        )


def _whole(path, found, wanted, left_over) -> dict:
    """Variables of arrays by their flat keys, none missing and none left over."""
    missing = [key for key in wanted if key not in found]
    if missing or left_over:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
            for names, what in (
                (missing, "missing"),
                (left_over, "that the backbone does not have"),
            )
            if names
        ]
        raise InputError(
            f"{path} does not hold this backbone's weights: parameters "
            f"{' and '.join(parts)}; {_MEND}"
        )
    found = {key: jnp.asarray(value, jnp.float32) for key, value in found.items()}
    return flax.traverse_util.unflatten_dict(found, sep="/")


def _place(path: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """The flat key of a parameter, and its value in the layout of this library."""
    module, _, leaf = path.rpartition(".")
    collection = "batch_stats" if leaf.startswith("running_") else "params"
    if leaf == "weight":
        leaf = "scale" if array.ndim == 1 else "kernel"
        array = array.transpose(_LAYOUTS.get(array.ndim, range(array.ndim)))
    leaf = _LEAVES.get(leaf, leaf)
    return "/".join([collection, *filter(None, module.split(".")), leaf]), array


def _state_dict(path, content) -> dict[str, np.ndarray]:
    """Finds the arrays in what a file holds; takes off DataParallel's prefix."""
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} holds no state_dict; save model.state_dict()")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise InputError(f"{path}: {name!r} is no tensor; save model.state_dict()")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): a for name, a in content.items()}
    return dict(content)


def _read_npz(path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:
        raise InputError(f"{path} is no readable .npz file ({error})") from None


def _read_safetensors(path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is no readable .safetensors file ({error})") from None
