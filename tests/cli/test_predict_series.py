"""``dltrain predict`` on series: forecasts equal those of evaluation, in the units of the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from prediction_examples import Predict, SmallData, Train, rebuilt

from dltrain.data.loader import Batches
from dltrain.data.spec import Source
from dltrain.datasets.time_series import BUNDLED

COLUMNS = ["b", "a"]


def two_series(folder: Path, rows: int = 260) -> Path:
    """Write a file of two daily series; one has large values with small changes."""
    random, path = np.random.default_rng(3), folder / "two.csv"
    values = 1e6 + np.cumsum(random.normal(size=rows)), np.sin(np.arange(rows) / 5) + 0.1 * random.normal(size=rows)
    days = np.datetime64("2024-01-01") + np.arange(rows)
    path.write_text("date,a,b\n" + "".join(f"{d},{x:.3f},{y:.4f}\n" for d, x, y in zip(days, *values, strict=True)))
    return path


@pytest.mark.parametrize("normalize", ["last", "window", "train"])
def test_the_forecast_after_the_end_of_a_file_equals_the_forecast_in_evaluation(
    normalize: str,
    train: Train,
    predict: Predict,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = two_series(tmp_path_factory.getbasetemp())
    overrides = [f"data.path={path}", f"data.column=[{','.join(COLUMNS)}]", f"data.normalize={normalize}"]
    folder = train("model=mlp", "data=timeseries", "data.window=20", "data.horizon=5", *overrides)
    known = rebuilt(folder)
    lines = path.read_text().splitlines(keepends=True)
    first = len(lines) - known.batches.examples - 4  # index of the line with the first target of the test split
    for window in (0, known.batches.examples - 1):
        rows = known.components.data.load().test.rows["values"][window : window + 1]
        (batch,) = Batches(Source({"values": rows}, known.batches.prepare), 1)
        with torch.inference_mode():
            forecast = known.components.task.forecast(known.components.model, batch).double()
        expected = forecast * batch["scale"] + batch["shift"] + batch["shift_rest"].double()
        cut = tmp_path / "cut.csv"
        cut.write_text("".join(lines[: first + window]))
        predictions = predict(folder, cut).lines
        found = torch.tensor([[line[name] for name in COLUMNS] for line in predictions], dtype=torch.float64)
        torch.testing.assert_close(found, expected[0], rtol=1e-8, atol=1e-8)
        assert [line["time"] for line in predictions] == [line.split(",")[0] for line in lines[first + window :][:5]]
        assert [line["step"] for line in predictions] == [1, 2, 3, 4, 5]
        error = np.abs([[line["a"] - float(lines[first + window].split(",")[1])] for line in predictions]).max()
        assert error < 1000  # values of column a are near a million


def test_dltrain_predict_forecasts_the_series_of_the_run_if_no_input_is_given(
    train: Train, predict: Predict, small_data: SmallData
) -> None:
    folder = train("model=mlp", *small_data("timeseries"))
    alone, named = predict(folder).lines, predict(folder, BUNDLED / "elnino.csv").lines
    assert [line["temperature"] for line in alone] == [line["temperature"] for line in named]
    last = (BUNDLED / "elnino.csv").read_text().split()[-1].split(",")[0]
    assert last == "2010-12" and [line["time"] for line in alone] == [f"2011-0{month}" for month in range(1, 7)]


def test_series_that_cannot_be_forecast_are_rejected(
    train: Train, predict: Predict, small_data: SmallData, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small_data("timeseries"))
    short, other, back, hole = (tmp_path / f"{name}.csv" for name in ("short", "other", "back", "hole"))
    lines = (BUNDLED / "elnino.csv").read_text().splitlines()
    short.write_text("\n".join(lines[:24]))
    other.write_text("\n".join(["date,heat", *lines[1:]]))
    back.write_text("\n".join([lines[0], *lines[:0:-1]]))
    hole.write_text("\n".join([*lines[:-3], lines[-3].split(",")[0] + ",", *lines[-2:]]))
    for path, message in (
        (short, "at least 24 rows in "),
        (other, "the column temperature in"),
        (back, "rows in chronological order"),
        (hole, "data.missing=interpolate or data.missing=last fills them"),
        (tmp_path, "got a folder: "),
    ):
        result = predict(folder, path)
        assert result.code == 2 and "INPUT 1: expected " in result.err and message in result.err
    assert len(predict(folder, hole, "data.missing=last").lines) == 6
