"""The times that follow the last row of a table, written as its own are."""

import calendar
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from itertools import count, islice, pairwise
from statistics import median_low

from dltrain.datasets.csv_file import Table, is_hole
from dltrain.datasets.timestamps import DAY, column_of_moments, is_time

Time = str | int | float

SATURDAY = 5
DATE = 10  # characters of 2024-01-31
ZONE = re.compile(r"(Z|[+-]\d\d(:?\d\d)?)$")
WEEK = re.compile(r"\d{4}-?W\d\d(-?\d)?")
UNPADDED = re.compile(r"[-/]\d(?!\d)")  # 2024-1, 2024/1/31


def following(table: Table, steps: int) -> list[Time | None] | None:
    """The times of the steps after the last row, at the usual distance of the rows.

    Dates go on by months where all rows are of one day of the month, or of its end; otherwise by the median distance,
    and over weekends where the rows leave them out. Numbers go on where their column's name says that it counts time.

    Args:
        table: Rows in the order of time.
        steps: How many.

    Returns:
        One time for each step, None after the last day of the year 9999; or None where no column says the time.
    """
    if len(table.rows) < 2:
        return None
    if found := column_of_moments(table):
        place, moments = found
        write = _writer(table.cells(place))
        if write(moments[-1]) != table.rows[-1][place]:  # read, but in a form that is not written here
            return None
        times = [write(moment) for moment in islice(_onwards(moments), steps)]
        return [*times, *[None] * (steps - len(times))] if times else None
    for place, name in enumerate(table.header):
        if is_time(name) and table.numeric(place) and not any(map(is_hole, table.cells(place))):
            return list(islice(_numbers_onwards(table, place), steps)) or None
    return None


def _onwards(moments: Sequence[datetime]) -> Iterator[datetime]:
    """What comes after the last moment, while the calendar lasts; nothing where moments usually stay the same."""
    with suppress(ValueError, OverflowError):  # there is no year 10000
        yield from _endless(moments)


def _endless(moments: Sequence[datetime]) -> Iterator[datetime]:
    months = [moment.year * 12 + moment.month - 1 for moment in moments]
    at_end = all(moment.day == _days_of(months[row]) for row, moment in enumerate(moments))
    same_day = at_end or len({moment.day for moment in moments}) == 1
    if same_day and all(later > earlier for earlier, later in pairwise(months)):
        step = median_low([later - earlier for earlier, later in pairwise(months)])
        yield from (_in_month(moments[-1], months[-1] + number * step, at_end) for number in count(1))
    distance = median_low([later - earlier for earlier, later in pairwise(moments)])
    skipped = moments[-1] - moments[0] > distance * (len(moments) - 1)
    working = distance == DAY and skipped and all(moment.weekday() < SATURDAY for moment in moments)
    for number in count(1) if distance else ():
        moment = moments[-1] + number * distance
        if not working or moment.weekday() < SATURDAY:
            yield moment


def _days_of(month: int) -> int:
    """Days of a month, counted from that of year 0."""
    return calendar.monthrange(month // 12, month % 12 + 1)[1]


def _in_month(moment: datetime, month: int, at_end: bool) -> datetime:
    days = _days_of(month)
    return moment.replace(year=month // 12, month=month % 12 + 1, day=days if at_end else min(moment.day, days))


def _writer(cells: Sequence[str]) -> Callable[[datetime], str]:
    """Writes a time as the last of a column's cells has its own."""
    zone = found.group() if (found := ZONE.search(cells[-1][DATE:])) else ""
    bare = cells[-1].removesuffix(zone)
    padded = not any(map(UNPADDED.search, cells))

    def write(moment: datetime) -> str:
        if bare.isdigit():
            return moment.date().isoformat().replace("-", "")[: len(bare)]
        if WEEK.fullmatch(bare):
            return _week(moment, "-" if "-" in bare else "")[: len(bare)]
        if len(bare) > DATE:
            text = moment.isoformat(bare[DATE], "microseconds")[: len(bare)]
            return (text.replace("-", "/") if "/" in bare else text) + zone
        mark = "/" if "/" in bare else "-"
        parts = moment.date().isoformat().split("-")[: 1 + bare.count(mark)]
        return mark.join(part if padded else part.lstrip("0") for part in parts)

    return write


def _week(moment: datetime, mark: str) -> str:
    year, week, day = moment.isocalendar()
    return f"{year}{mark}W{week:02}{mark}{day}"


def _numbers_onwards(table: Table, place: int) -> Iterator[int | float]:
    """Numbers after the last; decimal fractions stay as exact as they are written."""
    cells = [cell.replace(",", ".") if table.comma else cell for cell in table.cells(place)]
    values = [Decimal(cell) for cell in cells]
    step = median_low([later - earlier for earlier, later in pairwise(values)])
    for number in count(1) if step else ():
        value = values[-1] + number * step
        yield int(value) if value == value.to_integral_value() and "." not in cells[-1] else float(value)
