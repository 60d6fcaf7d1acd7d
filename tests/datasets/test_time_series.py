"""Time series: windows, normalization, missing values, seasons and rejected files."""

import csv
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import torch

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.data.spec import Source
from dltrain.datasets.time_series import BUNDLED, TimeSeries
from dltrain.errors import ConfigError

SERIES = {"co2": (2284, 52, "ppm"), "elnino": (732, 12, "°C"), "sunspots": (309, 11, "sunspots")}


def write(path, header, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return str(path)


def batch_of(source: Source) -> dict[str, torch.Tensor]:
    return next(iter(Batches(source, len(source))))


def in_data_units(batch, name):
    return (batch[name].double() * batch["scale"] + batch["shift"] + batch["shift_rest"].double()).numpy()


def error_of(**arguments) -> str:
    with pytest.raises(ConfigError) as caught:
        TimeSeries(**arguments).load()
    return str(caught.value)


@pytest.mark.parametrize("name", SERIES)
def test_a_bundled_series_has_the_expected_length_season_and_unit(name):
    rows, season, unit = SERIES[name]
    values = np.loadtxt(BUNDLED / f"{name}.csv", delimiter=",", skiprows=1, usecols=1)
    assert len(values) == rows and np.isfinite(values).all()
    spec = TimeSeries(name, window=30, horizon=4).spec
    assert (spec.season, spec.unit, spec.columns, spec.horizon) == (season, unit, 1, 4)
    assert (spec.shape, spec.size, spec.features, spec.length) == ((30, 1), 30, 1, 30)


def test_the_bundled_co2_series_is_weekly_without_gaps():
    weeks = np.loadtxt(BUNDLED / "co2.csv", delimiter=",", skiprows=1, usecols=0, dtype="datetime64[D]")
    assert set(np.diff(weeks).astype(int)) == {7}


@pytest.mark.parametrize("normalize", ["last", "window", "train"])
def test_denormalized_windows_equal_the_rows_of_the_file(normalize, tmp_path):
    values = np.cumsum(np.random.default_rng(0).normal(size=(200, 2)), axis=0) + 50
    path = write(tmp_path / "a.csv", ["a", "b"], values.tolist())
    splits = TimeSeries(path=path, window=12, horizon=5, normalize=normalize).load()
    starts = {"train": 0, "val": 140 - 12, "test": 170 - 12}
    ends = {"train": 140, "val": 170, "test": 200}
    for name, start in starts.items():
        batch = batch_of(getattr(splits, name))
        rows = range(start, ends[name] - 12 - 5 + 1)
        assert len(batch["inputs"]) == len(rows)
        expected = np.stack([values[row : row + 17] for row in rows])
        np.testing.assert_allclose(in_data_units(batch, "inputs"), expected[:, :12], atol=1e-4)
        np.testing.assert_allclose(in_data_units(batch, "targets"), expected[:, 12:], atol=1e-4)
        assert all(value.dtype == torch.float32 for value in batch.values())
        if name != "train":
            shift = batch["shift"].double() + batch["shift_rest"]
            np.testing.assert_allclose(batch["history"] + shift, expected[:, :12], rtol=1e-6)
            np.testing.assert_allclose(batch["ahead"] + shift, expected[:, 12:], rtol=1e-6)


def test_normalize_last_subtracts_the_last_value_and_scales_targets_to_unit_mean_square(tmp_path):
    values = np.cumsum(np.random.default_rng(1).normal(size=3000))
    path = write(tmp_path / "a.csv", ["a"], values[:, None].tolist())
    batch = batch_of(TimeSeries(path=path, window=6, horizon=9, normalize="last").load().train)
    assert (batch["inputs"][:, -1] == 0).all()
    np.testing.assert_allclose(batch["shift"][:, 0, 0], values[5 : 5 + len(batch["shift"])], rtol=1e-5)
    assert len(batch["scale"].unique()) == 1
    assert float(batch["targets"].square().mean()) == pytest.approx(1, abs=0.02)


def test_normalize_window_uses_the_mean_and_standard_deviation_of_each_window(tmp_path):
    values = np.cumsum(np.random.default_rng(2).normal(size=300))
    path = write(tmp_path / "a.csv", ["a"], values[:, None].tolist())
    batch = batch_of(TimeSeries(path=path, window=20, horizon=3, normalize="window").load().train)
    windows = np.lib.stride_tricks.sliding_window_view(values, 20)[: len(batch["inputs"])]
    np.testing.assert_allclose(batch["shift"][:, 0, 0], windows.mean(1), atol=1e-5)
    np.testing.assert_allclose(batch["scale"][:, 0, 0], windows.std(1), rtol=1e-4)


def test_a_constant_window_gives_finite_numbers(tmp_path):
    values = np.concatenate([np.zeros(150), np.arange(150.0)])
    path = write(tmp_path / "a.csv", ["a"], values[:, None].tolist())
    for normalize in ("last", "window", "train"):
        splits = TimeSeries(path=path, window=10, horizon=3, normalize=normalize).load()
        for source in (splits.train, splits.val, splits.test):
            assert all(value.isfinite().all() for value in batch_of(source).values())
    constant = write(tmp_path / "b.csv", ["a"], [[0.1]] * 200)  # numpy's std of the 140 training rows is 3e-17
    for normalize in ("last", "window", "train"):
        batch = batch_of(TimeSeries(path=constant, window=10, horizon=3, normalize=normalize).load().train)
        assert batch["inputs"].abs().max() < 1e-6 and batch["scale"].min() >= 0.1


@pytest.mark.parametrize("normalize", ["last", "window", "train"])
def test_normalization_is_fitted_to_the_training_data_only(normalize, tmp_path):
    values = np.random.default_rng(3).normal(size=200)
    changed = values.copy()
    changed[140:] = 1e6
    one, other = (
        TimeSeries(path=write(tmp_path / name, ["a"], v[:, None].tolist()), window=9, horizon=4, normalize=normalize)
        for name, v in (("a.csv", values), ("b.csv", changed))
    )
    a, b = batch_of(one.load().train), batch_of(other.load().train)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_normalize_train_uses_the_mean_and_standard_deviation_of_the_training_split(tmp_path):
    values = np.random.default_rng(4).normal(7, 3, size=400)
    path = write(tmp_path / "a.csv", ["a"], values[:, None].tolist())
    batch = batch_of(TimeSeries(path=path, window=9, horizon=4, normalize="train").load().test)
    assert float(batch["shift"][0]) == pytest.approx(values[:280].mean(), rel=1e-6)
    assert float(batch["scale"][0]) == pytest.approx(values[:280].std(), rel=1e-6)


@pytest.mark.parametrize("normalize", ["last", "window", "train"])
def test_small_changes_of_large_numbers_are_not_lost_to_rounding(normalize, tmp_path):
    moves = np.random.default_rng(5).normal(size=200)
    paths = [
        write(tmp_path / f"{offset}.csv", ["a"], [[float(v)] for v in moves + offset]) for offset in (0.0, 2.0**30)
    ]
    near, far = (
        batch_of(TimeSeries(path=path, window=9, horizon=4, normalize=normalize).load().test) for path in paths
    )
    assert (near["inputs"] - far["inputs"]).abs().max() < 1e-5
    assert (near["targets"] - far["targets"]).abs().max() < 1e-5
    np.testing.assert_allclose(in_data_units(far, "inputs"), in_data_units(near, "inputs") + 2.0**30, rtol=0, atol=1e-5)


def test_the_history_of_a_window_covers_two_seasons(tmp_path):
    values = np.arange(300.0)
    path = write(tmp_path / "a.csv", ["a"], values[:, None].tolist())
    splits = TimeSeries(path=path, window=10, horizon=4, season=24).load()
    for source, first in ((splits.val, 210), (splits.test, 255)):
        batch = batch_of(source)
        assert batch["history"].shape[1:] == (48, 1)
        assert batch["history"][0, :, 0].tolist() == (values[first - 48 : first] - values[first - 1]).tolist()
        np.testing.assert_allclose(in_data_units(batch, "inputs")[0, :, 0], values[first - 10 : first], atol=1e-4)


def test_without_validation_there_is_no_validation_split():
    splits = TimeSeries("elnino", window=24, horizon=6, validation=0).load()
    assert splits.val is None
    assert len(splits.train) == 732 - 110 - 30 + 1


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("interpolate", [1, 1, 2, 3, 4, 5]), ("last", [1, 1, 2, 2, 2, 5])],
)
def test_missing_values_are_filled_as_configured(missing, expected, tmp_path):
    cells = ["", 1, 2, "NA", "nan", 5, *list(range(6, 60))]
    path = write(tmp_path / "a.csv", ["t", "a"], [["x", cell] for cell in cells])
    batch = batch_of(TimeSeries(path=path, column="a", window=6, horizon=2, missing=missing).load().train)
    np.testing.assert_allclose(in_data_units(batch, "inputs")[0, :, 0], expected, atol=1e-5)


