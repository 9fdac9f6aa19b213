"""CSVs as people and spreadsheets write them."""

import pathlib

import pytest
import trees

from jaxad import config as config_lib
from jaxad import data
from jaxad.data import given, tables
from jaxad.errors import InputError

WANTED = ("file", "split", "label")
MORE = ("mask", "category", "defect_type")


@pytest.fixture
def table(tmp_path):
    return tmp_path / "own.csv"


@pytest.fixture
def config(tmp_path, table):
    config = config_lib.base().dataset
    config.name, config.path, config.image_size = "folder", str(table), (6, 8)
    for name in "abc":
        trees.image(tmp_path / f"pictures/{name}.png")
    trees.mask(tmp_path / "pictures/c_mask.png")
    return config


def rows(table, text, columns=WANTED):
    table.write_text(text, encoding="utf-8", newline="")
    return tables.rows(table, columns, MORE)


ROW = {"file": "a.png", "split": "train", "label": "good"}


@pytest.mark.parametrize(
    "text",
    [
        "file,split,label\na.png,train,good\n",
        "file;split;label\r\na.png;train;good\r\n",
        "file\tsplit\tlabel\na.png\ttrain\tgood",
        "\ufefffile,split,label\na.png,train,good\n",
        "\ufeffsep=;\r\nfile;split;label\r\na.png;train;good\r\n",
        '"sep=,"\nfile,split,label\na.png,train,good\n',
        "SEP=|\nfile|split|label\na.png|train|good\n",
        "sep=\t\nfile\tsplit\tlabel\na.png\ttrain\tgood\n",
        " File , SPLIT,Label \n a.png , train ,good  \n",
        '"file","split","label"\n"a.png","train","good"\n',
        "file,split,label,,\na.png,train,good,,\n",
        "file,split,label\na.png,train,good,,\n",
        "file,split,label\n,,\n\n , ,\na.png,train,good\n,,\n;;\n"[:-3],
        "\n\nfile,split,label\na.png,train,good\n",
        "file,split,label\ra.png,train,good\r",
    ],
)
def test_all_ways_to_write_a_row(table, text):
    ((_, row),) = rows(table, text)
    assert row == ROW


def test_lines_are_those_of_the_file(table):
    found = rows(
        table,
        "sep=;\n\nfile;split;label;note\n\n"
        'a.png;train;good;"of\ntwo lines"\n;;;\n\nb.png;test;bad;\n',
    )
    assert [line for line, _ in found] == [5, 9]
    assert found[0][1]["note"] == "of\ntwo lines"


def test_a_separator_in_quotes_is_none(table):
    ((_, row),) = rows(table, 'file,split,label\n"a, b; c.png",train,good\n')
    assert row["file"] == "a, b; c.png"


def test_one_column(table):
    found = rows(table, "file\na;1.png\nb.png\n", ("file",))
    assert [row["file"] for _, row in found] == ["a;1.png", "b.png"]
    found = rows(table, "lot;FILE\n7;a.png\n", ("file",))
    assert [row["file"] for _, row in found] == ["a.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "own.csv has no column file, split, label"),
        ("file|split|label\n", "own.csv has no column file, split, label; its first"),
        ("name,split,label\n", "and may name mask, category and defect_type"),
        ("file,split,label,File\n", "own.csv has the column file twice; rename one"),
        (
            "file,split,label\n\na.png,good\n",
            "line 3: not as many cells as columns .2,",
        ),
        ("file,split,label\na, b.png,train,good\n", "line 2: .* is put in quotes"),
        ("file,split,label\na.png,train,g\0ood\n", "own.csv, line 2: a zero byte,"),
        (f"file,split,label\n{'a' * 200_000},,\n", "cannot be read as a CSV .field"),
    ],
)
def test_mistakes(table, text, message):
    with pytest.raises(InputError, match=message):
        rows(table, text)


# ---- Rows of images


HEADER = "file,split,label,mask,category,defect_type"


def splits(config, *lines, header=HEADER):
    """Both splits of the one category that these lines list."""
    text = "\n".join((header, *lines)) + "\n"
    pathlib.Path(config.path).write_text(text, encoding="utf-8")
    (category,) = data.categories(config)
    return [data.load(config, category, name) for name in ("train", "test")]


@pytest.mark.parametrize(
    ("normal", "anomalous"),
    [("OK", "NG"), ("Good", "BAD"), ("normal", "Anomalous"), ("0", "1"), ("ok", "nok")],
)
def test_labels(config, normal, anomalous):
    train, test = splits(
        config,
        f"pictures/a.png,Train,{normal}",
        f"pictures/b.png,TEST,{anomalous}",
        header="file,split,label",
    )
    assert [train.labels.tolist(), test.labels.tolist()] == [[0], [1]]
    assert test.defect_types == ["anomalous"]


def test_labels_that_a_config_declares(config):
    lines = ["pictures/a.png,train,i.O.", "pictures/b.png,test,defect"]
    header = "file,split,label"
    with pytest.raises(
        InputError, match="line 2: label 'i.O.' must be one of .*normal_"
    ):
        splits(config, *lines, header=header)
    config.normal_names = ("i.o.",)
    assert splits(config, *lines, header=header)[0].labels.tolist() == [0]


