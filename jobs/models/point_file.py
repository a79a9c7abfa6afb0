"""Points in a CSV file with a header; every fault is one sentence that names file, line and column."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cluster.errors import UserError

_LARGEST = float(np.finfo(np.float32).max)


class Points(NamedTuple):
    """The values of a file in the columns' order of the model; `y` is None where the file has none."""

    x_names: tuple[str, ...]
    x: np.ndarray
    y: np.ndarray | None


def read_points(path: Path, x_size: int, y_size: int, needs_y: bool, may_miss: bool = False) -> Points:
    """The points of a file with columns x (or x1, x2, ...) and y (or y1, ...), in any order.

    `may_miss` lets cells of inputs after the first be empty, which is NaN. Raises `UserError`.
    """
    header, rows = _read(path)
    x_names = _columns(path, header, "x", x_size)
    y_names = _columns(path, header, "y", y_size) if needs_y or {"y", "y1"} & set(header) else ()
    for name in header:
        if name not in (*x_names, *y_names):
            raise UserError(f"{path} has a column {name!r}: the columns of this model are {_wanted(x_size, y_size)}")
    if not rows:
        raise UserError(f"{path} has a header and no points: give at least one")
    values = {name: [] for name in header}
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path}, line {line} has {len(row)} cells and the header {len(header)}")
        for name, cell in zip(header, row, strict=True):
            is_optional = may_miss and name in x_names[1:]
            values[name].append(_number(f"{path}, line {line}: {name}", cell, is_optional))
    table = {name: np.array(column) for name, column in values.items()}
    y = np.stack([table[name] for name in y_names], axis=1) if y_names else None
    return Points(x_names, np.stack([table[name] for name in x_names], axis=1), y)


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each line that is not blank with its number."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file in UTF-8: {error}") from error
    if not lines:
        raise UserError(f"{path} is empty: it must have a header, such as x,y, and one line for each point")
    header = lines[0][1]
    for name in header:
        if header.count(name) > 1:
            raise UserError(f"{path} has two columns {name!r}: leave one of them out")
    if all(_is_number(cell) for cell in header):
        raise UserError(f"{path} has no header: its first line must name the columns, such as x,y")
    return header, lines[1:]


def _columns(path: Path, header: list[str], letter: str, size: int) -> tuple[str, ...]:
    """The names of a group of columns: `x`, or `x1` to `xd`; raises `UserError` for one that is missing."""
    if size == 1 and letter in header:
        return (letter,)
    names = tuple(f"{letter}{number}" for number in range(1, size + 1))
    for name in names:
        if name not in header:
            missing = letter if size == 1 else name
            hint = "; separate columns by commas" if len(header) == 1 and {";", "\t"} & set(header[0]) else ""
            raise UserError(f"{path} has no column {missing}: there are {', '.join(header)}{hint}")
    return names


def _number(where: str, cell: str, is_optional: bool) -> float:
    if is_optional and not cell:
        return math.nan
    if not _is_number(cell):
        raise UserError(f"{where} is {cell!r}: it must be a finite number")
    return float(cell)


def _is_number(cell: str) -> bool:
    """Whether a cell holds a number that the learner can take, float32."""
    try:
        return abs(float(cell)) <= _LARGEST
    except ValueError:
        return False


def _wanted(x_size: int, y_size: int) -> str:
    groups = (("x", x_size), ("y", y_size))
    return ", ".join(name for letter, size in groups for name in _names(letter, size))


def _names(letter: str, size: int) -> list[str]:
    return [letter] if size == 1 else [f"{letter}{number}" for number in range(1, size + 1)]