def test_interpolation_at_the_end_of_the_training_split_does_not_use_validation_data(tmp_path):
    cells = [*range(138), "", "", *[1000] * 60]
    path = write(tmp_path / "a.csv", ["t", "a"], [["x", cell] for cell in cells])
    splits = TimeSeries(path=path, column="a", window=6, horizon=2, missing="interpolate").load()
    assert in_data_units(batch_of(splits.train), "targets").max() == pytest.approx(137, abs=1e-3)


def test_a_missing_value_is_rejected_with_file_column_line_and_count(tmp_path):
    rows = [[f"2020-01-{day:02d}", day, "" if day in (5, 9) else 1] for day in range(1, 32)]
    path = write(tmp_path / "gaps.csv", ["date", "a", "b"], rows)
    message = error_of(path=path, window=3, horizon=1)
    assert all(
        part in message for part in ("data.path", "gaps.csv", "column b", "line 6", "2 in this", "data.missing=")
    )


def test_an_empty_line_in_a_file_of_one_column_is_a_missing_value(tmp_path):
    (tmp_path / "one.csv").write_text("a\n1\n2\n\n4\n\n")
    assert "line 4" in error_of(path=str(tmp_path / "one.csv"), window=1, horizon=1)


def test_a_text_column_is_rejected_with_its_first_line_and_value(tmp_path):
    path = write(tmp_path / "a.csv", ["a", "wind"], [[1, 1], [2, "NW"], [3, "SE"]])
    message = error_of(path=path, column="wind", window=1, horizon=1)
    assert all(part in message for part in ("data.column", "wind", "line 3", "NW"))


