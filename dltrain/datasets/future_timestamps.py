"""Timestamps of the steps after the last row of a table, in the format of its own."""

import calendar
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import count, islice, pairwise
from statistics import median_low

from dltrain.datasets.csv_file import Table, is_missing
from dltrain.datasets.timestamps import DAY, find_time_column, is_time_name

Time = str | int | float

SATURDAY = 5
OFFSET = re.compile(r"(?<=.{11})(Z|[+-]\d\d(:?\d\d)?)$")  # from UTC, behind a date and an hour
# Formats that may be cut short: to the month, the minute, the millisecond ...
FORMATS = ("%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f", "%Y/%m/%d %H:%M:%S.%f", "%Y%m%d", "%G-W%V-%u", "%GW%V%u")
FORMATS_WITHOUT_ZEROS = ("%Y-%-m-%-d", "%Y/%-m/%-d", "%Y-%-m", "%Y/%-m")


def continue_times(table: Table, steps: int) -> Sequence[Time] | None:
    """Return the times of the steps after the last row.

    Dates advance by calendar months if all rows are on the same day of the month or on its last day; otherwise by the
    median distance of the rows, without weekends if the rows have none. Numbers advance if the name of their column
    says that they are times.

    Args:
        table: Rows in the order of time.
        steps: Number of times.

    Returns:
        One time per step, or None if the table has no times, or times in a format that is not supported.
    """
    if len(table.rows) < 2:
        return None
    if found := find_time_column(table):
        column, times = found[0], [time.replace(tzinfo=None) for time in found[1]]
        write = _writer(table.cells(column), times)
        return _continue_dates(times, steps, write) if write else None
    for column, name in enumerate(table.header):
        if is_time_name(name) and table.is_numeric(column) and not any(map(is_missing, table.cells(column))):
            return list(islice(_future_numbers(table, column), steps)) or None
    return None


def _continue_dates(times: Sequence[datetime], steps: int, write: Callable[[datetime], str]) -> list[str] | None:
    try:
        return [write(time) for time in islice(_future_dates(times), steps)] or None
    except (ValueError, OverflowError):  # after the year 9999
        return None


def _future_dates(times: Sequence[datetime]) -> Iterator[datetime]:
    """Yield the times after the last one, without end; none if the median distance is 0."""
    months = [time.year * 12 + time.month - 1 for time in times]
    last_days = all(time.day == _days_in(month) for time, month in zip(times, months, strict=True))
    same_day = last_days or len({time.day for time in times}) == 1
    if same_day and all(later > earlier for earlier, later in pairwise(months)):
        step = median_low([later - earlier for earlier, later in pairwise(months)])
        yield from (_in_month(times[-1], months[-1] + number * step, last_days) for number in count(1))
    distance = median_low([later - earlier for earlier, later in pairwise(times)])
    has_gaps = times[-1] - times[0] > distance * (len(times) - 1)
    weekdays_only = distance == DAY and has_gaps and all(time.weekday() < SATURDAY for time in times)
    for number in count(1) if distance else ():
        time = times[-1] + number * distance
        if not weekdays_only or time.weekday() < SATURDAY:
            yield time


def _days_in(month: int) -> int:
    """Return the days of a month, counted from January of the year 0."""
    return calendar.monthrange(month // 12, month % 12 + 1)[1]


def _in_month(time: datetime, month: int, last_day: bool) -> datetime:
    days = _days_in(month)
    return time.replace(year=month // 12, month=month % 12 + 1, day=days if last_day else min(time.day, days))


def _writer(cells: Sequence[str], times: Sequence[datetime]) -> Callable[[datetime], str] | None:
    """Return a function that writes times in the format of the cells; None if that is not supported."""
    bare = [OFFSET.sub("", cell) for cell in cells]
    last, offset = bare[-1], cells[-1].removeprefix(bare[-1])
    for form in FORMATS:
        if all(time.strftime(form)[: len(cell)] == cell for time, cell in zip(times, bare, strict=True)):
            return lambda time: time.strftime(form)[: len(last)] + offset
    for form in FORMATS_WITHOUT_ZEROS:
        if all(time.strftime(form) == cell for time, cell in zip(times, bare, strict=True)):
            return lambda time: time.strftime(form)
    return None


def _future_numbers(table: Table, column: int) -> Iterator[int | float]:
    """Yield the numbers after the last one; Decimal keeps 0.1 + 0.2 at 0.3."""
    cells = [cell.replace(",", ".") if table.decimal_comma else cell for cell in table.cells(column)]
    values = [Decimal(cell) for cell in cells]
    step = median_low([later - earlier for earlier, later in pairwise(values)])
    for number in count(1) if step else ():
        value = values[-1] + number * step
        yield int(value) if value == value.to_integral_value() and "." not in cells[-1] else float(value)
