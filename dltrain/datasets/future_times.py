"""Times of the steps after the last row, in the format of the column."""

import calendar
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count, islice, pairwise
from statistics import median_low

import pandas as pd

from dltrain.datasets.date_form import DateForm, write_dates
from dltrain.datasets.steps import SATURDAY, infer_step


def continue_dates(times: pd.Series, form: DateForm, steps: int) -> list[str] | None:
    """Return the dates of the steps after the last row.

    Dates advance by calendar months if all rows are in different months, on the same day of the month or on its last
    day; otherwise by the lower median of the steps between rows. If daily rows skip weekends, the dates skip them, too.

    Args:
        times: Local times of the rows, in ascending order.
        form: Format of the column.
        steps: Number of dates to return.

    Returns:
        One date per step, or None if the rows have no positive step or a date would be after the year 9999.
    """
    dates = future_dates(times, steps)
    try:
        return write_dates(iter(dates or []), form) or None
    except (ValueError, OverflowError):
        return None


def future_dates(times: pd.Series, steps: int) -> list[datetime] | None:
    """Return the dates of the steps after the last row, as in `continue_dates`; None if they are unknown."""
    try:
        return list(islice(_future_dates(times.dropna()), steps)) or None
    except (ValueError, OverflowError):
        return None


def _future_dates(times: pd.Series) -> Iterator[datetime]:
    step = infer_step(times)
    if step is None:
        return
    last: datetime = times.iloc[-1].to_pydatetime(warn=False)
    length = timedelta(microseconds=int(step.length.astype(int)))
    for number in count(1):
        time = _add_months(last, number * step.months, step.last_day) if step.months else last + number * length
        if not step.weekdays or time.weekday() < SATURDAY:
            yield time


def _add_months(time: datetime, months: int, last_day: bool) -> datetime:
    years, month = divmod(time.month - 1 + months, 12)
    days = calendar.monthrange(time.year + years, month + 1)[1]
    return time.replace(year=time.year + years, month=month + 1, day=days if last_day else min(time.day, days))


def continue_numbers(cells: Sequence[str], steps: int) -> list[int | float] | None:
    """Return the numbers that continue a sequence by the lower median of its differences.

    Args:
        cells: At least one number as text; the decimal separator is a point.
        steps: Number of values to return.

    Returns:
        One number per step, or None if there is only one number or the median difference is 0.
    """
    values = [Decimal(cell) for cell in cells]  # exact: 0.1 + 0.2 is 0.3
    step = median_low([after - before for before, after in pairwise(values)] or [Decimal(0)])
    if not step:
        return None
    later = [values[-1] + number * step for number in range(1, steps + 1)]
    return [int(value) if value == int(value) and "." not in cells[-1] else float(value) for value in later]
