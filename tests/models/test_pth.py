import io
import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxad.errors import InputError
from jaxad.models import pth

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
LAYOUTS = ("legacy", "zip")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_what_torch_saved(layout):
    got = pth.read(FIXTURES / f"{layout}.pth")
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    want = {
        "float32": base,
        "transposed": base.T,
        "row": base[1],
        "parameter": np.array([1.5, -2.0], np.float32),
        "float64": np.array([[1e300, -0.0]]),
        "float16": np.array([0.5, 65504.0], np.float16),
        "bfloat16": np.array([1.0, -3.0], ml_dtypes.bfloat16),
        "int64": np.array(2**40),
        "uint8": np.array([0, 255], np.uint8),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert list(got) == list(want)
    for name in want:
        assert got[name].dtype == want[name].dtype, name
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


def zip_file(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3")
    return path


def legacy_file(path, *content):
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    file = io.BytesIO()
    for item in (*head, *content):
        file.write(item if isinstance(item, bytes) else pickle.dumps(item, 2))
    path.write_bytes(file.getvalue())
    return path


@pytest.mark.parametrize("write", (zip_file, legacy_file))
def test_refuses_to_run_code_and_names_it(tmp_path, capsys, write):
    path = write(tmp_path / "evil.pth", pickle.dumps({"w": Evil()}, 2))
    with pytest.raises(InputError, match=r"evil\.pth asks for __builtin__\.print"):
        pth.read(path)
    assert capsys.readouterr().out == ""


def test_refuses_other_functions_of_torch(tmp_path):
    content = b"\x80\x02ctorch.hub\nload_state_dict_from_url\n."
    with pytest.raises(InputError, match=r"asks for torch\.hub\.load_state_dict"):
        pth.read(zip_file(tmp_path / "a.pth", content))


def test_refuses_dotted_names_that_reach_through_an_allowed_one(tmp_path):
    content = b"\x80\x04\x8c\x0ccollections\x8c\x17OrderedDict.__init__.x\x93."
    with pytest.raises(InputError, match="a.pth"):
        pth.read(zip_file(tmp_path / "a.pth", content))


def tensor_pickle(shape, strides, offset=0, size=4):
    """A tensor's pickle by hand, with a storage of `size` float32 values."""
    ints = {"shape": shape, "strides": strides}
    encoded = {
        name: b"(" + b"".join(b"J" + n.to_bytes(4, "little", signed=True) for n in v)
        + b"t" for name, v in ints.items()
    }  # fmt: skip
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
        b"X\x03\x00\x00\x00cpuJ" + size.to_bytes(4, "little") + b"tQ"
    )
    arguments = (
        b"(" + storage + b"J" + offset.to_bytes(4, "little", signed=True)
        + encoded["shape"] + encoded["strides"] + b"\x89}t"
    )  # fmt: skip
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R."


def read_tensor(tmp_path, values=4, **kwargs):
    path = zip_file(tmp_path / "t.pth", tensor_pickle(**kwargs))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", np.arange(values, dtype="<f4").tobytes())
    return pth.read(path)


def test_hand_made_tensor(tmp_path):
    got = read_tensor(tmp_path, shape=(2, 2), strides=(1, 2))
    np.testing.assert_array_equal(got, [[0, 2], [1, 3]])


@pytest.mark.parametrize(
    "bad",
    (
        dict(shape=(5,), strides=(1,)),
        dict(shape=(4,), strides=(1,), offset=1),
        dict(shape=(2,), strides=(1,), offset=-1),
        dict(shape=(2,), strides=(-1,), offset=3),
        dict(shape=(-2,), strides=(1,)),
        dict(shape=(2,), strides=(1000000,)),
        dict(shape=(2, 2), strides=(1,)),
    ),
    ids=str,
)
def test_tensors_stay_inside_their_storage(tmp_path, bad):
    with pytest.raises(InputError, match="t.pth"):
        read_tensor(tmp_path, **bad)


def test_a_storage_of_another_size_is_damage(tmp_path):
    with pytest.raises(InputError, match="holds 3 values instead of 4"):
        read_tensor(tmp_path, values=3, shape=(3,), strides=(1,))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_cut_anywhere_is_refused(tmp_path, layout):
    whole = (FIXTURES / f"{layout}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="cut.pth"):
            pth.read(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot read .*no.pth: No such file"):
        pth.read(tmp_path / "no.pth")
