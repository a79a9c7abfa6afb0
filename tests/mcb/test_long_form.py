"""Reading, splitting and standardising measured curves in long form."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mcb.tasks.long_form import in_split, read_long_form, split_of, standardised

TRAIN, VALIDATION, TEST = "curve 71", "curve 32", "curve 143"
GOOD = {
    "family": ["f", "f", "f", "f", "f", "f"],
    "task": [TRAIN, TRAIN, TRAIN, TRAIN, TEST, TEST],
    "x1": [1.0, 2.0, 3.0, 6.0, 4.0, 5.0],
    "x2": [1.0, None, 3.0, 2.0, None, 4.0],
    "y": [1.0, 1.0, 5.0, 5.0, 7.0, 2.0],
}


@pytest.fixture
def write(tmp_path: Path):
    """Writes columns to a Parquet file and gives its path."""

    def write(columns: dict[str, list] | pa.Table) -> Path:
        path = tmp_path / "curves.parquet"
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "place", "split"),
    # `printf NAME | sha1sum`, its last digits modulo 100: both ends of each split.
    [
        ("curve 71", 0, "train"),
        ("curve 157", 59, "train"),
        ("curve 32", 60, "validation"),
        ("curve 52", 74, "validation"),
        ("curve 143", 75, "test"),
        ("curve 92", 99, "test"),
        ("", 5, "train"),
        ("é", 5, "train"),
    ],
)
def test_sha1_of_the_name_decides_the_split(name: str, place: int, split: str):
    assert split_of(name) == split
    assert split == ("train" if place < 60 else "validation" if place < 75 else "test")


def test_integers_as_names_are_their_decimal_text(write):
    data = read_long_form(write({"family": [3, 3, 3], "task": [0, 5, 16], "x1": [1, 2, 3], "y": [4, 5, 6]}))
    assert data.families == ("3",)
    assert data.names == ("0", "16", "5")  # sha1 modulo 100: 28, 73, 76
    assert [list(in_split(data, split)).index(True) for split in ("train", "validation", "test")] == [0, 1, 2]


def test_points_of_a_task_are_its_rows(write):
    data = read_long_form(write(GOOD))
    assert data.names == (TEST, TRAIN)  # sorted by name
    assert data.start.tolist() == [0, 2]
    assert data.count.tolist() == [2, 4]
    np.testing.assert_array_equal(data.x[:, 0], [4, 5, 1, 2, 3, 6])
    np.testing.assert_array_equal(data.y[:, 0], [7, 2, 1, 1, 5, 5])


def test_order_of_rows_and_columns_and_other_columns_change_nothing(write):
    table = pa.table(GOOD)
    wanted = read_long_form(write(table))
    other = (
        table.take([5, 2, 0, 3, 1, 4]).select(["y", "x2", "task", "x1", "family"]).append_column("note", [["a"] * 6])
    )
    found = read_long_form(write(other.append_column("x", [[0.0] * 6])))
    assert (found.families, found.names) == (wanted.families, wanted.names)
    for name in ("family", "start", "count", "x", "y"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_the_same_name_in_two_families_is_two_tasks(write):
    columns = {"family": ["b", "a", "b"], "task": [TRAIN] * 3, "x1": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0]}
    data = read_long_form(write(columns))
    assert data.families == ("a", "b")
    assert data.family.tolist() == [0, 1]
    assert data.count.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("x1", pa.int64()),
        ("y", pa.uint8()),
        ("y", pa.float16()),
        ("x1", pa.decimal128(5, 2)),
        ("task", pa.large_string()),
        ("family", pa.dictionary(pa.int8(), pa.string())),
    ],
)
def test_any_type_of_number_and_of_text(write, column: str, kind: pa.DataType):
    values = [Decimal(value) for value in GOOD[column]] if pa.types.is_decimal(kind) else GOOD[column]
    array = pa.array([int(value) for value in values] if pa.types.is_integer(kind) else values, kind)
    found, wanted = read_long_form(write(pa.table(GOOD | {column: array}))), read_long_form(write(GOOD))
    assert (found.families, found.names) == (wanted.families, wanted.names)
    np.testing.assert_array_equal(found.x, wanted.x)
    np.testing.assert_array_equal(found.y, wanted.y)


def test_columns_x10_come_after_x9(write):
    columns = GOOD | {"x10": [10.0] * 6, "x9": [9.0] * 6}
    assert read_long_form(write(columns)).x[0, 2:].tolist() == [9, 10]


def test_standardisation_is_that_of_the_training_tasks(write):
    data = standardised(read_long_form(write(GOOD)))
    # Training x1 = 1, 2, 3, 6: mean 3, variance (4 + 1 + 0 + 9) / 4. Training y = 1, 1, 5, 5: mean 3, deviation 2.
    np.testing.assert_allclose(data.x[:, 0], (np.array([4, 5, 1, 2, 3, 6]) - 3) / np.sqrt(3.5), rtol=1e-15)
    np.testing.assert_allclose(data.y[:, 0], [2, -0.5, -1, -1, 1, 1], rtol=1e-15)
    # Training x2 = 1, 3, 2 where measured: mean 2, variance 2 / 3; 0 where it was not.
    np.testing.assert_allclose(data.x[:, 1], np.array([0, 2, -1, 0, 1, 0]) / np.sqrt(2 / 3), rtol=1e-15)


def test_families_are_standardised_apart(write):
    columns = {
        "family": ["a"] * 2 + ["b"] * 2,
        "task": [TRAIN] * 4,
        "x1": [0.0, 2.0, 100.0, 300.0],
        "x2": [None, None, 5.0, 7.0],
        "y": [0.0, 2.0, -6.0, -8.0],
    }
    data = standardised(read_long_form(write(columns)))
    np.testing.assert_allclose(data.x, [[-1, 0], [1, 0], [-1, -1], [1, 1]], rtol=1e-15)
    np.testing.assert_allclose(data.y, [[-1], [1], [1], [-1]], rtol=1e-15)


def test_a_column_that_is_constant_in_training_is_only_centred(write):
    columns = GOOD | {"x2": [0.1, 0.1, 0.1, 0.1, 0.1, 1.1]}
    np.testing.assert_allclose(standardised(read_long_form(write(columns))).x[:, 1], [0, 1, 0, 0, 0, 0], atol=1e-15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [1.0, float("nan"), 5.0, 5.0, 7.0, 2.0]}, r"^y=nan in row 1, task 'curve 71' of family 'f': .* finite"),
        (
            {"x1": [1.0, 2.0, 3.0, 6.0, 4.0, float("inf")]},
            r"^x1=inf in row 5, task 'curve 143' of family 'f': .* finite",
        ),
        ({"x2": [1.0, None, float("nan"), 2.0, None, 4.0]}, r"^x2=nan in row 2, task 'curve 71' of family 'f'"),
        ({"y": [1.0, 1.0, 5.0, 5.0, -1e200, 2.0]}, r"^y=-1e\+200 in row 4, task 'curve 143' of family 'f': .* finite"),
        ({"x1": [1.0, None, 3.0, 6.0, 4.0, 5.0]}, r"^x1=None in row 1, task 'curve 71' of family 'f'"),
        ({"y": [1.0, 1.0, 5.0, 5.0, None, 2.0]}, r"^y=None in row 4, task 'curve 143' of family 'f'"),
        ({"task": [TRAIN, None, TRAIN, TRAIN, TEST, TEST]}, r"^column task is empty in row 1; "),
        ({"family": ["f", "f", "f", "f", "f", None]}, r"^column family is empty in row 5; "),
        ({"x1": ["1", "2", "3", "6", "4", "5"]}, r"^column x1 holds string; it must hold numbers$"),
        ({"y": [date(2000, 1, 1)] * 6}, r"^column y holds date32\[day\]; it must hold numbers$"),
        ({"y": [None] * 6}, r"^column y holds null; it must hold numbers$"),
        ({"task": [["curve"]] * 6}, r"^column task holds list.*; it must hold text or integers$"),
        ({"x1": [1e-30, 2e-30, 3e-30, 4e-30, 3e38, 5.0]}, r"^task 'curve 143' of family 'f' lies too far .* units$"),
        ({"task": [TEST, TEST, VALIDATION, TEST, TEST, TEST]}, r"^family 'f' has no training task .*; add tasks"),
    ],
)
def test_bad_values_are_refused_by_name(write, change: dict[str, list], message: str):
    with pytest.raises(ValueError, match=message):
        standardised(read_long_form(write(GOOD | change)))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["y"], r"curves.parquet has no column y; it must have family, task, x1 \(x2, ...\) and y, one row a point$"),
        (["x1", "x2"], r"has no column x1; "),
        (["family", "task", "x1", "x2", "y"], r"has no column family, task, x1, y; "),
    ],
)
def test_missing_columns_are_named(write, missing: list[str], message: str):
    path = write(pa.table(GOOD | {"note": [0] * 6}).drop_columns(missing))
    with pytest.raises(ValueError, match=message):
        read_long_form(path)


def test_a_file_without_rows_is_refused(write):
    with pytest.raises(ValueError, match=r"curves.parquet has no rows; it must have one row for each point$"):
        read_long_form(write(pa.table(GOOD).slice(0, 0)))


@pytest.mark.parametrize("content", [None, b"", b"family,task,x1,y\n", b"PAR1" + bytes(100) + b"PAR1", "folder"])
def test_a_file_that_is_no_parquet_is_refused_in_one_line(tmp_path: Path, content: bytes | str | None):
    path = tmp_path / "curves.parquet"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^cannot read .*curves\.parquet as a Parquet file: .+$") as caught:
        read_long_form(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(write):
    path = write(GOOD)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"^cannot read .*curves\.parquet as a Parquet file: "):
        read_long_form(path)


def test_an_unknown_split_is_refused(write):
    with pytest.raises(ValueError, match=r"^split='dev' must be one of train, validation, test$"):
        in_split(read_long_form(write(GOOD)), "dev")
