"""Reads PyTorch's .pth files without PyTorch, and without running their code.

A .pth file holds a pickle, and a pickle can ask for any function to be called. This
reader knows how to build tensors and ordered dictionaries; a file that asks for
anything else is refused by name. Both layouts of `torch.save` are read: the zip archive
of PyTorch 1.6 and later, and the stream before it (torch/serialization.py).
"""

import functools
import io
import pathlib
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import ml_dtypes
import numpy as np

from jaxad.errors import InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def read(path: str | pathlib.Path) -> Any:
    """What was given to `torch.save`, with NumPy arrays in place of tensors.

    Raises:
      InputError: the file is missing or damaged, or asks for anything but tensors.
    """
    path = pathlib.Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            return _read_zip(path, data)
        return _read_legacy(path, data)
    except InputError:
        raise
    except Exception as error:
        # A damaged pickle can fail in any way.
        raise InputError(
            f"{path} is damaged or is no file of torch.save ({error}); "
            "fetch or write it again"
        ) from None


class _Unpickler(pickle.Unpickler):
    """Unpickles tensors whose storages `load(dtype, key, size)` provides."""

    def __init__(self, path, file, load):
        super().__init__(file, encoding="utf-8")
        self._path = path
        self._load = load

    def find_class(self, module, name):
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            # Bound methods: unlike functions, a pickle cannot set attributes on them.
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        raise InputError(
            f"{self._path} asks for {module}.{name}, which could run code; only "
            "tensors are read: save the plain state_dict, or convert it to .safetensors"
        )

    def persistent_load(self, pid):
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise InputError(f"{self._path} holds an unknown kind of storage {pid!r}")
        return self._load(dtype, key, size)

    def _tensor(self, storage, offset, shape, strides, *_):
        if not shape:
            shape, strides = (), ()
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        inside = all(n >= 0 for n in shape) and min((offset, *strides)) >= 0
        if not inside or (0 not in shape and last >= len(storage)):
            raise InputError(
                f"{self._path} is damaged: a tensor of shape {tuple(shape)} lies "
                f"outside its storage of {len(storage)} values"
            )
        size = storage.itemsize
        return np.lib.stride_tricks.as_strided(
            storage[offset:], shape, [s * size for s in strides], writeable=False
        )

    def _parameter(self, tensor, *_):
        return tensor


def _read_zip(path, data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (root,) = (n[: -len("data.pkl")] for n in archive.namelist()
                   if n.endswith("/data.pkl"))  # fmt: skip
        names = set(archive.namelist())
        byteorder = "little"
        if f"{root}byteorder" in names:
            byteorder = archive.read(f"{root}byteorder").decode()

        @functools.cache
        def load(dtype, key, size):
            values = np.frombuffer(
                archive.read(f"{root}data/{key}"),
                dtype.newbyteorder("<" if byteorder == "little" else ">"),
            )
            if len(values) != size:
                raise InputError(
                    f"{path} is damaged: storage {key} holds {len(values)} values "
                    f"instead of {size}"
                )
            return values

        return _Unpickler(
            path, io.BytesIO(archive.read(f"{root}data.pkl")), load
        ).load()


def _read_legacy(path, data):
    file = io.BytesIO(data)
    storages: dict[str, np.ndarray] = {}

    def load(dtype, key, size):
        # The values follow the pickle; an array filled later is shared by its views.
        return storages.setdefault(key, np.zeros(size, dtype))

    def unpickle():
        return _Unpickler(path, file, load).load()

    if unpickle() != _LEGACY_MAGIC or unpickle() != _LEGACY_PROTOCOL:
        raise InputError(f"{path} is no file of torch.save")
    if not unpickle()["little_endian"]:
        raise InputError(
            f"{path} was written on a big-endian machine; convert it there"
        )
    result = unpickle()
    for key in unpickle():
        values = storages[key]
        size = int.from_bytes(file.read(8), "little")
        raw = file.read(values.nbytes)
        if size != len(values) or len(raw) != values.nbytes:
            raise InputError(
                f"{path} is cut short inside storage {key}; fetch it again"
            )
        values[:] = np.frombuffer(raw, values.dtype)
    return result
