"""Measured curves in long form, a Parquet file of points with columns `family, task, x1[, x2, ...], y`.

A pair (family, task) is one task and its rows are its points. Rows are sorted on reading (family, task, inputs, y), so
a file that holds the same rows in another order is the same data. Columns of other names are left alone.
"""

import hashlib
import re
from os import PathLike
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int

Split = Literal["train", "validation", "test"]

_LARGEST = float(np.finfo(np.float32).max)


class LongForm(NamedTuple):
    """Points of many tasks: task `n` owns rows `start[n] : start[n] + count[n]`; tasks are sorted by (family, name).

    `family[n]` indexes `families`, which are sorted too. An input that was not measured is NaN in `x` until
    `standardised` puts 0 there.
    """

    families: tuple[str, ...]
    names: tuple[str, ...]
    family: Int[np.ndarray, "N"]
    start: Int[np.ndarray, "N"]
    count: Int[np.ndarray, "N"]
    x: Float[np.ndarray, "R X"]
    y: Float[np.ndarray, "R 1"]


def split_of(name: str) -> Split:
    """The split of a task by its name: sha1 modulo 100, below 60 train, below 75 validation, else test.

    >>> split_of("child 1"), split_of("child 6"), split_of("child 14")
    ('train', 'test', 'validation')
    """
    place = int(hashlib.sha1(name.encode()).hexdigest(), 16) % 100
    return "train" if place < 60 else "validation" if place < 75 else "test"


def in_split(data: LongForm, split: str) -> Bool[np.ndarray, "N"]:
    """True for the tasks of `split`; a ValueError where there is no split of that name."""
    if split not in get_args(Split):
        raise ValueError(f"split={split!r} must be one of {', '.join(get_args(Split))}")
    return np.array([split_of(name) == split for name in data.names], dtype=bool)


def read_long_form(path: str | PathLike[str]) -> LongForm:
    """The points of a Parquet file in its own units.

    Raises:
        ValueError: the file cannot be read, has no rows, lacks a column, has a column of the wrong type, or holds a
            NaN, an infinity, or nothing where a value must be (only `x2`, `x3`, ... may be empty).
    """
    table = _read_table(path)
    families, family = _codes(table, "family")
    tasks, task = _codes(table, "task")
    values = np.stack([_numbers(table, name) for name in table.column_names[2:]], axis=1)
    order = np.lexsort((*values.T[::-1], task, family))
    family, task, values = family[order], task[order], values[order]
    start = np.flatnonzero(np.diff(family * len(tasks) + task, prepend=-1))
    return LongForm(
        families=families,
        names=tuple(tasks[code] for code in task[start]),
        family=family[start],
        start=start,
        count=np.diff(start, append=len(order)),
        x=values[:, :-1],
        y=values[:, -1:],
    )


def standardised(data: LongForm) -> LongForm:
    """Each column of each family less its mean, over its standard deviation, both over the points of training tasks.

    An input that was not measured becomes 0, which is the mean. A column that is constant in training is only centred.

    Raises:
        ValueError: a family has no training task, or a value is too far from its training tasks for float32.
    """
    values = np.concatenate([data.x, data.y], axis=1)
    mean, scale = training_moments(data)
    family = np.repeat(data.family, data.count)
    values = (values - mean[family]) / scale[family]
    values[np.isnan(values)] = 0
    if (far := np.abs(values).max(axis=1) > _LARGEST).any():
        task = np.repeat(np.arange(len(data.names)), data.count)[far.argmax()]
        name, family_name = data.names[task], data.families[data.family[task]]
        raise ValueError(
            f"task {name!r} of family {family_name!r} lies too far from its family's training tasks; check its units"
        )
    return data._replace(x=values[:, :-1], y=values[:, -1:])


def training_moments(data: LongForm) -> tuple[Float[np.ndarray, "F C"], Float[np.ndarray, "F C"]]:
    """What `standardised` takes away from each family's columns, those of x and then y, and what it divides by.

    Raises:
        ValueError: a family has no training task.
    """
    values = np.concatenate([data.x, data.y], axis=1)
    training = np.repeat(in_split(data, "train"), data.count)
    family = np.repeat(data.family, data.count)
    moments = []
    for index, name in enumerate(data.families):
        rows = training & (family == index)
        if not rows.any():
            raise ValueError(
                f"family {name!r} has no training task (a task's name decides its split); add tasks or leave it out"
            )
        moments.append(_moments(values[rows]))
    mean, scale = zip(*moments, strict=True)
    return np.stack(mean), np.stack(scale)


def _moments(values: Float[np.ndarray, "R C"]) -> tuple[Float[np.ndarray, "C"], Float[np.ndarray, "C"]]:
    """Mean and standard deviation of each column, NaN left out; 0 where all are NaN, 1 where nothing varies."""
    seen = ~np.isnan(values)
    num = seen.sum(axis=0).clip(min=1)
    mean = np.where(seen, values, 0).sum(axis=0) / num
    scale = np.sqrt(np.where(seen, (values - mean) ** 2, 0).sum(axis=0) / num)
    rounding = 1e-12 * np.abs(np.where(seen, values, 0)).max(axis=0)
    return mean, np.where(scale > rounding, scale, 1.0)


def _read_table(path: str | PathLike[str]) -> pa.Table:
    """The columns family, task, x1, x2, ..., y of a Parquet file, in this order."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            inputs = sorted(
                (name for name in names if re.fullmatch(r"x[1-9]\d*", name)), key=lambda name: int(name[1:])
            )
            columns = ["family", "task", *(inputs or ["x1"]), "y"]
            missing = [name for name in columns if name not in names]
            table = None if missing else file.read(columns=columns).select(columns)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"cannot read {path} as a Parquet file: {reason}") from error
    if table is None:
        raise ValueError(
            f"{path} has no column {', '.join(missing)}; it must have family, task, x1 (x2, ...) and y, one row a point"
        )
    if table.num_rows == 0:
        raise ValueError(f"{path} has no rows; it must have one row for each point")
    return table


def _codes(table: pa.Table, name: str) -> tuple[tuple[str, ...], Int[np.ndarray, "R"]]:
    """The distinct values of a column as sorted text, and each row's index among them."""
    column = table[name]
    if column.null_count:
        row = int(column.is_null().to_numpy().argmax())
        raise ValueError(f"column {name} is empty in row {row}; every point must name its family and its task")
    try:
        encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    except pa.ArrowException as error:
        raise ValueError(f"column {name} holds {column.type}; it must hold text or integers") from error
    names = encoded.dictionary.to_pylist()
    order = np.argsort(np.array(names, dtype=object), kind="stable")
    return tuple(names[i] for i in order), np.argsort(order)[encoded.indices.to_numpy()]


def _numbers(table: pa.Table, name: str) -> Float[np.ndarray, "R"]:
    """A column as float64, NaN where it is empty and may be."""
    column = table[name]
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)):
        raise ValueError(f"column {name} holds {column.type}; it must hold numbers")
    values = column.cast(pa.float64(), safe=False).to_numpy()
    allowed = column.is_null().to_numpy() & (name not in ("x1", "y"))
    if (bad := ~(np.abs(values) <= _LARGEST) & ~allowed).any():
        row = int(bad.argmax())
        owner = f"task {str(table['task'][row])!r} of family {str(table['family'][row])!r}"
        raise ValueError(f"{name}={column[row]} in row {row}, {owner}: it must be a finite number")
    return values
