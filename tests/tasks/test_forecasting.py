"""Forecasting: baselines, and metrics in data units, compared with NumPy and scikit-learn."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, mean_squared_error, root_mean_squared_error
from torch import Tensor, nn

from dltrain.cli.main import main
from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets.time_series import TimeSeries
from dltrain.errors import ConfigError
from dltrain.tasks.forecasting import Forecasting
from dltrain.tasks.naive_forecasts import naive_forecasts
from dltrain.tasks.ridge import PENALTIES

WINDOW, HORIZON, SEASON = 10, 9, 4
METHODS = ("repeat last", "last season", "season plus change")


def naive(past: np.ndarray, horizon: int, season: int) -> dict[str, np.ndarray]:
    """Return the three naive forecasts of one series, computed step by step."""
    n = len(past)
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    change = past[n - 1] - past[n - 1 - season]
    for step in range(1, horizon + 1):
        back = season - (step - 1) % season
        rounds = (step - 1) // season + 1
        found["repeat last"].append(past[n - 1])
        found["last season"].append(past[n - back])
        found["season plus change"].append(past[n - back] + rounds * change)
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize(("horizon", "season"), [(3, 5), (5, 5), (13, 5), (4, 1)])
def test_naive_forecasts_equal_a_plain_loop(horizon: int, season: int) -> None:
    history = np.random.default_rng(0).normal(size=(7, 17, 3)).cumsum(axis=1)
    found = naive_forecasts(torch.from_numpy(history), horizon, season)
    if season == 1:  # the last season is the last value
        change = found.pop("repeat last change")
        found |= {"last season": found["repeat last"], "season plus change": change}
    assert set(found) == set(METHODS)
    for name, values in found.items():
        assert values.shape == (7, horizon, 3)
        for row in range(7):
            for column in range(3):
                expected = naive(history[row, :, column], horizon, season)[name]
                np.testing.assert_allclose(values[row, :, column].numpy(), expected, rtol=1e-12)


def test_a_history_of_one_season_has_no_seasonal_baseline() -> None:
    assert list(naive_forecasts(torch.zeros(2, 5, 1), 3, 5)) == ["repeat last"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Return a file with a seasonal series and a much smaller random walk, and its values."""
    random = np.random.default_rng(1)
    steps = np.arange(160)
    values = np.stack(
        [
            400 + 0.3 * steps + 3 * np.sin(2 * np.pi * steps / SEASON) + random.normal(size=160),
            0.01 * random.normal(size=160).cumsum() - 5,
        ],
        axis=1,
    ).round(6)
    path = tmp_path_factory.mktemp("series") / "two.csv"
    path.write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in values))
    return path, values


