"""Season, gaps and order of times, compared with date ranges of pandas."""

from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from dltrain.datasets.steps import check_order, descends, find_gaps, infer_season, step_words

RANGES = [
    ("min", 1440, "1 minute"),
    ("5min", 288, "5 minutes"),
    ("10min", 144, "10 minutes"),
    ("15min", 96, "15 minutes"),
    ("30min", 48, "30 minutes"),
    ("h", 24, "1 hour"),
    ("3h", 8, "3 hours"),
    ("D", 7, "1 day"),
    ("B", 5, "weekdays"),
    ("W", 52, "1 week"),
    ("MS", 12, "1 month"),
    ("ME", 12, "1 month"),
    ("QS", 4, "3 months"),
    ("QE", 4, "3 months"),
    ("YS", 1, "1 year"),
    ("2s", 1, "2 seconds"),
    ("7min", 1, "7 minutes"),
]


def series(start: str, periods: int, freq: str) -> pd.Series:
    return pd.Series(pd.date_range(start, periods=periods, freq=freq))


@pytest.mark.parametrize(("freq", "season", "words"), RANGES)
def test_the_season_and_the_usual_step_and_gaps_are_inferred_from_the_times(freq: str, season: int, words: str) -> None:
    times = series("2020-01-01", 60, freq)
    assert (infer_season(times), step_words(times)) == (season, words)
    assert find_gaps(times) == (0, None)
    holes = times.drop([20, 21, 40]).reset_index(drop=True)
    assert (infer_season(holes), step_words(holes)) == (season, words)
    assert find_gaps(holes) == (3, 20)


def test_irregular_times_have_no_season() -> None:
    times = pd.Series(pd.Timestamp("2020-01-01") + pd.to_timedelta(np.random.default_rng(0).uniform(0, 99, 50), "D"))
    assert infer_season(times.sort_values()) == 1
    assert step_words(times.sort_values()) == "irregular"
    assert infer_season(times[:1]) == infer_season(times[:0]) == infer_season(times[[0, 0, 0]]) == 1


def test_chronological_rows_are_accepted_and_other_orders_are_reported() -> None:
    times = series("2020-01-01", 50, "D")
    assert check_order(times) == (None, None, 0, 0)
    assert check_order(times[::-1].reset_index(drop=True)).step_back == 1
    assert check_order(pd.concat([times[:30], times[10:]], ignore_index=True)) == (30, 30, 20, 0)
    panel = times.repeat(4).reset_index(drop=True)
    assert check_order(panel) == (None, 1, 150, 0)
    times[5] = pd.NaT
    times[30] = pd.Timestamp("2020-01-20")
    assert check_order(times).step_back == 30


@pytest.mark.parametrize(
    ("zone", "month"),
    [
        ("Europe/Berlin", "2021-10"),
        ("Europe/London", "2021-10"),
        ("America/New_York", "2021-11"),
        ("Australia/Sydney", "2021-04"),
        ("America/Santiago", "2021-04"),
    ],
)
@pytest.mark.parametrize("freq", ["h", "30min", "15min", "1min"])
def test_the_repeated_hour_at_the_end_of_daylight_saving_time_is_accepted(zone: str, month: str, freq: str) -> None:
    if freq == "h":
        instants, repeated = pd.date_range("2021-01-01", "2023-01-01", freq=freq, tz="UTC"), 2
    else:
        end = pd.Timestamp(month) + pd.Timedelta("31D")
        instants, repeated = pd.date_range(month, end, freq=freq, tz="UTC"), 1
    local = pd.Series(instants.tz_convert(ZoneInfo(zone)).tz_localize(None))
    assert check_order(local) == (None, None, 0, repeated)
    assert find_gaps(local).rows == 0
    assert check_order(local, pd.Series(instants.tz_localize(None))) == (None, None, 0, 0)


def test_a_step_back_in_time_outside_the_repeated_hour_is_reported() -> None:
    times = series("2021-10-26 00:00", 48, "15min")
    times[20:] -= pd.Timedelta("1h")
    assert check_order(times).step_back == 20


def test_three_or_more_numbers_descend_if_they_never_increase_and_the_last_is_below_the_first() -> None:
    assert descends(np.array([3, 2, 2, 1]))
    assert not any(map(descends, (np.array([3, 2, 1, 3, 2, 1]), np.array([2, 2, 2]), np.array([2, 1]), np.array([]))))
