"""What the time column of a CSV file says: where it is, how far apart its rows are, and whether they are in order."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from dltrain.datasets.csv_file import Table
from dltrain.errors import ConfigError, format_error

NAMES = ("date", "time", "datetime", "timestamp", "ts", "ds", "year", "quarter", "month", "week", "day", "hour")
FORMATS = ("%Y-%m-%d", "%Y-%m", "%Y")
MONTH = re.compile(r"((?:1[89]|2[01])\d\d)(0[1-9]|1[0-2])")  # 202012 under a name of time: no likely count of anything

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# Shortest and longest distance between two rows, and the steps after which such series repeat.
SEASONS = ((HOUR, HOUR, 24), (DAY, DAY, 7), (7 * DAY, 7 * DAY, 52), (28 * DAY, 31 * DAY, 12))
EVIDENT = 0.9


def is_time(name: str) -> bool:
    """Whether a column's name says that it counts time."""
    return name.casefold() in NAMES


def moments(table: Table) -> list[datetime] | None:
    """The rows' times from the first column in which every cell is one, or None."""
    found = column_of_moments(table)
    return found[1] if found else None


def column_of_moments(table: Table) -> tuple[int, list[datetime]] | None:
    """The first column in which every cell is a time: its place, and the times as clocks showed them."""
    found = _column(table)
    return (found[0], [time.replace(tzinfo=None) for time in found[1]]) if found else None


def _column(table: Table) -> tuple[int, list[datetime]] | None:
    """The first column in which every cell is a time: its place, and the times with what they say of their zones."""
    for place, name in enumerate(table.header):
        if not is_time(name) and table.number(table.rows[0][place]) is not None:
            continue
        found: list[datetime] = []
        for cell in table.cells(place):
            time = _moment(cell)
            if time is None:
                break
            found.append(time)
        else:
            return place, found
    return None


def season_of(times: list[datetime] | None) -> int:
    """Steps after which such a series repeats, where the distance of its rows makes it evident; otherwise 1."""
    steps = [later - earlier for earlier, later in pairwise(times or [])]
    for shortest, longest, season in SEASONS:
        if steps and sum(shortest <= step <= longest for step in steps) >= EVIDENT * len(steps):
            return season
    return 1


def refuse_disorder(table: Table) -> None:
    """Refuse rows that go back in time: cut by place, the past would be predicted from the future."""
    found = _column(table)
    if found is None:
        _refuse_counting_down(table)
        return
    times = found[1]
    # Where all say how far from UTC they are, a clock that is set back is no disorder.
    if not all(time.tzinfo for time in times):
        times = [time.replace(tzinfo=None) for time in times]
    for line, (earlier, later) in zip(table.lines[1:], pairwise(times), strict=False):
        if later < earlier:
            raise _disorder(table, f"{later} after {earlier} in line {line}")


def _refuse_counting_down(table: Table) -> None:
    """Refuse numbers that count time backwards; such as begin anew with each year or day are welcome."""
    for place, name in enumerate(table.header):
        if not is_time(name) or not table.numeric(place):
            continue
        values = [value for cell in table.cells(place) if (value := table.number(cell)) is not None]
        if len(values) > 2 and _falls(values):
            raise _disorder(table, f"{name} from {values[0]:g} down to {values[-1]:g}")


def _falls(values: Sequence[float]) -> bool:
    return values[-1] < values[0] and all(later <= earlier for earlier, later in pairwise(values))


def _disorder(table: Table, got: str) -> ConfigError:
    expected = f"rows in the order of time in {table.path}"
    return ConfigError(format_error("data.path", expected, got, "Sort the file, oldest row first"))


def _moment(cell: str) -> datetime | None:
    if month := MONTH.fullmatch(cell):
        return datetime(int(month[1]), int(month[2]), 1)
    text = cell.replace("/", "-")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    for form in FORMATS:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    return None