class RepeatLast(nn.Module):
    """Model that forecasts the last input; affine normalization does not change the forecast in data units."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1:].expand(-1, HORIZON, -1).flatten(1)


@pytest.mark.parametrize("normalize", ["last", "window", "train"])
def test_metrics_are_in_data_units_for_every_normalization(normalize: str, table: tuple[Path, np.ndarray]) -> None:
    path, values = table
    data = TimeSeries(path=str(path), window=WINDOW, horizon=HORIZON, season=SEASON, normalize=normalize)
    task = Forecasting(HORIZON, 2, SEASON)
    # With 7 windows per batch, the last batch is smaller.
    evaluation = task.evaluate(RepeatLast(), Batches(data.load().test, 7))
    first = len(values) - round(0.15 * len(values))
    starts = range(first, len(values) - HORIZON + 1)
    assert len(starts) % 7
    truth = np.stack([values[at : at + HORIZON] for at in starts])
    forecasts = {
        name: np.stack(
            [np.stack([naive(values[:at, c], HORIZON, SEASON)[name] for c in range(2)], axis=1) for at in starts]
        )
        for name in METHODS
    }
    for name in METHODS:
        expected = mean_absolute_error(truth.ravel(), forecasts[name].ravel())
        assert evaluation.baselines[name]["mae"] == pytest.approx(expected, rel=1e-5)
        squared = root_mean_squared_error(truth.ravel(), forecasts[name].ravel())
        assert evaluation.baselines[name]["rmse"] == pytest.approx(squared, rel=1e-5)
    ours = evaluation.metrics
    assert ours["mae"] == pytest.approx(mean_absolute_error(truth.ravel(), forecasts["repeat last"].ravel()), rel=1e-5)
    train = values[: len(values) - 2 * round(0.15 * len(values))]
    # Mean absolute errors of the seasonal naive forecast on the training split.
    changes = np.abs(train[SEASON:] - train[:-SEASON]).mean(axis=0)
    mase = {name: np.mean(np.abs(truth - forecast) / changes) for name, forecast in forecasts.items()}
    assert ours["mase"] == pytest.approx(mase["repeat last"], rel=1e-5)
    assert all(evaluation.baselines[name]["mase"] == pytest.approx(mase[name], rel=1e-5) for name in METHODS)
    assert ours["skill"] == pytest.approx(1 - mase["repeat last"] / min(mase.values()), rel=1e-4)
    for column, name in enumerate(task.target_names):
        expected = mean_absolute_error(truth[..., column].ravel(), forecasts["repeat last"][..., column].ravel())
        assert ours[f"mae {name}"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("normalize", ["last", "window", "train"])
@pytest.mark.parametrize("validation", [0.15, 0.0])
def test_ridge_regression_equals_scikit_learn_on_the_same_windows(
    validation: float, normalize: str, table: tuple[Path, np.ndarray]
) -> None:
    data = TimeSeries(
        path=str(table[0]), window=WINDOW, horizon=HORIZON, season=SEASON, normalize=normalize, validation=validation
    )
    splits = data.load()
    task = Forecasting(HORIZON, 2, SEASON)
    val = Batches(splits.val, 7) if splits.val else None
    assert task.fit_baselines(Batches(splits.train, 11, training=True), val) is None
    sets = [source.prepare(source.rows) for source in (splits.train, splits.val or splits.test, splits.test)]
    (x, y), (held, expected), (test, _) = [(s["inputs"].flatten(1).double(), s["targets"].flatten(1)) for s in sets]
    models = [Ridge(alpha=len(x) * p).fit(x, y) for p in (PENALTIES if val else [0.01])]
    best = min(models, key=lambda model: mean_squared_error(expected, model.predict(held)))
    forecasts = torch.from_numpy(best.predict(test)).view(-1, HORIZON, 2)
    error = (forecasts - sets[2]["targets"]) * sets[2]["scale"]
    found = task.evaluate(RepeatLast(), Batches(splits.test, 7)).baselines["ridge regression"]
    assert found["mae"] == pytest.approx(float(error.abs().mean()), rel=1e-5)
    assert found["rmse"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-5)


def test_windows_of_more_than_2048_numbers_have_no_ridge_baseline() -> None:
    wide = [{"inputs": torch.zeros(1, 1_025, 2), "targets": torch.zeros(1, HORIZON, 2)}]
    task = Forecasting(HORIZON, 2)
    assert "no ridge regression" in str(task.fit_baselines(wide, None)) and task.ridge is None


@pytest.mark.parametrize("normalize", ["last", "window", "train"])
def test_adding_a_large_constant_to_a_series_shifts_the_forecasts_and_changes_no_errors(
    normalize: str, tmp_path: Path
) -> None:
    moves = np.random.default_rng(2).integers(-20, 20, size=160).cumsum() / 4
    results = []
    for offset in (0.0, 2e9):
        path = tmp_path / f"{offset}.csv"
        path.write_text("a\n" + "".join(f"{offset + move:.2f}\n" for move in moves))
        data = TimeSeries(path=str(path), window=WINDOW, horizon=HORIZON, season=SEASON, normalize=normalize)
        task = Forecasting(HORIZON, 1, SEASON)
        found = task.evaluate(RepeatLast(), Batches(data.load().test, 64))
        if (normalize, offset) == ("last", 2e9):  # one case only, because drawing is slow
            (row,) = task.show(RepeatLast(), found)
            assert row.image is not None and row.image.float().std() > 0
        (unseen,) = Batches(replace(data.load().test, rows=next(data.inputs(InputFiles())).rows), 1)
        lines = [line["0"] - offset for line in task.predict(RepeatLast(), unseen)]
        assert lines == pytest.approx([moves[-1]] * HORIZON, abs=1e-4)
        results.append({"ours": found.metrics, **found.baselines})
    starts = range(160 - 24, 160 - HORIZON + 1)
    expected = np.mean([np.abs(moves[at : at + HORIZON] - moves[at - 1]) for at in starts])
    assert results[1]["ours"]["mae"] == pytest.approx(expected, rel=1e-5)
    for name, figures in results[0].items():
        assert results[1][name] == pytest.approx(figures, rel=1e-4)


def test_skill_is_undefined_if_a_baseline_is_perfect(tmp_path: Path) -> None:
    for name, values in (("constant", [0.1] * 160), ("season", [0.1, 0.7, 0.3, 0.2] * 40), ("line", range(160))):
        path = tmp_path / f"{name}.csv"
        path.write_text("a\n" + "".join(f"{value / 10}\n" for value in values))
        data = TimeSeries(path=str(path), window=WINDOW, horizon=HORIZON, season=SEASON)
        found = Forecasting(HORIZON, 1, SEASON).evaluate(RepeatLast(), Batches(data.load().test, 64))
        assert min(figures["mae"] for figures in found.baselines.values()) < 1e-6
        assert "skill" not in found.metrics


def batch(generator: torch.Generator, count: int) -> dict[str, Tensor]:
    inputs, ahead, history = (torch.randn(count, steps, 1, generator=generator) for steps in (WINDOW, HORIZON, WINDOW))
    return {
        "inputs": inputs,
        "targets": ahead,
        "history": history,
        "ahead": ahead,
        "shift": torch.zeros(count, 1, 1),
        "scale": torch.ones(count, 1, 1),
    }


class FixedOutputs(nn.Module):
    """Model that returns fixed outputs."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs.flatten(1)


