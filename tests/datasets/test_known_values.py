"""Values that are known in advance: columns such as holidays, and parts of the date."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dltrain.cli.main import main
from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets.time_series import TimeSeries
from dltrain.errors import ConfigError

WINDOW, HORIZON, ROWS = 10, 4, 300
SIZES = {"window": WINDOW, "horizon": HORIZON, "season": 7}


def write_sales(path: Path, rows: int = ROWS, later: int = 0, holiday_from: int = 0) -> Path:
    """Write daily sales: about 2 on holidays, about 10 on other days, and none in the last `later` rows.

    The holidays are a fixed random sequence, read from position `holiday_from` on.
    """
    dates = pd.date_range("2024-01-01", periods=rows + later, freq="D")
    holiday = np.random.default_rng(0).random(ROWS + 100)[holiday_from : holiday_from + rows + later] < 0.2
    noise = np.random.default_rng(1).normal(size=rows + later) / 10
    sales = pd.Series(np.where(holiday, 2.0, 10.0) + noise).round(4)
    sales[rows:] = np.nan
    pd.DataFrame({"date": dates, "sales": sales, "holiday": holiday.astype(int)}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def sales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sales(tmp_path_factory.mktemp("sales") / "sales.csv")


@pytest.mark.parametrize("split", ["train", "test"])
def test_each_step_has_the_known_values_of_its_time_and_of_the_time_one_horizon_later(sales: Path, split: str) -> None:
    data = TimeSeries(path=str(sales), known=["holiday"], calendar=["weekday"], **SIZES)
    assert (data.spec.columns, data.spec.features, data.spec.lags) == (1, 7, 70)
    assert data.names == ["sales"]
    splits = data.load()
    source = getattr(splits, split)
    batch = next(iter(Batches(source, len(source))))
    table = pd.read_csv(sales)
    holiday = (table.holiday - table.holiday[:210].mean()) / table.holiday[:210].std(ddof=0)
    angle = 2 * np.pi * pd.to_datetime(table.date).dt.day_of_week / 7
    known = np.stack([holiday, np.sin(angle), np.cos(angle)], axis=1)
    first = 0 if split == "train" else 255 - WINDOW
    for number in (0, len(batch["inputs"]) - 1):
        start = first + number
        np.testing.assert_allclose(batch["inputs"][number, :, 1:4], known[start : start + WINDOW], atol=1e-5)
        later = known[start + HORIZON : start + HORIZON + WINDOW]
        np.testing.assert_allclose(batch["inputs"][number, :, 4:], later, atol=1e-5)
    assert batch["targets"].shape[1:] == (HORIZON, 1)


def test_known_values_do_not_change_the_windows_of_the_series(sales: Path) -> None:
    known, plain = (
        next(iter(Batches(TimeSeries(path=str(sales), column="sales", known=names, **SIZES).load().test, 9)))
        for names in (["holiday"], None)
    )
    assert (known["inputs"][..., :1] == plain["inputs"]).all() and (known["targets"] == plain["targets"]).all()


@pytest.mark.parametrize(
    ("part", "expected"),
    [("hour", [0, 6, 12]), ("minute", [0, 0, 0]), ("weekday", [0, 0, 0]), ("day", [28, 28, 28]), ("month", [1, 1, 1])],
)
def test_a_part_of_the_date_is_encoded_as_a_sine_and_a_cosine(part: str, expected: list[int], tmp_path: Path) -> None:
    periods = {"hour": 24, "minute": 60, "weekday": 7, "day": 31, "month": 12}
    dates = pd.date_range("2024-01-01", periods=60 * 4 + 100, freq="6h")
    pd.DataFrame({"date": dates, "y": np.arange(340) % 9}).to_csv(tmp_path / "a.csv", index=False)
    data = TimeSeries(path=str(tmp_path / "a.csv"), window=8, horizon=2, calendar=[part], season=4)
    start = (59 - 31 + 28) * 4  # 2024-02-26, a Monday
    monday = np.array(pd.to_datetime(dates[start : start + 3]))
    assert str(monday[0])[:10] == "2024-02-26"
    row = next(iter(Batches(data.load().train, 1000)))["inputs"][start, :3, 1:3]
    angles = 2 * np.pi * (np.array(expected) - (3 if part == "day" else 0)) / periods[part]
    np.testing.assert_allclose(row, np.stack([np.sin(angles), np.cos(angles)], axis=1), atol=1e-5)


@pytest.mark.parametrize("model", ["dlinear", pytest.param("lstm", marks=pytest.mark.slow)])
def test_a_model_learns_the_effect_of_known_holidays_and_predicts_with_future_holidays(
    model: str, sales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = ["data.known=[holiday]", f"data.window={WINDOW}", f"data.horizon={HORIZON}", "data.normalize=train"]
    training = [
        "trainer.epochs=10",
        "trainer.eval_every=10 epochs",
        "optimizer.lr=0.08",
        "trainer.log_media=false",
        "device=cpu",
        "hydra.run.dir=run",
    ]
    assert main([f"model={model}", f"data.path={sales}", *keys, *training]) == 0
    test = json.loads(Path("run/result.json").read_text())["test"]
    assert test["mae"] < 0.5  # the MAE is 2.3 without the holidays
    new = write_sales(tmp_path / "new.csv", rows=40, later=HORIZON + 1, holiday_from=50)
    capsys.readouterr()
    assert main(["predict", "run", str(new)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    table = pd.read_csv(new)
    assert [line["time"] for line in lines] == table.date[40:44].tolist()
    for line, holiday in zip(lines, table.holiday[40:44], strict=True):
        assert line["sales"] == pytest.approx(2 if holiday else 10, abs=1.5)


def test_too_few_future_values_are_rejected_with_their_number(sales: Path, tmp_path: Path) -> None:
    data = TimeSeries(path=str(sales), known=["holiday"], **SIZES)
    short = write_sales(tmp_path / "short.csv", rows=40, later=2)
    expected = (
        r"^INPUT 1: expected values of holiday for 4 steps after the last value in .*short\.csv, got 2 rows\. Add"
    )
    with pytest.raises(ConfigError, match=expected):
        list(data.inputs(InputFiles((str(short),))))


def test_parts_of_the_date_continue_after_the_last_row(sales: Path) -> None:
    data = TimeSeries(path=str(sales), column="sales", calendar=["weekday", "yearday"], **SIZES)
    data.load()
    (inputs,) = data.inputs(InputFiles())
    batch = data.prepare(inputs.rows)
    later = pd.date_range("2024-01-01", periods=ROWS + HORIZON, freq="D")[-HORIZON:]
    np.testing.assert_allclose(
        batch["inputs"][0, -HORIZON:, 5], np.sin(2 * np.pi * later.day_of_week / 7).to_numpy(), atol=1e-5
    )
    np.testing.assert_allclose(
        batch["inputs"][0, -HORIZON:, 8], np.cos(2 * np.pi * (later.day_of_year - 1) / 366).to_numpy(), atol=1e-5
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"known": ["holidays"]}, "data.known: expected one of the columns of sales.csv: date, sales, holiday"),
        ({"known": ["sales"], "column": "sales"}, "data.known: expected columns that are not forecast, got sales."),
        ({"known": ["holiday"], "horizon": 11}, "data.window: expected at least data.horizon=11 with data.known"),
        ({"calendar": ["hours"]}, "data.calendar: expected one of minute, hour, weekday"),
    ],
    ids=str,
)
def test_invalid_settings_of_known_values_are_rejected(sales: Path, keys: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TimeSeries(**{"path": str(sales), **SIZES, **keys}).load()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_missing_known_value_is_rejected_with_its_line(sales: Path, tmp_path: Path) -> None:
    table = pd.read_csv(sales).astype({"holiday": "object"})
    table.loc[20, "holiday"] = ""
    table.to_csv(tmp_path / "hole.csv", index=False)
    with pytest.raises(ConfigError, match=r"^data\.known: expected a number in column holiday, line 22 of .*hole\.csv"):
        TimeSeries(path=str(tmp_path / "hole.csv"), known=["holiday"], **SIZES).load()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("yes", "a finite number in column holiday, line 22 of .*, got yes. Choose columns of numbers with data.known"),
        ("1e40", "a number between .* in column holiday, line 22 of .*, got 1e40"),
    ],
)
def test_the_error_for_an_invalid_value_of_a_known_column_names_data_known(
    sales: Path, tmp_path: Path, cell: str, message: str
) -> None:
    table = pd.read_csv(sales).astype({"holiday": "object"})
    table.loc[20, "holiday"] = cell
    table.to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(ConfigError, match=rf"^data\.known: expected {message}"):
        TimeSeries(path=str(tmp_path / "wrong.csv"), known=["holiday"], **SIZES)


def test_parts_of_the_date_need_dates(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("y\n" + "".join(f"{n % 7}\n" for n in range(200)))
    with pytest.raises(ConfigError, match=r"^data\.calendar: expected dates in .*a\.csv, got none"):
        TimeSeries(path=str(tmp_path / "a.csv"), calendar=["hour"], **SIZES)