def test_text_late_in_a_numeric_column_is_rejected(tmp_path):
    path = write(tmp_path / "a.csv", ["a"], [*[[1]] * 700, ["oops"]])
    message = error_of(path=path, window=1, horizon=1)
    assert "line 702" in message and "oops" in message


def test_an_unknown_column_is_rejected_with_the_nearest_name(tmp_path):
    path = write(tmp_path / "a.csv", ["price", "sales"], [[1, 2]] * 9)
    assert "Did you mean sales?" in error_of(path=path, column="slaes")


def test_a_missing_file_is_rejected_with_the_nearest_name(tmp_path):
    write(tmp_path / "prices.csv", ["a"], [[1]])
    message = error_of(path=str(tmp_path / "price.csv"))
    assert "data.path" in message and f"Did you mean {tmp_path / 'prices.csv'}?" in message


@pytest.mark.parametrize("season", [1, 40])
def test_too_few_rows_are_rejected_with_the_minimum_number(season, tmp_path):
    path = write(tmp_path / "a.csv", ["a"], [[row] for row in range(60)])
    message = error_of(path=path, window=50, horizon=20, season=season)
    assert all(part in message for part in ("60 rows", "window 50", "horizon 20"))
    enough = int(message.split("at least ")[1].split()[0])
    for rows, works in ((enough, True), (enough - 1, False)):
        path = write(tmp_path / "b.csv", ["a"], [[row] for row in range(rows)])
        if works:
            splits = TimeSeries(path=path, window=50, horizon=20, season=season).load()
            assert min(len(splits.train), len(splits.val), len(splits.test)) >= 1
        else:
            assert f"{rows} rows" in error_of(path=path, window=50, horizon=20, season=season)


def test_an_error_about_too_few_rows_names_the_series(tmp_path):
    path = write(tmp_path / "a.csv", ["store", "a"], [[name, row] for name in "AB" for row in range(9)])
    message = error_of(path=path, group="store", window=50, horizon=20)
    assert f"in series A of {path}, got 9 rows" in message


def test_rows_with_descending_times_are_rejected(tmp_path):
    rows = [[f"2020-01-{day:02d}", day] for day in range(31, 0, -1)]
    message = error_of(path=write(tmp_path / "a.csv", ["date", "a"], rows), window=2, horizon=1)
    assert "chronological order" in message and "line 3" in message


