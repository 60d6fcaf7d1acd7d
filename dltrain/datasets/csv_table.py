"""Table of a CSV file: the cells of each column, with their numbers and missing values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dltrain.data.bad_samples import BadSamples
from dltrain.datasets.cells import MISSING, MISSING_NUMBERS, POINT, Cells
from dltrain.errors import ConfigError, format_error, suggest

LARGEST = float(np.finfo(np.float32).max)
AS_TRAINED = ("data.path", "This column holds numbers in the training data")  # arguments of `parse_column`


class Marks(NamedTuple):
    """Delimiter, decimal mark and quoting of a file.

    Args:
        delimiter: Character between cells.
        decimal: Decimal mark of the numbers.
        literal_quotes: Whether quotes within cells are ordinary characters.
    """

    delimiter: str = ","
    decimal: str = POINT
    literal_quotes: bool = False


@dataclass(frozen=True)
class Table:
    """The cells of a CSV file.

    Args:
        path: The file.
        header: Names of the columns.
        columns: Cells of each column.
        lines: Line of the file, from 1, on which each row ends.
        missing_words: Additional words for a missing value, in lower case.
        marks: Delimiter, decimal mark and quoting of the file.
    """

    path: Path
    header: list[str]
    columns: list[Cells]
    lines: np.ndarray
    missing_words: frozenset[str] = frozenset()
    marks: Marks = field(default_factory=Marks)

    def __len__(self) -> int:
        return len(self.lines)

    def index_of(self, name: str, key: str = "data.column") -> int:
        """Return the index of a column; `key` is the configuration key for messages.

        Raises:
            ConfigError: There is no such column, or several have this name.
        """
        if name not in self.header:
            known = f"one of the columns of {self.path.name}: {', '.join(self.header)}"
            raise ConfigError(format_error(key, known, name, suggest(str(name), self.header)))
        return self.indices_of([name], key)[0]

    def indices_of(self, names: Iterable[str], key: str = "data.column") -> list[int]:
        """Return the indices of columns; `key` is the configuration key for messages.

        Raises:
            ConfigError: Columns are missing, or several have the same name.
        """
        names = list(names)
        missing = [name for name in names if name not in self.header]
        if missing:
            known = f"the column{'s' * (len(missing) > 1)} {', '.join(missing)} in {self.path}"
            raise ConfigError(format_error(key, known, f"the columns {', '.join(self.header)}"))
        for name in names:
            if (times := self.header.count(name)) > 1:
                called = f"called {name}" if name else "without a name"
                expected = f"one column {called} in {self.path}"
                raise ConfigError(format_error(key, expected, f"{times} of them", "Rename the duplicates"))
        return [self.header.index(name) for name in names]

    def select(self, rows: np.ndarray) -> "Table":
        """Return the given rows."""
        return replace(self, columns=[cells.select(rows) for cells in self.columns], lines=self.lines[rows])

    @cached_property
    def _numbers(self) -> list[np.ndarray]:
        return [cells.numbers(self.marks.decimal) for cells in self.columns]

    @cached_property
    def _text(self) -> list[np.ndarray]:
        missing = MISSING_NUMBERS | self.missing_words
        return [
            np.array([word.casefold() not in missing for word in cells.words], dtype=bool) & np.isnan(numbers)
            for cells, numbers in zip(self.columns, self._numbers, strict=True)
        ]

    def numbers(self, column: int) -> np.ndarray:
        """Return the numbers in a column, (rows,) in float64, with NaN for missing values and text."""
        return self._numbers[column][self.columns[column].codes]

    def different_numbers(self, column: int) -> np.ndarray:
        """Return the distinct numbers in a column, sorted."""
        found = self._numbers[column]
        return np.unique(found[~np.isnan(found)])

    def text_mask(self, column: int) -> np.ndarray:
        """Return for each row whether its cell is text: neither a finite number nor a missing value."""
        return self._text[column][self.columns[column].codes]

    def is_numeric(self, column: int) -> bool:
        """Return whether a column holds at least one number and no text."""
        return len(self.different_numbers(column)) > 0 and not self._text[column].any()

    def is_missing_word(self, word: str) -> bool:
        """Return whether a cell in a column of words is a missing value."""
        return word.casefold() in MISSING | self.missing_words

    def missing_mask(self, column: int) -> np.ndarray:
        """Return for each row whether the value is missing."""
        words = MISSING_NUMBERS if self.is_numeric(column) else MISSING
        return self.columns[column].among(words | self.missing_words)

    def describe_cell(self, column: int, row: int) -> str:
        """Return the column, line and file of a cell, for messages."""
        return f"column {self.header[column]}, line {self.lines[row]} of {self.path}"


def drop_rows(table: Table, messages: Mapping[int, str], bad: BadSamples) -> Table:
    """Return the table without its bad rows.

    Args:
        table: The file.
        messages: Row -> error message.
        bad: Policy for these rows.

    Raises:
        ConfigError: Bad rows are rejected, there are too many, or no row is left.
    """
    for row in sorted(messages):
        bad.add(messages[row])
    kept = np.setdiff1d(np.arange(len(table)), list(messages))
    if not len(kept):
        raise ConfigError(format_error("data.path", f"a readable line in {table.path}", "none"))
    return table.select(kept) if messages else table


def parse_column(table: Table, column: int, key: str = "data.column", hint: str = "") -> np.ndarray:
    """Return one column in float64 (rows,), with NaN for missing values.

    Args:
        table: The file.
        column: Index of the column.
        key: Configuration key for messages.
        hint: Hint of the message about text in the column; the default is to choose columns of numbers with `key`.

    Raises:
        ConfigError: A cell holds text, or a number beyond the range of float32; the message names the first such cell.
    """
    values = table.numbers(column)
    text = table.text_mask(column)
    wrong = np.flatnonzero(text | (np.abs(values) > LARGEST))
    if len(wrong):
        row = int(wrong[0])
        size = "finite number" if text[row] else f"number between -{LARGEST:.2g} and {LARGEST:.2g}"
        expected = f"a {size} in {table.describe_cell(column, row)}"
        advice = (hint or f"Choose columns of numbers with {key}") if text[row] else ""
        raise ConfigError(format_error(key, expected, table.columns[column][row], advice))
    return values


def reject_missing(table: Table, columns: Iterable[int], hint: str) -> None:
    """Reject columns with missing values.

    Args:
        table: The file.
        columns: Indices of the columns.
        hint: Advice for the error message.

    Raises:
        ConfigError: Values are missing; one message per column names its first missing value and counts them.
    """
    problems = []
    for column in columns:
        rows = np.flatnonzero(table.missing_mask(column))
        if len(rows):
            got = f"a missing value ({len(rows)} in this column)"
            problems.append(
                format_error("data.path", f"a value in {table.describe_cell(column, int(rows[0]))}", got, hint)
            )
    if problems:
        raise ConfigError(*problems)
