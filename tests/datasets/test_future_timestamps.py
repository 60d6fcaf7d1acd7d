"""The times after the last row, as a person would go on writing them."""

from pathlib import Path

import pytest

from dltrain.datasets.csv_file import read_csv
from dltrain.datasets.future_timestamps import continue_times

CASES = [
    ("date", ["2024-01-30", "2024-01-31", "2024-02-01"], ["2024-02-02", "2024-02-03"]),
    ("date", ["2023-12-18", "2023-12-25"], ["2024-01-01", "2024-01-08"]),
    ("date", ["2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09", "2024-01-12"], ["2024-01-15", "2024-01-16"]),
    ("date", ["2023-10-31", "2023-11-30", "2023-12-31"], ["2024-01-31", "2024-02-29", "2024-03-31"]),
    ("date", ["2023-10-15", "2023-11-15", "2023-12-15"], ["2024-01-15", "2024-02-15"]),
    ("date", ["2023-04-01", "2023-07-01", "2023-10-01"], ["2024-01-01", "2024-04-01"]),
    ("date", ["2022-02-28", "2023-02-28"], ["2024-02-29", "2025-02-28"]),
    ("month", ["2024-10", "2024-11"], ["2024-12", "2025-01", "2025-02"]),
    ("year", ["1998", "1999"], ["2000", "2001"]),
    ("day", ["2024/02/27", "2024/02/28"], ["2024/02/29", "2024/03/01"]),
    ("ds", ["20240228", "20240229"], ["20240301", "20240302"]),
    ("time", ["2024-01-31T22:00", "2024-01-31T23:00"], ["2024-02-01T00:00", "2024-02-01T01:00"]),
    ("time", ["2024-01-31 23:59:30", "2024-01-31 23:59:45"], ["2024-02-01 00:00:00", "2024-02-01 00:00:15"]),
    ("time", ["2024-01-31T23:00:00Z", "2024-01-31T23:30:00Z"], ["2024-02-01T00:00:00Z"]),
    ("time", ["2024-01-31T23:00+01:00", "2024-01-31T23:30+01:00"], ["2024-02-01T00:00+01:00"]),
    ("date", ["200110", "200111", "200112"], ["200201", "200202"]),
    ("date", ["2020/1/30", "2020/1/31"], ["2020/2/1", "2020/2/2"]),
    ("date", ["2020/9/30", "2020/10/31", "2020/11/30"], ["2020/12/31", "2021/1/31"]),
    ("date", ["2020-1-9", "2020-1-10"], ["2020-1-11"]),
    ("date", ["2001-7", "2001-8", "2001-9"], ["2001-10", "2001-11", "2001-12", "2002-1"]),
    ("week", ["2020-W51", "2020-W52"], ["2020-W53", "2021-W01"]),
    ("week", ["2020W51", "2020W52"], ["2020W53", "2021W01"]),
    ("week", ["2020-W52-5", "2020-W53-5"], ["2021-W01-5"]),
    ("time", ["2024-01-31T23:59:59.000", "2024-01-31T23:59:59.500"], ["2024-02-01T00:00:00.000"]),
    ("time", ["2024-01-31T23:59:59.0Z", "2024-01-31T23:59:59.5Z"], ["2024-02-01T00:00:00.0Z"]),
    ("time", ["2024-01-31T22+01", "2024-01-31T23+01"], ["2024-02-01T00+01"]),
    ("date", ["9999-12-29", "9999-12-30"], None),
    ("year", ["9998", "9999"], None),
    # No month of a year, but a count.
    ("time", ["200112", "200113"], [200114, 200115]),
    ("time", ["100011", "100012"], [100013, 100014]),
    # A row that is missing does not change the usual distance.
    ("date", ["2024-01-01", "2024-01-02", "2024-01-06", "2024-01-07"], ["2024-01-08", "2024-01-09"]),
    ("week", ["51", "52"], [53, 54]),
    ("time", ["0.0", "0.1", "0.2"], [0.3, 0.4, 0.5]),
    ("year", ["1958.2083", "1958.2917", "1958.375"], [1958.4583, 1958.5416]),
]


def table(folder: Path, name: str, cells: list[str], value: str = "x") -> Path:
    path = folder / "a.csv"
    path.write_text(f"{value},{name}\n" + "".join(f'{number}.5,"{cell}"\n' for number, cell in enumerate(cells)))
    return path


@pytest.mark.parametrize(("name", "cells", "wanted"), CASES)
def test_time_goes_on_as_it_did(name: str, cells: list[str], wanted: list, tmp_path: Path) -> None:
    assert continue_times(read_csv(table(tmp_path, name, cells)), len(wanted or "12")) == wanted


def test_decimal_commas_count_time_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time;x\n0,5;1\n1,0;2\n")
    assert continue_times(read_csv(tmp_path / "a.csv"), 2) == [1.5, 2.0]


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("depth", ["1", "2", "3"]),  # numbers under a name that is not one of time
        ("week", ["1", "", "3"]),
        ("year", ["1998", "1998", "1998"]),  # months in another column
        ("week", ["7", "7"]),
        ("date", ["Monday", "Tuesday"]),
        ("date", ["2024-01-01"]),
        ("time", ["2024-01-01T00:00:00,5", "2024-01-01T00:00:01,0"]),  # read, but not written
    ],
)
def test_where_nothing_says_the_time_there_is_none(name: str, cells: list[str], tmp_path: Path) -> None:
    assert continue_times(read_csv(table(tmp_path, name, cells)), 3) is None