def test_paths_of_windows_and_of_macs(config, tmp_path):
    trees.image(tmp_path / "pictures/stu\u0308ck.png")
    train, test = splits(
        config,
        r"pictures\a.png,train,ok,,,",
        "pictures/stück.png,train,ok,,,",
        r"pictures\c.png,test,ng,.\pictures\c_mask.png,,dent",
        header="file,split,label,mask,note,defect_type",
    )
    assert train.filenames == ["pictures/a.png", "pictures/stu\u0308ck.png"]
    assert test.has_masks and test[0]["mask"].any()
    assert data.load(config, "own", "train")[1]["filename"] == train.filenames[1]


def test_a_backslash_in_a_name_is_one_where_there_is_such_a_file(config, tmp_path):
    trees.image(tmp_path / r"a\b.png")
    train, _ = splits(config, r"a\b.png,train,ok,,x,")
    assert train.filenames == [r"a\b.png"]


def test_spaces_make_no_second_category(config):
    train, test = splits(
        config, "pictures/a.png,train,ok,,part ,", "pictures/b.png,test,ok,, part,"
    )
    assert [len(train), len(test)] == [1, 1]


def test_a_row_twice_counts_once_and_is_told_of(config):
    train, test = splits(
        config,
        "pictures/a.png,train,ok,,p,",
        "",
        r".\pictures\a.png,Train,0,,p,",
        "pictures/b.png,test,ok,,p,",
    )
    assert train.filenames == ["pictures/a.png"]
    assert train.notes == (
        data.Note(
            r"own.csv, line 4: .\pictures\a.png",
            "row that is there twice",
            "first in line 2",
        ),
    )
    assert len(test) == 1 and not test.notes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("pictures/a.png,train,ng,,p,", "a.png has another label in line 2; keep one"),
        ("pictures/a.png,test,ok,,p,", "a.png has another split in line 2"),
        ("pictures/a.png,train,ok,pictures/c_mask.png,p,", "another mask in line 2"),
        ("pictures/a.png,train,ok,,p,fine", "another defect_type in line 2"),
        ("pictures/b.png,train,ok,,P,", "category 'P' is 'p' in line 2; write both"),
        (",train,ok,,p,", "file is empty; name an image"),
        ("pictures/b.png,val,ok,,p,", "split 'val' must be one of train, test"),
        ("Pictures/b.png,train,ok,,p,", "'Pictures/b.png' does not exist; .* upper"),
        ("pictures/b.png,train,ok,m.png,p,", "mask 'm.png' does not exist; paths are"),
        (r"C:\b.png,train,ok,,p,", r"file 'C:.*b.png' does not exist; paths are"),
    ],
)
def test_rows_that_cannot_be(config, row, message):
    with pytest.raises(InputError, match=f"own.csv, line 4: .*{message}"):
        splits(config, "pictures/a.png,train,ok,,p,", ",,,,,", row)


def test_one_picture_may_be_of_two_categories(config):
    lines = (f"pictures/a.png,train,ok,,{side}," for side in ("left", "right"))
    pathlib.Path(config.path).write_text("\n".join((HEADER, *lines)))
    assert data.categories(config) == ("left", "right")


def test_fields_without_effect_on_a_csv(config):
    config.test_share = 0.5
    with pytest.raises(
        InputError, match="test_share=0.5 must be left out: .* is a CSV"
    ):
        splits(config, "pictures/a.png,train,ok,,p,")


def test_columns_that_are_not_read_are_told_of(config):
    """Such as masks that a misspelt name would lose."""
    lines = (f"pictures/a.png,train,ok,,{side},," for side in ("left", "right"))
    header = "file,split,label,maks,category,lot,"
    pathlib.Path(config.path).write_text("\n".join((header, *lines)))
    notes = data.load(config, "left", "train").notes
    assert [str(note) for note in notes] == [
        "column that is not read (did you mean 'mask'?): own.csv: maks",
        "column that is not read: own.csv: lot",
    ]
    for category, split in (("right", "train"), ("left", "test")):
        assert not data.load(config, category, split).notes


def test_a_csv_without_rows(config):
    with pytest.raises(InputError, match="own.csv lists no image"):
        splits(config, ",,,,,")


def test_a_picture_is_no_csv(config, tmp_path):
    config.path = str(tmp_path / "pictures/a.png")
    with pytest.raises(InputError, match="a.png' is one picture; name its folder"):
        data.categories(config)


def test_tables_to_judge(tmp_path):
    trees.image(tmp_path / "deep/a.png")
    table = tmp_path / "t.csv"
    table.write_text("sep=;\nLot;File\n7;deep\\a.png\n;\n8; b.png \n")
    found = given.items(table)
    assert [item.name for item in found] == ["deep\\a.png", "b.png"]
    assert found[0].decode().size == (8, 6)
    table.write_text("Lot;File\n\n7;\n")
    with pytest.raises(InputError, match="t.csv, line 3: file is empty"):
        given.items(table)
