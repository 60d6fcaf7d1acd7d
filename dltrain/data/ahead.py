"""The times that follow the last row of a table, written as its own are."""

import calendar
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import count, islice, pairwise
from statistics import median_low

from dltrain.data.delimited import Table, is_hole
from dltrain.data.timeline import DAY, column_of_moments, is_time

Time = str | int | float

SATURDAY = 5
ZONE = re.compile(r"(?<=:\d\d)(Z|[+-]\d\d:?\d\d)$")
# Characters of an ISO time that ends with its year, month, day, hour, minute or second.
LENGTHS = (4, 7, 10, 13, 16, 19)


def following(table: Table, steps: int) -> list[Time] | None:
    """The times of the steps after the last row, at the usual distance of the rows.

    Dates go on by months where all rows are of one day of the month, or of its end; otherwise by the median distance,
    and over weekends where the rows leave them out. Numbers go on where their column's name says that it counts time.

    Args:
        table: Rows in the order of time.
        steps: How many.

    Returns:
        One time for each step, or None where no column says the time.
    """
    if len(table.rows) < 2:
        return None
    if found := column_of_moments(table):
        place, moments = found
        write = _writer(table.rows[-1][place])
        return [write(moment) for moment in islice(_onwards(moments), steps)] or None
    for place, name in enumerate(table.header):
        if is_time(name) and table.numeric(place) and not any(map(is_hole, table.cells(place))):
            return list(islice(_numbers_onwards(table, place), steps)) or None
    return None


def _onwards(moments: Sequence[datetime]) -> Iterator[datetime]:
    """What comes after the last moment, without end; nothing where the moments usually stay the same."""
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


def _writer(cell: str) -> Callable[[datetime], str]:
    """Writes a time as one cell has its own."""
    zone = found.group() if (found := ZONE.search(cell)) else ""
    bare = cell.removesuffix(zone)

    def write(moment: datetime) -> str:
        if bare.isdigit() and len(bare) == 8:
            return moment.date().isoformat().replace("-", "")
        text = moment.isoformat(sep=bare[10] if len(bare) > 10 else "T")
        text = text[: len(bare)] if len(bare) in LENGTHS else text
        return (text.replace("-", "/") if "/" in bare else text) + zone

    return write


def _numbers_onwards(table: Table, place: int) -> Iterator[int | float]:
    """Numbers after the last; decimal fractions stay as exact as they are written."""
    cells = [cell.replace(",", ".") if table.comma else cell for cell in table.cells(place)]
    values = [Decimal(cell) for cell in cells]
    step = median_low([later - earlier for earlier, later in pairwise(values)])
    for number in count(1) if step else ():
        value = values[-1] + number * step
        yield int(value) if value == value.to_integral_value() and "." not in cells[-1] else float(value)
