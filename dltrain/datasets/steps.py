"""Time steps between rows: usual step, season, gaps, order."""

from typing import NamedTuple

import numpy as np
import pandas as pd

MINUTE, HOUR, DAY = np.timedelta64(1, "m"), np.timedelta64(1, "h"), np.timedelta64(1, "D")
ZERO = np.timedelta64(0, "us")
SATURDAY, SUNDAY = 5, 6
# Shortest step in days, longest step in days, steps per season.
SEASONS = ((1, 1, 7), (7, 7, 52), (28, 31, 12), (89, 92, 4))
USUAL_SHARE = 0.5  # fraction of the steps that must have the usual length; below it, times are irregular
UNITS = ((7 * DAY, "week"), (DAY, "day"), (HOUR, "hour"), (MINUTE, "minute"), (np.timedelta64(1, "s"), "second"))


class Step(NamedTuple):
    """Usual time step between consecutive rows.

    Args:
        length: Median step, above 0.
        months: Calendar months per step if all rows are in different months, on the same day of the month or on its
            last day; otherwise 0.
        last_day: Whether all rows are on the last day of different months.
        weekdays: Whether the step is a day and rows on weekends are missing.
    """

    length: np.timedelta64
    months: int = 0
    last_day: bool = False
    weekdays: bool = False


class Gaps(NamedTuple):
    """Number of missing rows, and position of the first row after a gap (None if there is no gap)."""

    rows: int
    position: int | None


class Order(NamedTuple):
    """Order of rows in time.

    Args:
        step_back: Position of the first row that is earlier than the one before it, or None.
        repeated: Position of the first row with the time of an earlier row, or None.
        repeats: Number of rows with the time of an earlier row.
        clock_changes: Number of hours that occur twice because daylight saving time ends, which is allowed.
    """

    step_back: int | None
    repeated: int | None
    repeats: int
    clock_changes: int


def infer_step(times: pd.Series) -> Step | None:
    """Return the usual time step between rows; None if there are fewer than two times or the step is not positive."""
    values = _known(times)
    if len(values) < 2:
        return None
    length = median_step(values)
    dates = pd.DatetimeIndex(values)
    months = np.diff(dates.year * 12 + dates.month)
    last_day = bool(dates.is_month_end.all())
    if (last_day or len(dates.day.unique()) == 1) and (months > 0).all():
        return Step(length, int(np.sort(months)[(len(months) - 1) // 2]), last_day)
    if length <= ZERO:
        return None
    has_gaps = values[-1] - values[0] > length * (len(values) - 1)
    weekdays = length == DAY and has_gaps and bool((dates.day_of_week < SATURDAY).all())
    return Step(length, weekdays=bool(weekdays))


def median_step(values: np.ndarray) -> np.timedelta64:
    """Return the lower median of the steps between consecutive times."""
    return np.sort(np.diff(values))[(len(values) - 2) // 2]


def infer_season(times: pd.Series) -> int:
    """Return the number of steps per season, or 1 if there is none or the steps are irregular.

    The season is a day for steps of minutes or hours that divide a day, a week for days or weekdays, and a year for
    weeks, months or quarters.
    """
    step = infer_step(times)
    if step is None:
        return 1
    if step.weekdays:
        return 5
    distances = np.diff(_known(times))
    for shortest, longest, season in SEASONS:
        if _is_usual((distances >= shortest * DAY) & (distances <= longest * DAY)):
            return season
    minutes = round(step.length / MINUTE)
    divides = 0 < minutes < 24 * 60 and 24 * 60 % minutes == 0
    return 24 * 60 // minutes if divides and _is_usual(_is_close(distances, minutes * MINUTE)) else 1


def step_words(times: pd.Series) -> str:
    """Return the usual step in words, such as "15 minutes", "weekdays", "1 month" or "irregular"."""
    step = infer_step(times)
    if step is None or not (step.months or _is_usual(_is_close(np.diff(_known(times)), step.length))):
        return "irregular"
    if step.weekdays:
        return "weekdays"
    if step.months:
        number, unit = (step.months / 12, "year") if step.months % 12 == 0 else (step.months, "month")
    else:
        length, unit = next((pair for pair in UNITS if step.length % pair[0] == ZERO), UNITS[-1])
        number = float(step.length / length)
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


def find_gaps(times: pd.Series) -> Gaps:
    """Return the number of missing rows and the first gap; no gaps if the steps are irregular."""
    step, positions = infer_step(times), np.flatnonzero(times.notna())
    if step is None or step_words(times) == "irregular":
        return Gaps(0, None)
    values, _ = _without_clock_changes(_known(times))
    if step.months:
        dates = pd.DatetimeIndex(values)
        missing = np.diff(dates.year * 12 + dates.month) // step.months - 1
    elif step.weekdays:
        missing = np.busday_count(values[:-1].astype("M8[D]"), values[1:].astype("M8[D]")) - 1
    else:
        missing = np.rint(np.diff(values) / step.length).astype(int) - 1
    missing = np.maximum(missing, 0)
    return Gaps(int(missing.sum()), int(positions[np.argmax(missing > 0) + 1]) if missing.any() else None)


def check_order(times: pd.Series, utc: pd.Series | None = None) -> Order:
    """Return where rows are out of chronological order.

    Args:
        times: Local times; once a year, on a weekend night, an hour may occur twice.
        utc: The same instants in UTC, which are checked instead of ``times``; None if unknown.
    """
    known = times if utc is None else utc
    positions = np.flatnonzero(known.notna())
    values, changes = (_known(known), 0) if utc is not None else _without_clock_changes(_known(known))
    back = np.flatnonzero(np.diff(values) < ZERO)
    repeated = np.flatnonzero(pd.Series(values).duplicated())
    return Order(
        step_back=int(positions[back[0] + 1]) if len(back) else None,
        repeated=int(positions[repeated[0]]) if len(repeated) else None,
        repeats=len(repeated),
        clock_changes=changes,
    )


def descends(numbers: np.ndarray) -> bool:
    """Return whether at least three numbers never increase and the last one is below the first one."""
    return bool(len(numbers) > 2 and numbers[-1] < numbers[0] and (np.diff(numbers) <= 0).all())


def _known(times: pd.Series) -> np.ndarray:
    return times.dropna().to_numpy().astype("M8[us]")


def _is_usual(steps: np.ndarray) -> bool:
    return bool(steps.mean() >= USUAL_SHARE)


def _is_close(steps: np.ndarray, length: np.timedelta64) -> np.ndarray:
    return np.abs(steps - length) <= length / 100


def _without_clock_changes(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Remove the jumps of daylight saving time from hourly or finer times, and count the repeated hours."""
    length = median_step(values) if len(values) > 2 else DAY
    if not ZERO < length <= HOUR:
        return values, 0
    steps, before = np.diff(values), pd.DatetimeIndex(values[:-1])
    night = ((before.day_of_week == SUNDAY) & (before.hour < 4)) | (
        (before.day_of_week == SATURDAY) & (before.hour == 23)
    )
    season = ~before.month.isin((1, 6, 7, 12))
    back = (steps == length - HOUR) & night & season
    forward = (steps == length + HOUR) & night & season
    if (np.diff(values[1:][back]) < 300 * DAY).any():  # more than once a year
        return values, 0
    return values + np.cumsum(np.append(0, back.astype(int) - forward.astype(int))) * HOUR, int(back.sum())
