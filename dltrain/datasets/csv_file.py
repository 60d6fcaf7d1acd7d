"""CSV files, read so that whatever is wrong in them can be named by column and line."""

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
HOLES = ("", "na", "nan")
QUOTED = re.compile(r'"[^"]*"')
TORN = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8, as Python's surrogateescape shows them


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
            raise ConfigError(format_error("data.column", known, name, suggest(str(name), self.header)))
        return self.places([name])[0]

    def places(self, names: Iterable[str]) -> list[int]:
        """Which columns have these names.

        Raises:
            ConfigError: Naming those that are missing, or one that several columns have.
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
                raise ConfigError(
                    format_error("data.column", expected, f"{times} of them", "Give each a name of its own")
                )
        return [self.header.index(name) for name in names]

    def cells(self, place: int) -> list[str]:
        """The text of one column."""
        return [row[place] for row in self.rows]

    def numeric(self, place: int) -> bool:
        """Whether a column holds numbers: at least one, and no text."""
        found = [self.number(cell) for cell in self.cells(place) if not is_hole(cell)]
        return bool(found) and None not in found

    def number(self, cell: str) -> float | None:
        """The finite number in a cell, or None for text."""
        if "_" in cell:  # Python reads 1_0 as 10
            return None
        try:
            value = float(cell.replace(",", ".") if self.comma else cell)
        except ValueError:
            return None
        return value if isfinite(value) else None


def read(path: Path, limit: int | None = None, bad: BadSamples | None = None) -> Table:
    """Read a file in UTF-8, with or without a byte order mark, its cells between commas or semicolons.

    Args:
        path: Of a file that is there.
        limit: Read only so many rows.
        bad: What to do about lines that cannot be read; None refuses them.

    Raises:
        ConfigError: The file is not such a file; the message names the line.
    """
    with readable(path), path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        return next(tables(lines, path, limit, bad))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What goes wrong in reading a file, as a mistake of the user's."""
    try:
        yield
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(format_error("data.path", f"a CSV file in UTF-8 at {path}", str(error))) from error


def tables(lines: Iterable[str], path: Path, size: int | None, bad: BadSamples | None = None) -> Iterator[Table]:
    """A file's rows in tables of ``size``, or all in one; there is at least one row.

    Args:
        lines: Of the file; no more are read than are needed.
        path: Of the file, for messages.
        size: Rows at a time.
        bad: What to do about lines that cannot be read; None refuses them.

    Raises:
        ConfigError: The file is not such a file; the message names the line.
    """
    lines = iter(lines)
    first = next(lines, "")
    bare = QUOTED.sub("", first)
    delimiter = ";" if bare.count(";") > bare.count(",") else ","
    reader = csv.reader(chain([first], lines), delimiter=delimiter, skipinitialspace=True)
    header = [name.strip() for name in next(reader, [])]
    rows = _rows(reader, alone=len(header) == 1)
    found = list(islice(rows, size))
    while True:
        table = Table(path, header, [row for row, _ in found], [line for _, line in found], comma=delimiter == ";")
        _check(table)
        yield without(table, _torn_rows(table), bad or BadSamples())
        if not (found := list(islice(rows, size))):
            return


def _rows(reader: Any, alone: bool) -> Iterator[tuple[list[str], int]]:
    """Rows, each with the line on which it ends.

    An empty line is a hole where there is one column, and nothing where there are several, or at the end of the file.
    """
    empty: list[tuple[list[str], int]] = []
    for row in reader:
        if row:
            yield from empty
            empty.clear()
            yield [cell.strip() for cell in row], reader.line_num
        elif alone:
            empty.append(([""], reader.line_num))


def _check(table: Table) -> None:
    """Refuse what is no table with names over its columns."""
    if any("\t" in name for name in table.header):
        expected = f"cells between commas or semicolons in {table.path}"
        raise ConfigError(format_error("data.path", expected, "tabs between the names of its first line"))
    if not table.rows:
        raise ConfigError(format_error("data.path", f"a line of names and rows of numbers in {table.path}", "no rows"))
    if all(table.number(name) is not None for name in table.header):
        got = ", ".join(table.header)
        raise ConfigError(format_error("data.path", f"the names of the columns in the first line of {table.path}", got))
    if any(map(_is_torn, table.header)):
        raise ConfigError(
            format_error("data.path", f"a CSV file in UTF-8 at {table.path}", "other bytes in its first line")
        )


def without(table: Table, mistakes: Mapping[int, str], bad: BadSamples) -> Table:
    """The table without some of its rows.

    Args:
        table: The file.
        mistakes: Row -> what is wrong with it.
        bad: What to do about such rows.

    Raises:
        ConfigError: They are refused, there are too many, or no row is left.
    """
    for row in sorted(mistakes):
        bad.add(mistakes[row])
    kept = [row for row in range(len(table.rows)) if row not in mistakes]
    if not kept:
        raise ConfigError(format_error("data.path", f"a line that can be read in {table.path}", "none"))
    return replace(table, rows=[table.rows[row] for row in kept], lines=[table.lines[row] for row in kept])


def _torn_rows(table: Table) -> dict[int, str]:
    """Rows that are no text, or have not as many cells as the first: row -> what is wrong with it."""
    found = {}
    for number, (row, line) in enumerate(zip(table.rows, table.lines, strict=True)):
        torn = next(filter(_is_torn, row), None)
        if torn is not None:
            got = torn.encode(errors="backslashreplace").decode()
            found[number] = format_error("data.path", f"text in UTF-8 in line {line} of {table.path}", got)
        elif len(row) != len(table.header):
            expected = f"{len(table.header)} cells in line {line} of {table.path}, as in its first line"
            found[number] = format_error("data.path", expected, len(row))
    return found


def _is_torn(cell: str) -> bool:
    return not cell.isascii() and TORN.search(cell) is not None


def is_hole(cell: str) -> bool:
    """Whether a cell says that there is no value: it is empty, NA or NaN."""
    return cell.casefold() in HOLES


def numbers(table: Table, place: int, remedy: str = "Choose columns of numbers with data.column") -> np.ndarray:
    """One column as float64 (rows,), with NaN for holes.

    Args:
        table: The file.
        place: Which column.
        remedy: What the user can do about text in it.

    Raises:
        ConfigError: A cell holds text, or a number that no float32 holds; the message names the first.
    """
    values = np.full(len(table.rows), np.nan)
    for row, cell in enumerate(table.cells(place)):
        if is_hole(cell):
            continue
        value = table.number(cell)
        if value is None or abs(value) > LARGEST:
            size = "finite number" if value is None else f"number between -{LARGEST:.2g} and {LARGEST:.2g}"
            where = f"a {size} in column {table.header[place]}, line {table.lines[row]} of {table.path}"
            raise ConfigError(format_error("data.column", where, cell, remedy if value is None else ""))
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
            problems.append(format_error("data.path", where, f"a hole ({len(lines)} in this column)", remedy))
    if problems:
        raise ConfigError(*problems)
