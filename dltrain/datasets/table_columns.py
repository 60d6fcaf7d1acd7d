"""Columns of a table as model inputs, fitted on the training rows."""

from typing import NamedTuple

import numpy as np

from dltrain.datasets.csv_file import LARGEST, Table, is_missing, parse_numbers
from dltrain.datasets.numerics import nonzero_std
from dltrain.errors import ConfigError, format_error

MAX_WORDS = 1000


class NumberColumn(NamedTuple):
    """A column of numbers, standardized with the mean and standard deviation of its training rows."""

    name: str
    mean: float
    scale: float

    def encode(self, table: Table, column: int) -> np.ndarray:
        """Return (rows, 1), with 0 for missing values.

        Raises:
            ConfigError: A cell holds text, or is beyond the range of float32 after standardization.
        """
        values = parse_numbers(table, column, "This column holds numbers in training")
        return np.nan_to_num(standardize(values, self.mean, self.scale, table, column), nan=0.0)[:, None]


class WordColumn(NamedTuple):
    """A column of words, one-hot over the words of its training rows."""

    name: str
    indices: dict[str, int]

    def encode(self, table: Table, column: int) -> np.ndarray:
        """Return (rows, words) of 0 and 1; all 0 for unknown words and missing values."""
        encoded = np.zeros((len(table.rows), len(self.indices)), dtype=np.float32)
        for row, cell in enumerate(table.cells(column)):
            if cell in self.indices:
                encoded[row, self.indices[cell]] = 1.0
        return encoded


Column = NumberColumn | WordColumn


def fit_column(table: Table, column: int, train: np.ndarray) -> Column:
    """Fit a column on the rows ``train`` of a table.

    Raises:
        ConfigError: There is no number in the training rows, or there are too many different words.
    """
    name = table.header[column]
    if not table.is_numeric(column):
        return WordColumn(name, _index_words(table, column, train))
    values = parse_numbers(table, column)
    known = values[train][~np.isnan(values[train])]
    if not len(known):
        raise ConfigError(
            format_error("data.path", f"a number in the training rows of column {name}", "only missing values")
        )
    return NumberColumn(name, known.mean(), float(nonzero_std(known)))


def standardize(values: np.ndarray, mean: float, scale: float, table: Table, column: int) -> np.ndarray:
    """Return (values - mean) / scale, checked to be within the range of float32."""
    found = (values - mean) / scale
    far = np.flatnonzero(np.abs(found) > LARGEST)
    if len(far):
        row = int(far[0])
        where = f"column {table.header[column]}, line {table.lines[row]} of {table.path}"
        raise ConfigError(
            format_error("data.column", f"a number like those in training in {where}", table.rows[row][column])
        )
    return found


def _index_words(table: Table, column: int, train: np.ndarray) -> dict[str, int]:
    cells = table.cells(column)
    words = sorted({cells[row] for row in train if not is_missing(cells[row])})
    if len(words) > MAX_WORDS:
        expected = f"at most {MAX_WORDS:,} different words in column {table.header[column]} of {table.path}"
        raise ConfigError(format_error("data.path", expected, f"{len(words):,}", "Remove the column from the file"))
    return {word: number for number, word in enumerate(words)}
