"""Find and check the dates in the columns of a table."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from dltrain.datasets.cells import MISSING_NUMBERS, Cells, is_time_name
from dltrain.datasets.csv_table import Table
from dltrain.datasets.date_form import DateForm
from dltrain.datasets.dates import Dates, parse_dates
from dltrain.errors import ConfigError, format_error

# Columns that together make up a date -> pattern of the date.
PARTS = {
    ("year", "month"): "%Y-%m",
    ("year", "month", "day"): "%Y-%m-%d",
    ("year", "month", "day", "hour"): "%Y-%m-%d %H:00",
    ("year", "month", "day", "hour", "minute"): "%Y-%m-%d %H:%M",
}


class TimeColumn(NamedTuple):
    """Time of each row of a table.

    Args:
        columns: Indices of the columns that make up the date, often only one.
        cells: The times as text.
        dates: The parsed times.
    """

    columns: tuple[int, ...]
    cells: Cells
    dates: Dates


def parse_cells(cells: Cells, day_first: bool | None, named_time: bool) -> Dates | None:
    """Return the dates of a column, or None if it holds something else; see `dltrain.datasets.dates.parse_dates`."""
    words = pd.Series(cells.words, dtype=object)
    words[[word.casefold() in MISSING_NUMBERS for word in cells.words]] = np.nan
    return parse_dates(words.take(cells.codes).reset_index(drop=True), day_first, named_time)


def find_times(table: Table, day_first: bool | None) -> TimeColumn | None:
    """Return the times in columns such as year and month, otherwise in the first column of dates, or None.

    Raises:
        ConfigError: In the column of dates, a cell is missing or not a date, or the dates are ambiguous.
    """
    parts = {name.casefold(): index for index, name in enumerate(table.header) if table.is_numeric(index)}
    for names, pattern in reversed(PARTS.items()):
        if parts.keys() >= set(names):
            numbers = pd.DataFrame({name: table.numbers(parts[name]) for name in names})
            times = pd.to_datetime(numbers.assign(day=numbers.get("day", 1)), errors="coerce")
            if times.notna().all():
                cells = Cells.of(times.dt.strftime(pattern).tolist())
                return TimeColumn(
                    tuple(parts[name] for name in names), cells, Dates(times, None, DateForm(pattern), None)
                )
    for column, name in enumerate(table.header):
        if is_time_name(name) or np.isnan(table.numbers(column)).all():
            found = parse_cells(table.columns[column], day_first, is_time_name(name))
            if found is not None:
                check_dates(table, column, found, missing=False)
                return TimeColumn((column,), table.columns[column], found)
    return None


def check_dates(table: Table, column: int, dates: Dates, missing: bool) -> None:
    """Reject cells that are not dates, and dates that can be read in two ways.

    Args:
        table: The file.
        column: Index of the column.
        dates: The parsed dates of the column.
        missing: Whether cells may be missing.
    """
    bad = dates.bad
    if bad is None and not missing and dates.times.isna().any():
        bad = int(dates.times.isna().argmax())
    if bad is not None:
        got = table.columns[column][bad] or "a missing value"
        raise ConfigError(format_error("data.path", f"a date in {table.describe_cell(column, bad)}", got))
    if dates.form.ambiguous:
        cell, *readings = dates.form.readings
        got = f"{cell}, which may be {' or '.join(readings)}"
        hint = "Set data.day_first=true or data.day_first=false"
        expected = f"unambiguous dates in column {table.header[column]} of {table.path}"
        raise ConfigError(format_error("data.day_first", expected, got, hint))
