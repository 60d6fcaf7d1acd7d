"""Fill missing values of series without using later splits."""

import numpy as np

from dltrain.datasets.csv_table import AS_TRAINED, Table, parse_column, reject_missing
from dltrain.errors import ConfigError, format_error


def fill_missing(table: Table, names: list[str], policy: str, ends: list[int], series: str | None = None) -> np.ndarray:
    """Return the columns of one series, (rows, columns) in float64; each split is filled only from rows before its end.

    Args:
        table: The rows of the series.
        names: Columns to return.
        policy: ``refuse``, ``interpolate`` or ``last``; see `dltrain.datasets.time_series.TimeSeries`.
        ends: Index of the row after the last row of each split, in ascending order.
        series: Name of the series for the message; None if the file has only one.

    Raises:
        ConfigError: A value is not a number, a value is missing and ``policy`` is ``refuse``, or a column has no number
            before the end of a split.
    """
    columns = [table.index_of(name) for name in names]
    values = np.stack([parse_column(table, column, *AS_TRAINED) for column in columns], axis=1)
    if policy == "refuse":
        reject_missing(table, columns, "data.missing=interpolate or data.missing=last fills them")
        return values
    for end in ends:
        for column, name in zip(values.T, names, strict=True):
            if end > 0 and np.isnan(column[:end]).all():
                rows = f"the first {end} rows" if series is None else f"the first {end} rows of series {series}"
                expected = f"a number in {rows}, column {name}, up to line {table.lines[end - 1]} of {table.path}"
                raise ConfigError(format_error("data.path", expected, "only missing values"))
            column[:end] = _fill_column(column[:end], policy)
    return values


def _fill_column(values: np.ndarray, policy: str) -> np.ndarray:
    rows = np.arange(len(values))
    known = np.flatnonzero(~np.isnan(values))
    if policy == "interpolate":
        return np.interp(rows, known, values[known])
    return values[known[(np.searchsorted(known, rows, side="right") - 1).clip(0)]]
