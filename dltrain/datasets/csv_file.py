"""Read CSV files, with errors that name the column and line."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from dltrain.data.bad_samples import BadSamples
from dltrain.errors import ConfigError, format_error, suggest

LARGEST = float(np.finfo(np.float32).max)
MISSING = ("", "na", "nan")
QUOTED = re.compile(r'"[^"]*"')
INVALID_UTF8 = re.compile("[\udc80-\udcff]")  # how surrogateescape decodes such bytes


@dataclass(frozen=True)
class Table:
    """The cells of a CSV file.

    Args:
        path: The file.
        header: Names of the columns.
        rows: Cells as text, one list per row.
        lines: Line of the file, from 1, on which each row ends.
        decimal_comma: Whether numbers have a decimal comma, as is usual in files with semicolons.
    """

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    decimal_comma: bool

    def index_of(self, name: str) -> int:
        """Return the index of a column."""
        if name not in self.header:
            known = f"one of the columns of {self.path.name}: {', '.join(self.header)}"
            raise ConfigError(format_error("data.column", known, name, suggest(str(name), self.header)))
        return self.indices_of([name])[0]

    def indices_of(self, names: Iterable[str]) -> list[int]:
        """Return the indices of columns.

        Raises:
            ConfigError: Columns are missing, or several have the same name.
        """
        names = list(names)
        missing = [name for name in names if name not in self.header]
        if missing:
            known = f"the column{'s' * (len(missing) > 1)} {', '.join(missing)} in {self.path}"
            raise ConfigError(format_error("data.column", known, ", ".join(self.header)))
        for name in names:
            if (times := self.header.count(name)) > 1:
                called = f"called {name}" if name else "without a name"
                expected = f"one column {called} in {self.path}"
                raise ConfigError(format_error("data.column", expected, f"{times} of them", "Rename the others"))
        return [self.header.index(name) for name in names]

    def cells(self, column: int) -> list[str]:
        """Return the cells of one column."""
        return [row[column] for row in self.rows]

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds at least one number and no text."""
        found = [self.parse_number(cell) for cell in self.cells(column) if not is_missing(cell)]
        return bool(found) and None not in found

    def parse_number(self, cell: str) -> float | None:
        """Return the finite number in a cell, or None for text."""
        if "_" in cell:  # Python reads 1_0 as 10
            return None
        try:
            value = float(cell.replace(",", ".") if self.decimal_comma else cell)
        except ValueError:
            return None
        return value if isfinite(value) else None


def read_csv(path: Path, limit: int | None = None, bad: BadSamples | None = None) -> Table:
    """Read a UTF-8 file, with or without a byte order mark, with commas or semicolons between the cells.

    Args:
        path: An existing file.
        limit: Read at most this many rows.
        bad: Policy for unreadable lines; None rejects them.

    Raises:
        ConfigError: The file is not a CSV file; the message names the line.
    """
    with csv_errors(path), path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        return next(iterate_tables(lines, path, limit, bad))


@contextmanager
def csv_errors(path: Path) -> Iterator[None]:
    """Raise errors in reading a file as ConfigError."""
    try:
        yield
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(format_error("data.path", f"a CSV file in UTF-8 at {path}", str(error))) from error


def iterate_tables(
    lines: Iterable[str], path: Path, size: int | None, bad: BadSamples | None = None
) -> Iterator[Table]:
    """Yield the rows of a file in tables of ``size`` rows, or in one table; there is at least one row.

    Args:
        lines: Lines of the file, read as they are needed.
        path: The file, for messages.
        size: Rows per table; None reads all rows into one.
        bad: Policy for unreadable lines; None rejects them.

    Raises:
        ConfigError: The file is not a CSV file; the message names the line.
    """
    lines = iter(lines)
    first = next(lines, "")
    bare = QUOTED.sub("", first)
    delimiter = ";" if bare.count(";") > bare.count(",") else ","
    reader = csv.reader(chain([first], lines), delimiter=delimiter, skipinitialspace=True)
    header = [name.strip() for name in next(reader, [])]
    rows = _iterate_rows(reader, single_column=len(header) == 1)
    found = list(islice(rows, size))
    while True:
        table = Table(
            path, header, [row for row, _ in found], [line for _, line in found], decimal_comma=delimiter == ";"
        )
        _check_table(table)
        yield drop_rows(table, _find_bad_rows(table), bad or BadSamples())
        if not (found := list(islice(rows, size))):
            return


