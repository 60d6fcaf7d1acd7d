"""The time column of a CSV file: find and parse it, infer the season, check the order of the rows."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from dltrain.datasets.csv_file import Table
from dltrain.errors import ConfigError, format_error

NAMES = ("date", "time", "datetime", "timestamp", "ts", "ds", "year", "quarter", "month", "week", "day", "hour")
FORMATS = ("%Y-%m-%d", "%Y-%m", "%Y")
MONTH = re.compile(r"((?:1[89]|2[01])\d\d)(0[1-9]|1[0-2])")  # 202012, which is unlikely to be a count

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# Shortest and longest distance of two rows, and the steps per season of such a series.
SEASONS = ((HOUR, HOUR, 24), (DAY, DAY, 7), (7 * DAY, 7 * DAY, 52), (28 * DAY, 31 * DAY, 12))
SEASON_SHARE = 0.9  # of the distances must lie in that range


def is_time_name(name: str) -> bool:
    """Whether the name of a column says that it holds timestamps."""
    return name.casefold() in NAMES


def parse_times(table: Table) -> list[datetime] | None:
    """Return the local times of the first column of timestamps, or None without one."""
    found = find_time_column(table)
    return [time.replace(tzinfo=None) for time in found[1]] if found else None


def find_time_column(table: Table) -> tuple[int, list[datetime]] | None:
    """Return the index and the times of the first column in which every cell is a timestamp, or None."""
    for column, name in enumerate(table.header):
        if not is_time_name(name) and table.parse_number(table.rows[0][column]) is not None:
            continue
        found: list[datetime] = []
        for cell in table.cells(column):
            time = _parse_time(cell)
            if time is None:
                break
            found.append(time)
        else:
            return column, found
    return None


def infer_season(times: list[datetime] | None) -> int:
    """Return the steps per season of hourly, daily, weekly or monthly rows; otherwise 1."""
    steps = [later - earlier for earlier, later in pairwise(times or [])]
    for shortest, longest, season in SEASONS:
        if steps and sum(shortest <= step <= longest for step in steps) >= SEASON_SHARE * len(steps):
            return season
    return 1


def check_order(table: Table) -> None:
    """Reject rows that go back in time: split by position, the past would be predicted from the future."""
    found = find_time_column(table)
    if found is None:
        _reject_descending_numbers(table)
        return
    times = found[1]
    # With UTC offsets in all rows, the end of daylight saving time is not a step back.
    if not all(time.tzinfo for time in times):
        times = [time.replace(tzinfo=None) for time in times]
    for line, (earlier, later) in zip(table.lines[1:], pairwise(times), strict=False):
        if later < earlier:
            raise _order_error(table, f"{later} after {earlier} in line {line}")


def _reject_descending_numbers(table: Table) -> None:
    """Reject numeric times that only decrease; numbers that restart every year or day are fine."""
    for column, name in enumerate(table.header):
        if not is_time_name(name) or not table.is_numeric(column):
            continue
        values = [value for cell in table.cells(column) if (value := table.parse_number(cell)) is not None]
        if len(values) > 2 and _descends(values):
            raise _order_error(table, f"{name} from {values[0]:g} down to {values[-1]:g}")


def _descends(values: Sequence[float]) -> bool:
    return values[-1] < values[0] and all(later <= earlier for earlier, later in pairwise(values))


def _order_error(table: Table, got: str) -> ConfigError:
    expected = f"rows in the order of time in {table.path}"
    return ConfigError(format_error("data.path", expected, got, "Sort the file, oldest row first"))


def _parse_time(cell: str) -> datetime | None:
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
