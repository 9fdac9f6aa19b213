"""Copies weights into a .safetensors file, for a machine that cannot fetch them.

  python -m jaxad.models.convert SRC DST.safetensors

SRC is any source of weights (see `jaxad.models.pretrained`): a .pth, .npz or
.safetensors file, `hf:OWNER/REPO[@REVISION]` or `package:NAME`. Names, shapes, dtypes
and bytes stay as they are; config.backbone.weights takes either file.
"""

import os
import pathlib
import sys

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxad.errors import InputError
from jaxad.models import pretrained


def convert(source: str, target: str) -> int:
    """Writes the arrays of a source to a .safetensors file; gives their number.

    Raises:
      InputError: the source cannot be had, or the target has another ending or
        cannot be written.
    """
    target = pathlib.Path(target)
    if target.suffix != ".safetensors":
        raise InputError(f"{target} must end in .safetensors")
    path, state = pretrained.read(source)
    state = {name: np.asarray(array, order="C") for name, array in state.items()}
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, partial, metadata={"source": source, "file": path})
        os.replace(partial, target)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{target} cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return len(state)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        count = convert(*arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments[1]}: {count} arrays")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
