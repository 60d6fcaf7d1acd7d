"""Values that are known in advance, such as holidays and parts of the date, as additional inputs of a forecast."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from dltrain.data.checks import one_of
from dltrain.datasets.csv_table import AS_TRAINED, Table, parse_column
from dltrain.datasets.date_columns import TimeColumn
from dltrain.datasets.describe import count, listed
from dltrain.datasets.future_times import future_dates
from dltrain.datasets.numerics import columns_first, nonzero_std
from dltrain.datasets.series_table import Series, split_series
from dltrain.errors import ConfigError, format_error

# Part of the date -> its period; the inputs are sine and cosine of 2 pi value / period.
PERIODS = {"minute": 60, "hour": 24, "weekday": 7, "day": 31, "month": 12, "yearday": 366}


class KnownValues:
    """Columns and parts of the date that are known before the values to forecast.

    Args:
        columns: One or several names of columns.
        calendar: One or several parts of the date, which are keys of `PERIODS`.
    """

    def __init__(self, columns: str | list[str] | None, calendar: str | list[str] | None) -> None:
        self.columns = [columns] if isinstance(columns, str) else list(columns or [])
        parts = [calendar] if isinstance(calendar, str) else list(calendar or [])
        self.calendar = [one_of("data.calendar", part, PERIODS) for part in parts]
        self.width = len(self.columns) + 2 * len(self.calendar)  # numbers per step

    def check(self, table: Table, times: TimeColumn | None, names: Sequence[str]) -> None:
        """Reject columns that are not numeric or are also forecast, and parts of the date in a file without dates."""
        for name in self.columns:
            parse_column(table, table.index_of(name, "data.known"), "data.known")
            if name in names:
                hint = "Leave it out of data.column or data.known"
                raise ConfigError(format_error("data.known", "columns that are not forecast", name, hint))
        if self.calendar and times is None:
            raise ConfigError(format_error("data.calendar", f"dates in {table.path}", "none"))

    def split_series(self, table: Table, group: str | None, names: Sequence[str]) -> list[Series]:
        """Return the series of a table; rows at the end that have only known values are `Series.later`."""
        series = split_series(table, group)
        if not self.columns:
            return series
        missing = np.all([table.missing_mask(table.index_of(name)) for name in names], axis=0)
        ends = [int(np.flatnonzero(~missing[one.rows]).max(initial=-1)) + 1 for one in series]
        return [Series(one.name, one.rows[:end], one.rows[end:]) for one, end in zip(series, ends, strict=True)]

    def read_all(self, table: Table, times: TimeColumn | None, series: Sequence[Series]) -> list[np.ndarray]:
        """Return the known values of each series, (rows, width); empty if there are none."""
        return [self.read(table, times, one.rows) for one in series] if self.width else []

    def last_window(
        self, table: Table, times: TimeColumn | None, series: Series, window: int, horizon: int
    ) -> dict[str, Tensor]:
        """Return the field ``known``, (1, width, window + horizon), of the last window and the steps after it.

        The result is empty if there are no known values.
        """
        if not self.width:
            return {}
        past = self.read(table, times, series.rows[-window:])
        return {"known": columns_first(np.concatenate([past, self.read_ahead(table, times, series, horizon)]))[None]}

    def read(self, table: Table, times: TimeColumn | None, rows: np.ndarray) -> np.ndarray:
        """Return the known values of rows of the file, (rows, width) in float64."""
        found = [self._column(table, name, rows) for name in self.columns]
        if self.calendar and times is not None:
            dates = pd.DatetimeIndex(times.dates.times.iloc[rows])
            found += calendar_values(dates, self.calendar)
        return np.stack(found, axis=1)

    def read_ahead(self, table: Table, times: TimeColumn | None, series: Series, steps: int) -> np.ndarray:
        """Return the known values of the steps after a series, (steps, width).

        Raises:
            ConfigError: The known columns have too few later rows or a missing value; or, without known
                columns, the dates cannot be continued.
        """
        if self.columns:
            if len(series.later) < steps:
                expected = f"values of {listed(self.columns)} for {steps} steps after the last value in {table.path}"
                hint = "Add rows at the end with the known columns and without values to forecast"
                raise ConfigError(format_error("data.known", expected, count(len(series.later), "row"), hint))
            return self.read(table, times, series.later[:steps])
        dates = None if times is None else future_dates(times.dates.times.iloc[series.rows], steps)
        if dates is None:
            raise ConfigError(format_error("data.calendar", f"dates in {table.path} that can be continued", "none"))
        return np.stack(calendar_values(pd.DatetimeIndex(dates), self.calendar), axis=1)

    def fit(self, train: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Return ``known_mean`` and ``known_scale``, (width, 1) each; empty if there are no known values.

        For columns, they are the mean and the standard deviation (1 for constant columns) of the training rows; for
        parts of the date, 0 and 1.
        """
        if not train:
            return {}
        values = np.concatenate(train)[:, : len(self.columns)]
        mean, scale = np.zeros((self.width, 1)), np.ones((self.width, 1))
        mean[: len(self.columns), 0], scale[: len(self.columns), 0] = values.mean(axis=0), nonzero_std(values)
        return {"known_mean": columns_first(mean.T), "known_scale": columns_first(scale.T)}

    @staticmethod
    def _column(table: Table, name: str, rows: np.ndarray) -> np.ndarray:
        column = table.index_of(name, "data.known")
        values = parse_column(table, column, *AS_TRAINED)[rows]
        if np.isnan(values).any():
            place = table.describe_cell(column, int(rows[np.isnan(values).argmax()]))
            raise ConfigError(format_error("data.known", f"a number in {place}", "a missing value"))
        return values


def calendar_values(dates: pd.DatetimeIndex, parts: Sequence[str]) -> list[np.ndarray]:
    """Return sine and cosine of each part of the dates: minute, hour, weekday, day of month, month, day of year."""
    numbers = {
        **{"minute": dates.minute, "hour": dates.hour, "weekday": dates.day_of_week},
        **{"day": dates.day - 1, "month": dates.month - 1, "yearday": dates.day_of_year - 1},
    }
    angles = [2 * np.pi * numbers[part].to_numpy(float) / PERIODS[part] for part in parts]
    return [wave for angle in angles for wave in (np.sin(angle), np.cos(angle))]