def test_skill_is_one_for_a_perfect_forecast_and_zero_for_the_best_baseline() -> None:
    batches = [batch(torch.Generator().manual_seed(0), 5)]
    task = Forecasting(HORIZON, 1, SEASON)
    assert task.evaluate(FixedOutputs(batches[0]["targets"]), batches).metrics["skill"] == 1
    baselines = task.evaluate(FixedOutputs(batches[0]["targets"]), batches).baselines
    best = min(baselines, key=lambda name: baselines[name]["mae"])
    same = FixedOutputs(naive_forecasts(batches[0]["history"], HORIZON, SEASON)[best])
    assert task.evaluate(same, batches).metrics["skill"] == pytest.approx(0, abs=1e-6)


def test_model_outputs_are_ordered_by_step_and_then_by_column() -> None:
    inputs = torch.randn(4, WINDOW, 2)
    assert torch.equal(
        Forecasting(HORIZON, 2).forecast(RepeatLast(), {"inputs": inputs}), inputs[:, -1:].expand(-1, HORIZON, -1)
    )


def test_forecasts_are_plotted_with_the_targets() -> None:
    task = Forecasting(HORIZON, 1, SEASON, unit="ppm")
    model = FixedOutputs(torch.zeros(5, HORIZON, 1))
    (shown,) = task.show(model, task.evaluate(model, [batch(torch.Generator().manual_seed(0), 5)]))
    assert shown.tag == "forecasts"
    assert shown.image is not None and shown.image.dtype == torch.uint8 and shown.image.shape[0] == 3


def test_a_column_with_the_name_of_a_forecast_field_is_rejected() -> None:
    for name in ("input", "time", "step"):
        with pytest.raises(
            ConfigError, match=rf"data.column: expected a name other than input, time, step, got {name}"
        ):
            Forecasting(HORIZON, 2, target_names=["a", name])
    assert Forecasting(HORIZON, 2, target_names=["line", "a"]).target_names == ["line", "a"]


@pytest.mark.slow
def test_the_default_run_forecasts_better_than_every_baseline(tmp_path: Path) -> None:
    assert main(["device=cpu", f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "ridge regression" in result["baselines"] and result["test"]["skill"] > 0
