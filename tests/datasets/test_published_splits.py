"""Splits given in rows or months, compared with the published code for files in the format of ETT."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from dltrain.cli.main import main
from dltrain.data.loader import Batches
from dltrain.datasets.time_series import TimeSeries
from dltrain.errors import ConfigError
from dltrain.tasks.forecasting import Forecasting

COLUMNS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
STEPS_PER_DAY = 2
MONTH = 30 * STEPS_PER_DAY
WINDOW, HORIZON = 20, 7


@pytest.fixture(scope="module")
def ett(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file in the format of ETT: 21 months of 30 days, with a step of twelve hours."""
    rows = 21 * MONTH
    random = np.random.default_rng(0)
    values = random.normal(size=(rows, 7)).cumsum(axis=0) * np.arange(1, 8) + 10
    table = pd.DataFrame(values.round(3), columns=COLUMNS)
    table.insert(0, "date", pd.date_range("2016-07-01 00:00:00", periods=rows, freq="12h"))
    path = tmp_path_factory.mktemp("ett") / "ETTx.csv"
    table.to_csv(path, index=False)
    return path


def published_windows(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the scaled inputs and targets of a split, computed as in ``Dataset_ETT_hour`` of Informer's code."""
    table = pd.read_csv(path)
    number = ["train", "val", "test"].index(split)
    starts = [0, 12 * MONTH - WINDOW, 12 * MONTH + 4 * MONTH - WINDOW]
    ends = [12 * MONTH, 12 * MONTH + 4 * MONTH, 12 * MONTH + 8 * MONTH]
    scaler = StandardScaler().fit(table[COLUMNS][: ends[0]].to_numpy())
    data = scaler.transform(table[COLUMNS].to_numpy())[starts[number] : ends[number]]
    windows = [data[at : at + WINDOW + HORIZON] for at in range(len(data) - WINDOW - HORIZON + 1)]
    return np.stack(windows)[:, :WINDOW], np.stack(windows)[:, WINDOW:]


class RepeatLast(nn.Module):
    """Forecast that repeats the last input; affine normalization does not change this forecast."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1:].expand(-1, HORIZON, -1).flatten(1)


@pytest.mark.parametrize("split", [["12mo", "4mo", "4mo"], [12 * MONTH, "4mo", 4 * MONTH]], ids=str)
def test_windows_of_an_ett_file_equal_the_windows_of_the_published_code(ett: Path, split: list) -> None:
    data = TimeSeries(path=str(ett), window=WINDOW, horizon=HORIZON, normalize="train", split=split)
    splits = data.load()
    for name in ("train", "val", "test"):
        source = getattr(splits, name)
        batch = next(iter(Batches(source, len(source))))
        inputs, targets = published_windows(ett, name)
        np.testing.assert_allclose(batch["inputs"], inputs, atol=2e-5)
        np.testing.assert_allclose(batch["targets"], targets, atol=2e-5)
    assert f"unused: {MONTH} rows after the test split" in data.describe()


@pytest.mark.parametrize("normalize", ["last", "window", "train"])
def test_normalized_errors_equal_the_errors_on_published_windows(ett: Path, normalize: str) -> None:
    split = ["12mo", "4mo", "4mo"]
    data = TimeSeries(path=str(ett), window=WINDOW, horizon=HORIZON, normalize=normalize, split=split)
    evaluation = Forecasting(HORIZON, 7, STEPS_PER_DAY).evaluate(RepeatLast(), Batches(data.load().test, 100))
    inputs, targets = published_windows(ett, "test")
    assert len(inputs) % 100  # the last batch is smaller; its windows count too
    error = inputs[:, -1:] - targets
    for metrics in (evaluation.metrics, evaluation.baselines["repeat last"]):
        assert metrics["mse_normalized"] == pytest.approx(np.mean(error**2), rel=1e-4)
        assert metrics["mae_normalized"] == pytest.approx(np.mean(np.abs(error)), rel=1e-4)


def test_zero_validation_rows_yield_no_validation_split(ett: Path) -> None:
    splits = TimeSeries(path=str(ett), window=WINDOW, horizon=HORIZON, split=[100, 0, 50]).load()
    assert splits.val is None and len(splits.test) == 50 - HORIZON + 1


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (["12mo", "4mo"], "data.split: expected rows or months for training, validation and test"),
        ([100, -1, 50], "data.split: expected training and test sizes above 0"),
        ([100, 0, 0], "data.split: expected training and test sizes above 0"),
        (["12mo", "4mo", "6mo"], "data.split: expected at most the 1,260 rows of"),
        (
            [20, 50, 50],
            "data.split: expected at least 27 training rows for a window, got 20. Reduce data.window or data.horizon",
        ),
        ([100, 5, 50], "data.split: expected at least 7 validation rows for a window, got 5. Reduce data.horizon"),
    ],
    ids=str,
)
def test_an_invalid_split_is_rejected_with_a_one_line_error(ett: Path, split: list, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TimeSeries(path=str(ett), window=WINDOW, horizon=HORIZON, split=split).load()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("split", "names"), [([30, 20, 50], "validation"), ([30, 0, 20], "test")])
def test_too_few_rows_for_two_seasons_are_rejected_with_the_minimum_number(ett: Path, split: list, names: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TimeSeries(path=str(ett), window=WINDOW, horizon=HORIZON, season=30, split=split).load()
    assert str(caught.value) == (
        f"data.split: expected at least 67 training and {names} rows together, for window 20, horizon 7 and "
        "season 30, got 50. Reduce data.season, data.window or data.horizon"
    )
    split = [47, 20, 50] if names == "validation" else [30, 0, 37]
    TimeSeries(path=str(ett), window=WINDOW, horizon=HORIZON, season=30, split=split).load()


def test_splits_in_months_need_dates_with_a_step_that_divides_a_month(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("y\n" + "".join(f"{n % 7}\n" for n in range(200)))
    with pytest.raises(ConfigError, match=r"expected dates with a step that divides 30 days, .* got no dates"):
        TimeSeries(path=str(path), split=["1mo", "1mo", "1mo"])
    with pytest.raises(ConfigError, match=r"got steps of 1 month\. Use numbers of rows"):
        TimeSeries("elnino", split=["1mo", "1mo", "1mo"])


def test_evaluating_a_run_with_a_published_split_reports_its_normalized_error(
    ett: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = [f"data.path={ett}", "data.split=[12mo,4mo,4mo]", f"data.window={WINDOW}", f"data.horizon={HORIZON}"]
    assert main(["model=dlinear", *keys, "trainer.max_steps=2", "trainer.log_media=false", "hydra.run.dir=run"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 0
    assert "mse_normalized" in capsys.readouterr().out


def test_a_split_that_is_given_neither_in_rows_nor_in_months_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data.split=[12mo,4mo,many]"]) == 2
    assert "data.split: expected a number of rows, or months such as 12mo, got many" in capsys.readouterr().err
