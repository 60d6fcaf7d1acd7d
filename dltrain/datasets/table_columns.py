"""Columns of a table as model inputs, fitted on the training rows."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from dltrain.datasets.cells import is_time_name
from dltrain.datasets.csv_table import AS_TRAINED, LARGEST, Table, parse_column
from dltrain.datasets.date_columns import check_dates, parse_cells
from dltrain.datasets.numerics import nonzero_std
from dltrain.errors import ConfigError, format_error

MAX_WORDS = 1000
MANY_WORDS = 50
YEAR = 365.25
FEW_WORDS = 20  # a column with at most this many distinct words is never left out as text
IDENTIFIER = re.compile(r"(unnamed: \d+|index|idx|row|nr|no|key|uuid|guid|)|(.*[\W_])?id|.*[a-z]I[dD]", re.IGNORECASE)


class NumberColumn(NamedTuple):
    """A column of numbers, standardized with the mean and standard deviation of its training rows."""

    name: str
    mean: float
    scale: float

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return 1

    def encode(self, table: Table, column: int) -> np.ndarray:
        """Return model inputs (rows, 1), with 0 for missing values.

        Raises:
            ConfigError: A cell holds text, or is beyond the range of float32 before or after standardization.
        """
        values = parse_column(table, column, *AS_TRAINED)
        return np.nan_to_num(standardize(values, self.mean, self.scale, table, column), nan=0.0)[:, None]


class WordColumn(NamedTuple):
    """A column of words, one-hot encoded over the words of its training rows."""

    name: str
    words: list[str]

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return len(self.words)

    def encode(self, table: Table, column: int) -> np.ndarray:
        """Return model inputs (rows, words), 0 or 1; all 0 for unknown words and missing values."""
        cells = table.columns[column]
        indices = {word: number for number, word in enumerate(self.words)}
        encoded = np.zeros((len(cells.words), len(indices)), dtype=np.float32)
        for row, word in enumerate(cells.words):
            if word in indices:
                encoded[row, indices[word]] = 1.0
        return encoded[cells.codes]


class DateColumn(NamedTuple):
    """A column of dates: the standardized time, then sine and cosine of the day of year and the day of week.

    If the dates include times, sine and cosine of the time of day follow.
    """

    name: str
    day_first: bool | None
    mean: float
    scale: float
    clock: bool

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return 7 if self.clock else 5

    def encode(self, table: Table, column: int) -> np.ndarray:
        """Return model inputs (rows, 5 or 7), with 0 for missing values.

        Raises:
            ConfigError: A cell is not a date.
        """
        named = is_time_name(self.name)
        dates = parse_cells(table.columns[column], self.day_first, named)
        wrong = 0 if dates is None else dates.bad
        if dates is None or wrong is not None:
            expected = f"a date in the training format, in {table.describe_cell(column, wrong or 0)}"
            raise ConfigError(format_error("data.path", expected, table.columns[column][wrong or 0]))
        time = dates.times
        days = days_of(time)
        turns = [time.dt.day_of_year / YEAR, time.dt.day_of_week / 7] + [days % 1] * self.clock
        angles = 2 * np.pi * np.stack(turns, axis=1)
        circles = np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(len(days), -1)
        return np.nan_to_num(np.concatenate([((days - self.mean) / self.scale)[:, None], circles], axis=1), nan=0.0)


Column = NumberColumn | WordColumn | DateColumn


def days_of(times: pd.Series) -> np.ndarray:
    """Return the days since 1970 in float64, with NaN for missing times."""
    return ((times - pd.Timestamp(0)) / pd.Timedelta(days=1)).to_numpy()


def fit_column(
    table: Table, column: int, train: np.ndarray, dates: bool = False, day_first: bool | None = None
) -> Column:
    """Fit a column on the rows ``train`` of a table.

    Args:
        table: The file.
        column: Index of the column.
        train: The training rows.
        dates: Whether to recognize dates; otherwise they are read as words or numbers.
        day_first: Whether the day precedes the month; None infers it from the column.

    Raises:
        ConfigError: The training rows have no number, word or date, a number is beyond the range of float32, a date is
            invalid or ambiguous, or there are more than `MAX_WORDS` different words.
    """
    name = table.header[column]
    if dates and (is_time_name(name) or not table.is_numeric(column)):
        found = parse_cells(table.columns[column], day_first, is_time_name(name))
        if found is not None:
            check_dates(table, column, found, missing=True)
            days = days_of(found.times)
            known = _known_values(days[train], "date", name)
            return DateColumn(
                name, found.form.day_first, float(known.mean()), float(nonzero_std(known)), bool((known % 1).any())
            )
    if not table.is_numeric(column):
        words = sorted(word for word in table.columns[column].select(train).words if not table.is_missing_word(word))
        if not words:
            raise _no_value("word", name)
        if len(words) > MAX_WORDS:
            expected = f"at most {MAX_WORDS:,} different words in column {name} of {table.path}"
            raise ConfigError(format_error("data.path", expected, f"{len(words):,}", _leave_out(name)))
        return WordColumn(name, words)
    values = parse_column(table, column, "data.path")
    known = _known_values(values[train], "number", name)
    return NumberColumn(name, float(known.mean()), float(nonzero_std(known)))


def _known_values(values: np.ndarray, kind: str, name: str) -> np.ndarray:
    """Return the training values that are not missing; reject a column without any."""
    known = values[~np.isnan(values)]
    if not len(known):
        raise _no_value(kind, name)
    return known


def _no_value(kind: str, name: str) -> ConfigError:
    expected = f"a {kind} in the training rows of column {name}"
    return ConfigError(format_error("data.path", expected, "only missing values", _leave_out(name)))


def _leave_out(name: str) -> str:
    return f"data.ignore=[{name}] leaves it out"


def describe_columns(columns: Iterable[Column]) -> dict[str, list[str]]:
    """Return the names of the columns by type (numbers, words, dates), with the number of words of word columns."""
    found: dict[str, list[str]] = {}
    for column in columns:
        if isinstance(column, NumberColumn):
            found.setdefault("numbers", []).append(column.name)
        elif isinstance(column, WordColumn):
            many = ": many" if len(column.words) > MANY_WORDS else ""
            found.setdefault("words", []).append(f"{column.name} ({len(column.words)} different words{many})")
        else:
            found.setdefault("dates", []).append(column.name)
    return found


def reason_to_ignore(table: Table, column: int) -> str | None:
    """Return why a column cannot help a model: empty, an identifier, or texts that rarely repeat; None if it can."""
    cells = table.columns[column]
    known = [word for word in cells.words if not table.is_missing_word(word)]
    if not known:
        return "empty"
    if table.is_numeric(column):
        values = table.numbers(column)
        distinct = len(cells.words) == len(values) and not np.isnan(values).any() and not (values % 1).any()
        return "identifier" if distinct and IDENTIFIER.fullmatch(table.header[column]) else None
    many = len(known) > max(FEW_WORDS, len(cells) / 2)
    return "texts" if many and parse_cells(cells, True, is_time_name(table.header[column])) is None else None


def standardize(values: np.ndarray, mean: float, scale: float, table: Table, column: int) -> np.ndarray:
    """Return (values - mean) / scale, checked to be within the range of float32."""
    found = (values - mean) / scale
    far = np.flatnonzero(np.abs(found) > LARGEST)
    if len(far):
        row = int(far[0])
        expected = f"a number within the range of float32 after standardization, in {table.describe_cell(column, row)}"
        raise ConfigError(format_error("data.path", expected, table.columns[column][row]))
    return found
