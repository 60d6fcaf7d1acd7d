"""Formats of dates in CSV files, compared with strftime."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from dltrain.datasets import date_cells
from dltrain.datasets.cells import is_time_name
from dltrain.datasets.date_form import write_dates
from dltrain.datasets.dates import Dates, parse_dates

DATES = ("%Y-%m-%d", "%m/%d/%Y", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%-d/%-m/%Y", "%-m/%-d/%y", "%d %b %Y")
CLOCKS = (" %H:%M", " %H:%M:%S", " %-H:%M", " %I:%M %p", " %-I:%M:%S%p", "T%H:%M:%S.%f")
# Formats of strftime, each with the NumPy unit of its precision.
FORMATS = [
    *(
        pytest.param(
            f"{date}{clock}",
            "us" if "%f" in clock else "s" if "%S" in clock else "m",
            # By default, all date formats are tested with the first time format, and two with all time formats.
            marks=[] if date in DATES[:2] or clock == CLOCKS[0] else pytest.mark.slow,
        )
        for date in DATES
        for clock in CLOCKS
    ),
    *((f"%Y%m%d{clock}", "s" if "%S" in clock else "m") for clock in (" %H%M", "T%H%M%S", "T%H:%M:%S")),
    *(
        (form, "D")
        for form in ("%Y-%m-%d", "%Y%m%d", "%d-%m-%Y", "%d.%m.%y", "%Y.%m.%d", "%-d. %-m. %Y", "%Y年%-m月%-d日")
    ),
    *((form, "D") for form in ("%B %d, %Y", "%d %B %Y", "%-d. %B %Y", "%d-%b-%y", "%d%b%Y", "%Y-%b-%d", "%b. %-d, %Y")),
    *((form, "D") for form in ("%a, %d %b %Y", "%A, %B %-d, %Y", "%a %Y-%m-%d", "%G-W%V-%u", "%GW%V%u")),
    *((form, "M") for form in ("%Y-%m", "%m/%Y", "%Y-%-m", "%b-%y", "%b %Y", "%B %Y", "%YM%m", "%Y %b")),
    ("%d.%m.%Y %H.%M", "m"),
    ("%a %b %d %H:%M:%S %Y", "s"),
    ("%d/%b/%Y:%H:%M:%S", "s"),
]


def parse(cells: list, **options) -> Dates:
    dates = parse_dates(pd.Series(cells, dtype=object), **options)
    assert dates is not None, cells[:3]
    return dates


def write(dates: Dates) -> list[str]:
    return write_dates([time.to_pydatetime() for time in dates.times.dropna()], dates.form)


@pytest.mark.parametrize(("form", "unit"), FORMATS)
def test_formats_of_strftime_are_parsed_and_written_back(form: str, unit: str) -> None:
    generator = random.Random(form)
    start = datetime(1990, 1, 1)
    times = [start + timedelta(microseconds=generator.randrange(40 * 365 * 86400 * 10**6)) for _ in range(40)]
    cells = [time.strftime(form) for time in times]
    dates = parse(cells)
    expected = np.array(times, dtype=f"M8[{unit}]").astype("M8[us]")
    assert (dates.times.to_numpy() == expected).all()
    assert write(dates) == cells
    assert dates.bad is None and dates.utc is None and not dates.form.ambiguous
    assert parse_dates(pd.Series(cells, dtype=object), named_time=True).form == dates.form


@pytest.mark.parametrize(
    ("cells", "options", "expected"),
    [
        (["202105", "202106"], {"named_time": True}, "2021-05-01"),
        (["2021", "2022"], {"named_time": True}, "2021-01-01"),
        (["2021.05", "2021.06"], {"named_time": True}, "2021-05-01"),
        (["20210514103000"], {"named_time": True}, "2021-05-14T10:30"),
        (["1621000000", "1621003600"], {"named_time": True}, "2021-05-14T13:46:40"),
        (["1621000000500"], {"named_time": True}, "2021-05-14T13:46:40.500"),
        (["2021-W05", "2021-W06"], {}, "2021-02-01"),
        (["KW 5/2021", "KW 10/2021"], {}, "2021-02-01"),
        (["2021Q2", "2021Q3"], {}, "2021-04-01"),
        (["2021-Q2"], {}, "2021-04-01"),
        (["Q2 2021"], {}, "2021-04-01"),
        (["2Q2021"], {}, "2021-04-01"),
        (["2021q2", "2021q3"], {}, "2021-04-01"),
        (["2021-T2"], {}, "2021-04-01"),
        (["2Q21"], {}, "2021-04-01"),
        (["2021m5"], {}, "2021-05-01"),
        (["21-05-14", "21-05-15", "21-05-16"], {}, "2021-05-14"),
        (["14-05-21", "15-05-21", "16-05-21"], {}, "2021-05-14"),
        (["2021-05-14_10:00:00"], {}, "2021-05-14T10:00"),
        (["quinta-feira, 19 de setembro de 2019"], {}, "2019-09-19"),
        (["14. Mai 2021", "1. Juni 2021", "2. März 2021"], {}, "2021-05-14"),
        (["Mrz 2021", "Mai 2021"], {}, "2021-03-01"),
        (["Fr, 14.05.2021", "Sa, 15.05.2021"], {}, "2021-05-14"),
        (["Freitag, 14. Mai 2021"], {}, "2021-05-14"),
        (["14-mai-21", "15-juin-21", "16-févr.-21"], {}, "2021-05-14"),
        (["viernes, 14 de mayo de 2021"], {}, "2021-05-14"),
        (["14 de maio de 2021"], {}, "2021-05-14"),
        (["14 maggio 2021"], {}, "2021-05-14"),
        (["vr 14 mei 2021"], {}, "2021-05-14"),
        (["14 maja 2021", "1 stycznia 2021"], {}, "2021-05-14"),
        (["14 maj 2021", "1 augusti 2021"], {}, "2021-05-14"),
        (["14 мая 2021", "1 июня 2021"], {}, "2021-05-14"),
        (["May 14th, 2021", "June 1st, 2021"], {}, "2021-05-14"),
        (["Sept. 14, 2021", "Oct. 2, 2021"], {}, "2021-09-14"),
        (["JAN-49", "FEB-49", "DEC-60"], {}, "1949-01-01"),
        (["1/5/68", "1/5/72", "1/15/72"], {}, "1968-01-05"),
        (["5/14/2021 1:30:05 p.m.", "5/15/2021 1:00:00 a.m."], {}, "2021-05-14T13:30:05"),
    ],
)
def test_further_date_formats_are_parsed_and_written_back(cells: list[str], options: dict, expected: str) -> None:
    dates = parse(cells, **options)
    assert dates.times[0] == pd.Timestamp(expected)
    assert write(dates) == cells


def test_the_time_of_day_or_the_fraction_of_a_second_may_be_missing_in_some_cells() -> None:
    cells = ["2021-05-14", "2021-05-14 06:00:00", "2021-05-14 12:00:00.5", "2021-05-14 24:00"]
    expected = ["2021-05-14", "2021-05-14T06:00", "2021-05-14T12:00:00.5", "2021-05-15"]
    assert parse(cells).times.tolist() == [pd.Timestamp(time) for time in expected]


def test_the_format_of_many_rows_is_inferred_from_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(date_cells, "SAMPLE", 200)
    times = pd.date_range("2020-01-01", periods=900, freq="17min")
    for form in ("%m/%d/%Y %H:%M", "%-d.%-m.%Y %I:%M %p", "%b %d, %Y %H:%M"):
        assert parse([time.strftime(form) for time in times]).times.tolist() == times.tolist()


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M %z", "%d/%b/%Y:%H:%M:%S %z"])
def test_times_with_offsets_are_converted_to_utc(form: str) -> None:
    instants = pd.date_range("2024-10-26 12:00", periods=40, freq="h", tz="UTC")
    local = instants.tz_convert(ZoneInfo("Europe/Berlin"))
    dates = parse([time.strftime(form) for time in local])
    assert dates.utc.tolist() == instants.tz_localize(None).tolist()
    assert dates.times.tolist() == local.tz_localize(None).tolist()
    assert write(dates)[-1] == local[-1].strftime(form)


@pytest.mark.parametrize("offset", ["Z", "+00", "-03:30", "+0530", " UTC", " GMT", " CET", " EDT"])
def test_offsets_are_written_back_in_their_own_format(offset: str) -> None:
    dates = parse([f"2021-05-14T10:00:00{offset}", f"2021-05-14T11:00:00{offset}"])
    iso = {" UTC": "Z", " GMT": "Z", " CET": "+01", " EDT": "-04"}.get(offset, offset)
    zone = datetime.fromisoformat("2021-05-14T10:00" + iso)
    assert dates.utc[0] == zone.astimezone(UTC).replace(tzinfo=None)
    assert write(dates)[1] == f"2021-05-14T11:00:00{offset}"


NOT_DATES = """1.5 2.5|3-4|10/12|1.2.3|10.1.2.3|5%|1,234|12:30|202105|2021|2021.05|1621000000|20211301|12345678
2021-02-30|2020/21 2021/22|20210514 20219999|1-800-1234|red blue|May June|Monday"""
PHRASES = [
    ["May 14", "May 15"],
    ["100 May"],
    ["Q5 2021"],
    ["3 kg"],
    ["Total 2021"],
    ["Jan-21", "2021-W05"],
    ["A 2021"],
    ["Eva No. 0001, of row 0"],
]


@pytest.mark.parametrize(
    "cells", [*map(str.split, NOT_DATES.replace("\n", "|").split("|")), *PHRASES, [], [float("nan")]]
)
def test_measurements_and_words_are_not_parsed_as_dates(cells: list) -> None:
    assert parse_dates(pd.Series(cells, dtype=object)) is None


@pytest.mark.parametrize(
    "cells",
    [
        ["200112", "200113"],
        ["100011", "100012"],
        ["1958.2083", "1958.2917"],
        ["51", "52"],
        ["1700000000", "17000000.5"],
    ],
)
def test_implausible_numbers_in_a_time_column_are_not_parsed_as_dates(cells: list[str]) -> None:
    assert parse_dates(pd.Series(cells), named_time=True) is None


@pytest.mark.parametrize(
    "form",
    ["%d/%m/%Y", "%m/%d/%Y", *(pytest.param(form, marks=pytest.mark.slow) for form in ("%d-%m-%y", "%-m/%-d/%y"))],
)
@pytest.mark.parametrize("freq", ["D", "B", "W", "MS", "QS", "6h"])
@pytest.mark.parametrize("order", [1, -1])
def test_day_and_month_are_distinguished_by_regular_steps(form: str, freq: str, order: int) -> None:
    times = pd.date_range("2020-01-01", periods=40, freq=freq)[::order]
    if freq == "6h":
        form = f"{form} %H:%M"
    dates = parse([time.strftime(form) for time in times])
    assert dates.times.tolist() == times.tolist()
    assert dates.form.day_first is form.startswith("%d") and not dates.form.ambiguous


def test_day_and_month_of_repeated_dates_are_distinguished_by_regular_steps() -> None:
    times = pd.date_range("2020-01-01", periods=30, freq="MS").repeat(3)
    assert parse([time.strftime("%d/%m/%Y") for time in times]).times.tolist() == times.tolist()


def test_ambiguous_dates_are_reported_with_both_interpretations() -> None:
    cells = ["01/01/2021", "01/02/2021", "01/03/2021", "01/04/2021"]
    assert parse(cells).form.readings in (
        ("01/02/2021", "2021-02-01", "2021-01-02"),
        ("01/02/2021", "2021-01-02", "2021-02-01"),
    )
    for day_first, expected in ((True, "2021-04-01"), (False, "2021-01-04")):
        dates = parse(cells, day_first=day_first)
        assert dates.times[3] == pd.Timestamp(expected)
        assert not dates.form.ambiguous and dates.form.day_first is day_first
    assert parse_dates(pd.Series(["14/01/2021"]), day_first=False) is None
    assert parse(["1 lis 2021", "2 lis 2021"]).form.readings == ("1 lis 2021", "2021-11-01", "2021-10-01")
    assert not parse(["01.02.2021", "01.03.2021"]).form.ambiguous
    assert parse(["01/02/2021 10:00:00.5", "01/03/2021 10:00:00.5"]).form.ambiguous


def test_missing_cells_stay_missing_and_the_first_invalid_cell_is_reported() -> None:
    cells = [f"2021-05-{day:02}" for day in range(1, 21)]
    cells[3] = float("nan")
    dates = parse([*cells, "total"])
    assert dates.bad == 20 and dates.times.isna().tolist() == [index in (3, 20) for index in range(21)]
    assert parse(cells).bad is None
    assert parse([*(f"14 May {year}" for year in range(2000, 2020)), "14 Foo 2020"]).bad == 20
    series = pd.Series(cells, index=range(100, 120))
    assert parse_dates(series).times.index.equals(series.index)


def test_names_of_time_columns_are_recognized() -> None:
    assert all(map(is_time_name, ("Date", "date_time", "Date/Time", "TS", "Year Month")))
    assert not any(map(is_time_name, ("update", "time spent", "days", "dated", "")))
