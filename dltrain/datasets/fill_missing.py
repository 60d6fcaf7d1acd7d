"""Fill missing values of series without using later splits."""

import numpy as np

from dltrain.datasets.csv_table import Table, parse_column, reject_missing
from dltrain.errors import ConfigError, format_error


def fill_missing(table: Table, names: list[str], policy: str, ends: list[int]) -> np.ndarray:
    """Return the series (rows, columns) in float64; each split is filled only from rows before its end.

    Args:
        policy: ``refuse``, ``interpolate`` or ``last``; see `dltrain.datasets.time_series.TimeSeries`.
        ends: Index of the row after the last row of each split, in ascending order.

    Raises:
        ConfigError: A value is not a number, a missing value may not be filled, or a column has no number before the
            end of a split.
    """
    columns = [table.index_of(name) for name in names]
    values = np.stack([parse_column(table, column) for column in columns], axis=1)
    if policy == "refuse":
        reject_missing(table, columns, "data.missing=interpolate or data.missing=last fills them")
        return values
    for end in ends:
        for series, name in zip(values.T, names, strict=True):
            if end > 0 and np.isnan(series[:end]).all():
                expected = f"a number in the first {end} rows of column {name} of {table.path}"
                raise ConfigError(format_error("data.path", expected, "only missing values"))
            series[:end] = _fill_series(series[:end], policy)
    return values


def _fill_series(values: np.ndarray, policy: str) -> np.ndarray:
    rows = np.arange(len(values))
    known = np.flatnonzero(~np.isnan(values))
    if policy == "interpolate":
        return np.interp(rows, known, values[known])
    return values[known[(np.searchsorted(known, rows, side="right") - 1).clip(0)]]