def _iterate_rows(reader: Any, single_column: bool) -> Iterator[tuple[list[str], int]]:
    """Yield each row with the line on which it ends.

    An empty line is a missing value in a file of one column, except at its end; otherwise it is ignored.
    """
    empty: list[tuple[list[str], int]] = []
    for row in reader:
        if row:
            yield from empty
            empty.clear()
            yield [cell.strip() for cell in row], reader.line_num
        elif single_column:
            empty.append(([""], reader.line_num))


def _check_table(table: Table) -> None:
    """Reject a file without named columns or without rows."""
    if any("\t" in name for name in table.header):
        expected = f"cells between commas or semicolons in {table.path}"
        raise ConfigError(format_error("data.path", expected, "tabs between the names of its first line"))
    if not table.rows:
        raise ConfigError(format_error("data.path", f"a line of names and rows of numbers in {table.path}", "no rows"))
    if all(table.parse_number(name) is not None for name in table.header):
        got = ", ".join(table.header)
        raise ConfigError(format_error("data.path", f"the names of the columns in the first line of {table.path}", got))
    if any(map(_has_invalid_utf8, table.header)):
        raise ConfigError(
            format_error("data.path", f"a CSV file in UTF-8 at {table.path}", "other bytes in its first line")
        )


def drop_rows(table: Table, messages: Mapping[int, str], bad: BadSamples) -> Table:
    """Return the table without its bad rows.

    Args:
        table: The file.
        messages: Row -> what is wrong with it.
        bad: Policy for these rows.

    Raises:
        ConfigError: Bad rows are rejected, there are too many, or no row is left.
    """
    for row in sorted(messages):
        bad.add(messages[row])
    kept = [row for row in range(len(table.rows)) if row not in messages]
    if not kept:
        raise ConfigError(format_error("data.path", f"a readable line in {table.path}", "none"))
    return replace(table, rows=[table.rows[row] for row in kept], lines=[table.lines[row] for row in kept])


def _find_bad_rows(table: Table) -> dict[int, str]:
    """Find rows that are not UTF-8 or have the wrong number of cells: row -> what is wrong with it."""
    found = {}
    for number, (row, line) in enumerate(zip(table.rows, table.lines, strict=True)):
        invalid = next(filter(_has_invalid_utf8, row), None)
        if invalid is not None:
            got = invalid.encode(errors="backslashreplace").decode()
            found[number] = format_error("data.path", f"text in UTF-8 in line {line} of {table.path}", got)
        elif len(row) != len(table.header):
            expected = f"{len(table.header)} cells in line {line} of {table.path}, as in its first line"
            found[number] = format_error("data.path", expected, len(row))
    return found


def _has_invalid_utf8(cell: str) -> bool:
    return not cell.isascii() and INVALID_UTF8.search(cell) is not None


def is_missing(cell: str) -> bool:
    """Whether a cell is a missing value: empty, NA or NaN."""
    return cell.casefold() in MISSING


def parse_numbers(table: Table, column: int, hint: str = "Choose columns of numbers with data.column") -> np.ndarray:
    """Return one column in float64 (rows,), with NaN for missing values.

    Args:
        table: The file.
        column: Index of the column.
        hint: What to do about text in it, for the message.

    Raises:
        ConfigError: A cell holds text, or a number beyond the range of float32; the message names the first.
    """
    values = np.full(len(table.rows), np.nan)
    for row, cell in enumerate(table.cells(column)):
        if is_missing(cell):
            continue
        value = table.parse_number(cell)
        if value is None or abs(value) > LARGEST:
            size = "finite number" if value is None else f"number between -{LARGEST:.2g} and {LARGEST:.2g}"
            where = f"a {size} in column {table.header[column]}, line {table.lines[row]} of {table.path}"
            raise ConfigError(format_error("data.column", where, cell, hint if value is None else ""))
        values[row] = value
    return values


def reject_missing(table: Table, columns: Iterable[int], hint: str) -> None:
    """Reject columns with missing values.

    Args:
        table: The file.
        columns: Indices of the columns.
        hint: What to do instead, for the message.

    Raises:
        ConfigError: With one line per column: where the first missing value is, and how many there are.
    """
    problems = []
    for column in columns:
        lines = [line for cell, line in zip(table.cells(column), table.lines, strict=True) if is_missing(cell)]
        if lines:
            where = f"a value in column {table.header[column]}, line {lines[0]} of {table.path}"
            problems.append(format_error("data.path", where, f"a missing value ({len(lines)} in this column)", hint))
    if problems:
        raise ConfigError(*problems)