@pytest.mark.parametrize("name", ["year", "time", "day"])
def test_descending_time_numbers_are_rejected(name, tmp_path):
    rows = [[40000 - row // 2, row] for row in range(31)]
    message = error_of(path=write(tmp_path / "a.csv", [name, "a"], rows), window=2, horizon=1)
    assert "chronological order" in message and f"{name} from 40000 down to 39985" in message


def test_month_numbers_and_descending_depths_are_not_rejected_as_unordered(tmp_path):
    rows = [[12 - row % 2 if row < 2 else row % 12 + 1, row] for row in range(40)]
    TimeSeries(path=write(tmp_path / "a.csv", ["month", "a"], rows), window=2, horizon=1).load()
    TimeSeries(
        path=write(tmp_path / "b.csv", ["depth", "a"], [[-row, row] for row in range(40)]), window=2, horizon=1
    ).load()


def test_the_repeated_hour_of_daylight_saving_time_is_not_rejected_as_unordered(tmp_path):
    start = datetime(2024, 10, 26, 12, tzinfo=UTC)
    zone = ZoneInfo("Europe/Berlin")
    times = [(start + row * timedelta(minutes=30)).astimezone(zone).isoformat() for row in range(60)]
    path = write(tmp_path / "a.csv", ["date", "a"], [[time, row] for row, time in enumerate(times)])
    data = TimeSeries(path=path, window=2, horizon=2, season=2)
    data.load()
    (piece,) = data.inputs(InputFiles())
    expected = [(start + row * timedelta(minutes=30)).astimezone(zone).isoformat() for row in (60, 61)]
    assert [name["time"] for name in piece.names] == expected
    bare = write(tmp_path / "c.csv", ["date", "a"], [[time[:19], row] for row, time in enumerate(times)])
    assert TimeSeries(path=bare, window=2, horizon=1, season=2).load()
    times[7], times[8] = times[8], times[7]
    path = write(tmp_path / "b.csv", ["date", "a"], [[time, row] for row, time in enumerate(times)])
    assert "chronological order" in error_of(path=path, window=2, horizon=1)


@pytest.mark.parametrize(
    ("times", "season"),
    [
        (np.arange("2020-01", "2024-01", dtype="datetime64[M]"), 12),
        (np.arange("2020-01-01", "2024-01-01", 7, dtype="datetime64[D]"), 52),
        (np.arange("2020-01-01", "2020-06-01", dtype="datetime64[D]"), 7),
        (np.arange("2020-01-01T00", "2020-01-09T00", dtype="datetime64[h]"), 24),
        (np.arange("1900", "2020", dtype="datetime64[Y]"), 1),
    ],
)
def test_the_season_of_a_file_is_inferred_from_its_time_column(times, season, tmp_path):
    path = write(tmp_path / "a.csv", ["when", "value"], [[str(time), 1.5] for time in times])
    data = TimeSeries(path=path, column="value", window=3, horizon=1)
    assert data.spec.season == season
    assert TimeSeries(path=path, column="value", window=3, horizon=1, season=5).spec.season == 5


def test_without_data_column_all_numeric_columns_except_time_are_used(tmp_path):
    rows = [[1990 + row, "x", row, row * 2] for row in range(60)]
    data = TimeSeries(path=write(tmp_path / "a.csv", ["Year", "note", "a", "b"], rows), window=3, horizon=1)
    assert data.spec.target_names == ("a", "b")
    assert batch_of(data.load().train)["inputs"].shape[1:] == (3, 2)


def test_semicolons_and_quotes_and_decimal_commas_after_a_byte_order_mark_are_read(tmp_path):
    lines = ['"the day";"my, value"', *(f"2020-01-{day:02d};{day},5" for day in range(1, 31))]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    data = TimeSeries(path=str(tmp_path / "a.csv"), column=["my, value"], window=3, horizon=1)
    np.testing.assert_allclose(
        in_data_units(batch_of(data.load().train), "inputs")[0, :, 0], [1.5, 2.5, 3.5], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no rows"),
        ("a,b\n", "no rows"),
        ("1,2\n3,4\n", "column names in the first line"),
        ("a,b\n1,2\n3\n", "line 3"),
        ("date,b\n2020-01-01,x\n", "column of numbers"),
    ],
)
def test_a_file_without_a_usable_table_is_rejected(text, part, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    assert part in error_of(path=str(tmp_path / "a.csv"))


def test_a_file_that_is_not_text_is_rejected(tmp_path):
    (tmp_path / "a.csv").write_bytes(bytes(range(256)))
    assert "UTF-8" in error_of(path=str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"window": 0}, "data.window"),
        ({"horizon": -1}, "data.horizon"),
        ({"season": 0}, "data.season"),
        ({"batch_size": 0}, "data.batch_size"),
        ({"normalize": "lst"}, "data.normalize"),
        ({"missing": "fill"}, "data.missing"),
        ({"series": "co3"}, "Did you mean co2?"),
        ({"test": 0}, "data.test"),
        ({"validation": 1.5}, "data.validation"),
        ({"validation": 0.5, "test": 0.5}, "data.validation"),
    ],
)
def test_an_argument_outside_its_range_is_rejected(arguments, key):
    assert key in error_of(**arguments)
