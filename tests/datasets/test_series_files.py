"""Time series files: dates, seasons, order, panels, and columns that are not series."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.data.selection import Selection
from dltrain.data.spec import Source
from dltrain.datasets.time_series import TimeSeries
from dltrain.errors import ConfigError
from dltrain.tasks.forecasting import Forecasting

DAYS = pd.date_range("2020-01-01", periods=200, freq="D")
VALUES = np.round(100 + 10 * np.sin(np.arange(200) * 2 * np.pi / 7) + 0.1 * np.arange(200), 2)
FORMS = ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%y", "%d %B %Y", "%b %d, %Y", "%Y%m%d", "%Y-%m-%dT%H:%M:%SZ"]


def write(path: Path, **columns: Any) -> str:
    """Write columns to a CSV file in the order of the arguments; return its path."""
    pd.DataFrame(columns).to_csv(path / "a.csv", index=False)
    return str(path / "a.csv")


def read(path: str, **arguments: Any) -> TimeSeries:
    """Load a series with short windows."""
    data = TimeSeries(path=path, **{"window": 8, "horizon": 3, **arguments})
    data.load()
    return data


def batch_of(source: Source) -> dict[str, torch.Tensor]:
    """Return all examples of a split as one batch."""
    return next(iter(Batches(source, len(source))))


@pytest.mark.parametrize("form", FORMS)
def test_season_and_forecast_dates_are_inferred_from_dates_in_common_formats(form: str, tmp_path: Path) -> None:
    data = read(write(tmp_path, date=DAYS.strftime(form), value=VALUES))
    assert data.spec.season == 7 and data.spec.target_names == ("value",)
    (piece,) = data.inputs(InputFiles())
    following = pd.date_range("2020-07-19", periods=3, freq="D").strftime(form).tolist()
    assert [name["time"] for name in piece.names] == following


@pytest.mark.parametrize(
    "months",
    [
        "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    ],
)
def test_month_names_in_other_languages_are_parsed(months: str, tmp_path: Path) -> None:
    names = months.split()
    dates = [f"{day.day} {names[day.month - 1]} {day.year}" for day in DAYS]
    assert read(write(tmp_path, day=dates, value=VALUES)).spec.season == 7


@pytest.mark.parametrize(
    ("step", "season"), [("1min", 1440), ("5min", 288), ("15min", 96), ("30min", 48), ("1h", 24), ("1D", 7)]
)
def test_the_season_is_a_day_for_hourly_and_finer_data_and_a_week_for_daily_data(
    step: str, season: int, tmp_path: Path
) -> None:
    rows = 4 * season
    times = pd.date_range("2024-03-01", periods=rows, freq=step).strftime("%Y-%m-%d %H:%M")
    path = write(tmp_path, time=times, value=np.arange(rows) % season * 0.5)
    assert TimeSeries(path=path, window=8, horizon=3).spec.season == season


def test_weekday_data_have_a_season_of_five(tmp_path: Path) -> None:
    days = pd.bdate_range("2020-01-01", periods=200)
    data = read(write(tmp_path, date=days.strftime("%Y-%m-%d"), value=VALUES))
    assert data.spec.season == 5 and not data.notes


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%m/%d/%Y", "%d.%m.%Y"])
def test_rows_that_are_not_in_chronological_order_are_rejected(form: str, tmp_path: Path) -> None:
    for order in (slice(None, None, -1), np.random.default_rng(0).permutation(200)):
        path = write(tmp_path, date=DAYS.strftime(form)[order], value=VALUES[order])
        with pytest.raises(ConfigError, match=r"rows in chronological order.*Sort the file, oldest row first"):
            read(path)


def test_ambiguous_dates_are_rejected_unless_day_first_is_set(tmp_path: Path) -> None:
    path = write(tmp_path, date=[f"{row:02}/01/2020" for row in range(1, 13)], value=VALUES[:12])
    with pytest.raises(ConfigError, match=r"data.day_first: expected unambiguous dates in column"):
        read(path)
    for day_first, following in ((True, "13/01/2020"), (False, "01/01/2021")):
        data = TimeSeries(path=path, window=2, horizon=1, day_first=day_first)
        assert next(data.inputs(InputFiles())).names[0]["time"] == following


def test_missing_rows_are_counted(tmp_path: Path) -> None:
    remaining = np.delete(np.arange(200), range(50, 68))
    data = read(write(tmp_path, date=DAYS.strftime("%Y-%m-%d")[remaining], value=VALUES[remaining]))
    assert any("18 rows missing, the first before 2020-03-09 in line 52" in line for line in data.describe())


def test_the_error_for_a_repeated_date_names_both_lines(tmp_path: Path) -> None:
    rows = np.insert(np.arange(200), 10, 9)
    with pytest.raises(ConfigError, match=r"one row for each time in .*, got 2020-01-10 in lines 11 and 12"):
        read(write(tmp_path, date=DAYS.strftime("%Y-%m-%d")[rows], value=VALUES[rows]))


def panel(by: list[str]) -> pd.DataFrame:
    """Return the sales of four stores on different scales, sorted by the columns `by`."""
    stores = {store: VALUES * size for store, size in zip("ABCD", (1.0, 10.0, 100.0, 1.5), strict=True)}
    parts = [pd.DataFrame({"date": DAYS, "store": store, "sales": sales}) for store, sales in stores.items()]
    return pd.concat(parts).sort_values(by, kind="stable")


@pytest.mark.parametrize("by", [["date", "store"], ["store", "date"]])
def test_the_error_for_several_series_in_one_file_names_the_column_that_identifies_them(
    by: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path, **panel(by))
    with pytest.raises(ConfigError, match=r"store distinguishes 4 series: data.group=store .* data.where=store:A"):
        read(path)
    for setting, value in (("where", "stor:B"), ("group", "stor")):
        with pytest.raises(ConfigError, match=rf"^data.{setting}: expected one of the columns of .*, got stor. Did"):
            read(path, **{setting: value})
    with pytest.raises(ConfigError, match=r"^data.where: expected a value of column store in .*a.csv, got E$"):
        read(path, where="store : E")
    assert read(path, where="store:B").spec.series_names is None
    one = batch_of(read(path, where="store=B").load().test)
    np.testing.assert_allclose((one["inputs"] * one["scale"] + one["shift"])[-1, -1], VALUES[-4] * 10, rtol=1e-5)


@pytest.mark.parametrize("normalize", ["last", "window", "train"])
def test_windows_of_a_panel_equal_the_windows_of_each_series_alone(normalize: str, tmp_path: Path) -> None:
    path = write(tmp_path, **panel(["date", "store"]))
    settings = {"path": path, "window": 8, "horizon": 3, "normalize": normalize}
    whole = TimeSeries(**settings, group="store")
    assert whole.spec.series_names == tuple("ABCD")
    together, alone = whole.load(), [TimeSeries(**settings, where=f"store:{store}").load() for store in "ABCD"]
    for split in ("train", "val", "test"):
        batch, *parts = (batch_of(getattr(splits, split)) for splits in (together, *alone))
        for key in parts[0]:
            torch.testing.assert_close(batch[key], torch.cat([part[key] for part in parts]), msg=key)


def test_the_error_for_a_series_without_training_values_names_series_and_column(tmp_path: Path) -> None:
    frame = panel(["date", "store"])
    frame.loc[(frame["store"] == "B") & (frame["date"] < DAYS[150]), "sales"] = None
    expected = r"the first 140 rows of series B, column sales, up to line 559 of .*a\.csv, got only missing values"
    with pytest.raises(ConfigError, match=expected):
        read(write(tmp_path, **frame), group="store", missing="last")


def test_windows_of_a_panel_are_views_of_its_rows(tmp_path: Path) -> None:
    splits = read(write(tmp_path, **panel(["date", "store"])), group="store").load()
    windows = splits.train.rows["values"]
    assert isinstance(windows, Selection)
    # 4 stores, 140 training rows, 2 numbers (the value and its rounding error), 4 bytes each.
    assert windows.values.untyped_storage().nbytes() == 4 * 140 * 2 * 4
    assert len(windows) == 4 * (140 - 8 - 3 + 1) and windows[:5].shape == (5, 2, 11)


def test_metrics_of_a_panel_are_computed_for_each_series(tmp_path: Path) -> None:
    data = read(write(tmp_path, **panel(["store", "date"])), group="store")
    task = Forecasting(3, 1, 7, target_names=["sales"], series_names=list("ABCD"))
    zeros = torch.nn.Module()
    zeros.forward = lambda inputs: torch.zeros(len(inputs), 3)  # type: ignore[method-assign]
    metrics = task.evaluate(zeros, Batches(data.load().test, 16)).metrics
    assert metrics["mae B"] == pytest.approx(10 * metrics["mae A"], rel=1e-4)
    assert metrics["mae"] == pytest.approx(np.mean([metrics[f"mae {store}"] for store in "ABCD"]), rel=1e-5)


def test_a_panel_has_a_forecast_for_each_series_and_an_unknown_series_is_rejected(tmp_path: Path) -> None:
    data = read(write(tmp_path, **panel(["date", "store"])), group="store")
    pieces = list(data.inputs(InputFiles()))
    assert [piece.names[0]["series"] for piece in pieces] == list("ABCD")
    assert {piece.names[0]["time"] for piece in pieces} == {"2020-07-19"}
    write(tmp_path, **panel(["date"]).replace({"store": {"A": "E"}}))
    with pytest.raises(
        ConfigError, match=r"INPUT 1: expected a value of column store in the training data \(A, B, C, D\)"
    ):
        list(data.inputs(InputFiles((str(tmp_path / "a.csv"),))))


def test_row_numbers_and_flags_are_forecast_only_if_data_column_names_them(tmp_path: Path) -> None:
    flags = np.arange(200) % 7 == 0
    path = write(tmp_path, **{"": range(200), "id": range(7, 207), "date": DAYS, "sales": VALUES, "holiday": flags * 1})
    data = read(path)
    assert data.spec.target_names == ("sales",) and data.left_out == ["", "id", "holiday"]
    assert read(path, column=["sales", "holiday"]).spec.target_names == ("sales", "holiday")


def test_a_file_whose_only_numbers_are_identifiers_is_rejected_unless_data_column_names_them(tmp_path: Path) -> None:
    path = write(tmp_path, date=DAYS, id=range(200))
    with pytest.raises(ConfigError, match=r"got the columns date, id. To forecast an identifier, .*: data.column=id"):
        read(path)
    assert read(path, column="id").spec.target_names == ("id",)


def test_the_times_of_a_panel_are_described_from_the_earliest_to_the_latest(tmp_path: Path) -> None:
    later, earlier = DAYS[100:], DAYS[:100]
    data = read(
        write(tmp_path, date=later.append(earlier), store=["A"] * 100 + ["B"] * 100, sales=VALUES), group="store"
    )
    assert "time: date from 2020-01-01 to 2020-07-18, step 1 day" in data.describe()


def test_ascending_numbers_in_a_column_named_like_a_time_are_described_as_times(tmp_path: Path) -> None:
    data = read(write(tmp_path, year=range(1700, 1900), value=VALUES))  # years before 1800 are not read as dates
    assert "time: year from 1700 to 1899" in data.describe()
    restarted = read(write(tmp_path, day=np.arange(200) % 20, value=VALUES))
    assert not any(line.startswith("time:") for line in restarted.describe())


@pytest.mark.parametrize("word", ["NULL", "None", "-", "n/a"])
def test_a_column_with_missing_values_is_rejected_and_not_left_out(word: str, tmp_path: Path) -> None:
    close = [word if row % 40 == 3 else str(value) for row, value in enumerate(VALUES)]
    path = write(tmp_path, Date=DAYS, Close=close, Volume=range(1000, 1200))
    with pytest.raises(ConfigError, match=r"a value in column Close, line 5 of .*, got a missing value \(5 in this"):
        read(path)
    assert read(path, missing="interpolate").spec.target_names == ("Close", "Volume")


def test_separate_columns_for_year_month_day_and_hour_are_combined(tmp_path: Path) -> None:
    hours = pd.date_range("2014-02-27 22:00", periods=200, freq="h")
    parts = {name: getattr(hours, name) for name in ("year", "month", "day", "hour")}
    path = write(tmp_path, No=range(1, 201), **parts, pm=VALUES)
    assert "dates: year, month, day, hour" in TimeSeries.describe_file(path)
    data = read(path)
    assert data.spec.season == 24 and data.spec.target_names == ("pm",)
    (piece,) = data.inputs(InputFiles())
    assert piece.names[0]["time"] == "2014-03-08 06:00"
