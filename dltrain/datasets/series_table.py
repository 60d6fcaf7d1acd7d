"""A CSV file as time series: its dates, the columns to forecast, and the rows of each series."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dltrain.datasets import steps
from dltrain.datasets.cells import is_time_name
from dltrain.datasets.csv_table import Table, parse_column
from dltrain.datasets.date_columns import TimeColumn
from dltrain.datasets.describe import count, listed
from dltrain.datasets.future_times import continue_dates, continue_numbers
from dltrain.datasets.table_columns import reason_to_ignore
from dltrain.errors import ConfigError, format_error, suggest

PLAIN_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?", re.ASCII)


class Series(NamedTuple):
    """One series of a table.

    Args:
        name: Value of the column that distinguishes series; None without such a column.
        rows: Indices of the rows of the series in the table.
        later: Indices of the rows that follow ``rows`` and lack values in all columns to forecast.
    """

    name: str | None
    rows: np.ndarray
    later: np.ndarray = np.arange(0)


def choose_columns(
    table: Table, column: str | list[str] | None, excluded: Sequence[int]
) -> tuple[list[str], list[str]]:
    """Return the names of the columns to forecast, and of the numeric columns that are left out.

    Args:
        table: The file.
        column: A name or a list of names. ``auto`` selects the numeric columns except timestamps, identifiers such as
            row numbers, and flags (0 or 1); flags are selected if there is no other column. None selects all numeric
            columns except timestamps.
        excluded: Columns to exclude: dates, the column that distinguishes series, and columns known in advance.

    Raises:
        ConfigError: A column to forecast is missing, repeated or not numeric, or there is none.
    """
    if isinstance(column, list) or column not in ("auto", None):
        return _check_columns(table, [column] if isinstance(column, str) else list(column or [])), []
    numeric = [
        index
        for index, name in enumerate(table.header)
        if index not in excluded and not is_time_name(name) and not np.isnan(table.numbers(index)).all()
    ]
    left_out = [index for index in numeric if column == "auto" and reason_to_ignore(table, index)]
    chosen = [index for index in numeric if index not in left_out and 2 * table.text_mask(index).sum() <= len(table)]
    if column == "auto":
        binary = [index for index in chosen if set(np.unique(table.numbers(index))) <= {0.0, 1.0}]
        if len(binary) < len(chosen):
            left_out, chosen = left_out + binary, [index for index in chosen if index not in binary]
    if not chosen:
        expected = f"a column of numbers other than timestamps in {table.path}"
        identifiers = [table.header[index] for index in left_out if table.header[index] and table.is_numeric(index)]
        hint = f"To forecast an identifier, name its column: data.column={identifiers[0]}" if identifiers else ""
        raise ConfigError(format_error("data.column", expected, f"the columns {', '.join(table.header)}", hint))
    names = [table.header[index] for index in chosen]
    table.indices_of(names)
    for index in chosen:
        parse_column(table, index)
    return names, [table.header[index] for index in left_out]


def _check_columns(table: Table, names: list[str]) -> list[str]:
    for name in names:
        parse_column(table, table.index_of(name))
    if len(set(names)) < len(names):
        raise ConfigError(format_error("data.column", "each column once", ", ".join(names)))
    if not names:
        raise ConfigError(format_error("data.column", f"one or more of {', '.join(table.header)}", "an empty list"))
    return names


def select_rows(table: Table, where: str | None) -> Table:
    """Return the rows that have a given value in a column.

    Args:
        table: The file.
        where: ``column:value`` or ``column=value``; None selects all rows.

    Raises:
        ConfigError: There is no such column, or no row has this value.
    """
    if where is None:
        return table
    name, sign, value = str(where).partition("=" if "=" in str(where) else ":")
    if not sign:
        raise ConfigError(format_error("data.where", "a column and its value, such as store:A", where))
    name, value = name.strip(), value.strip()
    cells = table.columns[table.index_of(name, "data.where")]
    rows = np.flatnonzero(cells.among([value.casefold()]))
    if not len(rows):
        expected = f"a value of column {name} in {table.path}"
        raise ConfigError(format_error("data.where", expected, value, suggest(value, cells.words)))
    return table.select(rows)


def split_series(table: Table, group: str | None) -> list[Series]:
    """Return the series of a table, in the order of their first rows.

    Args:
        table: The file.
        group: Column that distinguishes series; None if there is one series.
    """
    if group is None:
        return [Series(None, np.arange(len(table)))]
    cells = table.columns[table.index_of(group, "data.group")].select(np.arange(len(table)))
    order = dict.fromkeys(cells.codes.tolist())
    return [Series(cells.words[code], np.flatnonzero(cells.codes == code)) for code in order]


def check_order(
    table: Table, time_column: TimeColumn | None, all_series: Sequence[Series], group: str | None
) -> list[str]:
    """Reject rows that go back in time or repeat a time, because splits are made by position.

    Returns:
        Notes on missing rows, and on hours that occur twice when the clock is set back.
    """
    gaps, changes, first_gap = 0, 0, ""
    for series in all_series:
        if time_column is None:
            _reject_descending_numbers(table, series)
            continue
        cells, dates = time_column.cells, time_column.dates
        times = dates.times.iloc[series.rows].reset_index(drop=True)
        utc = None if dates.utc is None else dates.utc.iloc[series.rows].reset_index(drop=True)
        order = steps.check_order(times, utc)
        if order.repeated is not None:
            _reject_repeated(table, time_column, series, order.repeated, group)
        if order.step_back is not None:
            earlier, later = (time_column.cells[series.rows[row]] for row in (order.step_back - 1, order.step_back))
            line = table.lines[series.rows[order.step_back]]
            raise _order_error(table, f"{later} after {earlier} in line {line}")
        missing = steps.find_gaps(times)
        if missing.position is not None and not gaps:
            row = int(series.rows[missing.position])
            first_gap = f", the first before {cells[row]} in line {table.lines[row]}"
        gaps, changes = gaps + missing.rows, changes + order.clock_changes
    notes = [f"warning: {count(gaps, 'row')} missing{first_gap}; rows are treated as evenly spaced"] if gaps else []
    return notes + ([f"{count(changes, 'hour')} repeated where the clock is set back"] if changes else [])


def continue_times(
    table: Table, time_column: TimeColumn | None, series: Series, number: int
) -> Sequence[str | int | float | None]:
    """Return the times of the steps after the last row of a series; None where they are unknown.

    Numbers are continued if their column has a time name such as ``year``.
    """
    times: Sequence[str | int | float] | None = None
    if time_column is not None and len(series.later) >= number:
        times = [time_column.cells[row] for row in series.later[:number].tolist()]
    elif time_column is not None and len(series.rows) > 1:
        times = continue_dates(time_column.dates.times.iloc[series.rows], time_column.dates.form, number)
    elif time_column is None:
        for column, name in enumerate(table.header):
            cells = [table.columns[column][row].replace(table.marks.decimal, ".") for row in series.rows.tolist()]
            if is_time_name(name) and all(map(PLAIN_NUMBER.fullmatch, cells)):
                times = continue_numbers(cells, number)
                break
    return times or [None] * number


def describe_rows(table: Table, where: str | None, names: Sequence[str], left_out: Sequence[str]) -> list[str]:
    """Return lines about the rows of a table, the columns to forecast and the columns left out."""
    rows = f"{table.path.name}: {count(len(table), 'row')}" + (f" with {where}" * bool(where))
    lines = [f"{rows}, to forecast: {listed(names)}"]
    if left_out:
        found = listed(name or "(no name)" for name in left_out)
        lines.append(f"left out: {found} (to include a column, name it in data.column)")
    return lines


def describe_times(table: Table, time_column: TimeColumn | None, series: Series) -> list[str]:
    """Return a line about the times of a table and, for dates, the usual step of a series; [] without times."""
    if time_column is None:
        return _describe_numbers(table, series)
    names = " ".join(table.header[column] for column in time_column.columns)
    times = time_column.dates.times
    first, last = time_column.cells[int(times.argmin())], time_column.cells[int(times.argmax())]
    step = steps.step_words(times.iloc[series.rows])
    return [f"time: {names} from {first} to {last}, step {step}"]


def _describe_numbers(table: Table, series: Series) -> list[str]:
    """Return a line about the first column of ascending numbers with a time name such as ``year``."""
    for column, name in enumerate(table.header):
        if is_time_name(name) and table.is_numeric(column) and (np.diff(table.numbers(column)[series.rows]) > 0).all():
            first, last = (table.columns[column][int(series.rows[row])] for row in (0, -1))
            return [f"time: {name} from {first} to {last}"]
    return []


def _reject_repeated(table: Table, time_column: TimeColumn, series: Series, row: int, group: str | None) -> None:
    """Reject a repeated time, and suggest a column that distinguishes several series if there is one."""
    times = pd.factorize(time_column.dates.times)[0][series.rows]
    first = int(np.flatnonzero(times == times[row])[0])
    lines = [int(table.lines[series.rows[index]]) for index in (first, row)]
    got = f"{time_column.cells[series.rows[row]]} in lines {lines[0]} and {lines[1]}"
    hint = "Remove one of them"
    for other in sorted(range(len(table.header)), key=table.is_numeric):
        cells = table.columns[other]
        pairs = np.stack([times, cells.codes[series.rows]], axis=1)
        if (
            other not in time_column.columns
            and 1 < len(cells.words) <= len(table) / 2
            and len(np.unique(pairs, axis=0)) == len(pairs)
        ):
            name, value = table.header[other], cells[int(series.rows[first])]
            hint = (
                f"Column {name} distinguishes {len(cells.words)} series: data.group={name} reads all of them, "
                f"data.where={name}:{value} one of them"
            )
            break
    each = f"each time of {group} {series.name}" if series.name else "each time"
    expected = f"one row for {each} in {table.path}"
    raise ConfigError(format_error("data.path", expected, got, hint))


def _reject_descending_numbers(table: Table, series: Series) -> None:
    """Reject numeric times that only decrease; numbers that restart every year or day are allowed."""
    for column, name in enumerate(table.header):
        if is_time_name(name) and table.is_numeric(column):
            values = table.numbers(column)[series.rows]
            values = values[~np.isnan(values)]
            if steps.descends(values):
                raise _order_error(table, f"{name} from {values[0]:g} down to {values[-1]:g}")


def _order_error(table: Table, got: str) -> ConfigError:
    expected = f"rows in chronological order in {table.path}"
    return ConfigError(format_error("data.path", expected, got, "Sort the file, oldest row first"))


def check_rows(table: Table, series: Sequence[Series], minimum: int) -> None:
    """Raise ConfigError if a series has fewer than `minimum` rows."""
    for one in series:
        if len(one.rows) < minimum:
            of_series = "" if one.name is None else f" of series {one.name}"
            expected = f"at least {minimum} rows{of_series} in {table.path}"
            raise ConfigError(format_error("data.path", expected, len(one.rows)))
