"""CSV files, read so that whatever is wrong in them can be named by column and line."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from pathlib import Path

import numpy as np

from dltrain.errors import ConfigError, nearest, problem

HOLES = ("", "na", "nan")
QUOTED = re.compile(r'"[^"]*"')


@dataclass(frozen=True)
class Table:
    """The cells of a CSV file.

    Args:
        path: Of the file.
        header: Names of the columns.
        rows: Cells as text, one list per row.
        lines: Line of the file, from 1, on which each row ends.
        comma: Whether numbers are written with a decimal comma, as is usual between semicolons.
    """

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    comma: bool

    def place(self, name: str) -> int:
        """Which column has this name."""
        if name not in self.header:
            known = f"one of the columns of {self.path.name}: {', '.join(self.header)}"
            raise ConfigError(problem("data.column", known, name, nearest(str(name), self.header)))
        return self.header.index(name)

    def cells(self, place: int) -> list[str]:
        """The text of one column."""
        return [row[place] for row in self.rows]

    def numeric(self, place: int) -> bool:
        """Whether a column holds numbers: at least one, and no text."""
        found = [self.number(cell) for cell in self.cells(place) if not is_hole(cell)]
        return bool(found) and None not in found

    def number(self, cell: str) -> float | None:
        """The finite number in a cell, or None for text."""
        try:
            value = float(cell.replace(",", ".") if self.comma else cell)
        except ValueError:
            return None
        return value if isfinite(value) else None


def read(path: Path, limit: int | None = None) -> Table:
    """Read a file in UTF-8, with or without a byte order mark, its cells between commas or semicolons.

    Args:
        path: Of a file that is there.
        limit: Read only so many rows.

    Raises:
        ConfigError: The file is not such a file; the message names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            first = QUOTED.sub("", lines.readline())
            delimiter = ";" if first.count(";") > first.count(",") else ","
            lines.seek(0)
            reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
            header = [name.strip() for name in next(reader, [])]
            found = list(islice(((row, reader.line_num) for row in reader), limit))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(problem("data.path", f"a CSV file in UTF-8 at {path}", str(error))) from error
    while found and not found[-1][0]:
        found.pop()
    # An empty line is a hole where there is one column, and nothing where there are several.
    kept = [(row or [""], line) for row, line in found if row or len(header) == 1]
    rows = [[cell.strip() for cell in row] for row, _ in kept]
    table = Table(path, header, rows, [line for _, line in kept], comma=delimiter == ";")
    _check(table)
    return table


def _check(table: Table) -> None:
    """Refuse what is no table with names over its columns."""
    if not table.rows:
        raise ConfigError(problem("data.path", f"a line of names and rows of numbers in {table.path}", "no rows"))
    if all(table.number(name) is not None for name in table.header):
        got = ", ".join(table.header)
        raise ConfigError(problem("data.path", f"the names of the columns in the first line of {table.path}", got))
    for row, line in zip(table.rows, table.lines, strict=True):
        if len(row) != len(table.header):
            expected = f"{len(table.header)} cells in line {line} of {table.path}, as in its first line"
            raise ConfigError(problem("data.path", expected, len(row)))


def is_hole(cell: str) -> bool:
    """Whether a cell says that there is no value: it is empty, NA or NaN."""
    return cell.casefold() in HOLES


def numbers(table: Table, place: int) -> np.ndarray:
    """One column as float64 (rows,), with NaN for holes.

    Raises:
        ConfigError: A cell holds text; the message names the first.
    """
    values = np.full(len(table.rows), np.nan)
    for row, cell in enumerate(table.cells(place)):
        if is_hole(cell):
            continue
        value = table.number(cell)
        if value is None:
            where = f"a finite number in column {table.header[place]}, line {table.lines[row]} of {table.path}"
            raise ConfigError(problem("data.column", where, cell, "Choose columns of numbers with data.column"))
        values[row] = value
    return values


def refuse_holes(table: Table, places: Iterable[int], remedy: str) -> None:
    """Refuse columns with holes.

    Args:
        table: The file.
        places: Columns to look at.
        remedy: What the user can do instead.

    Raises:
        ConfigError: One line per column with holes: where the first one is and how many there are.
    """
    problems = []
    for place in places:
        lines = [line for cell, line in zip(table.cells(place), table.lines, strict=True) if is_hole(cell)]
        if lines:
            where = f"a value in column {table.header[place]}, line {lines[0]} of {table.path}"
            problems.append(problem("data.path", where, f"a hole ({len(lines)} in this column)", remedy))
    if problems:
        raise ConfigError(*problems)
