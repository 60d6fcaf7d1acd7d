"""Recursive forecasts, and errors by step of the horizon and by origin."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dltrain.cli.main import main
from dltrain.config import compose
from dltrain.data.loader import Batches
from dltrain.datasets.time_series import TimeSeries
from dltrain.errors import ConfigError
from dltrain.runs import assemble
from dltrain.tasks.forecast_errors import ForecastErrors
from dltrain.tasks.forecasting import Forecasting
from dltrain.tasks.recursive import roll_out

WINDOW, HORIZON, COLUMNS = 6, 7, 2
WEIGHTS = np.array([[0.1, -0.2], [0.3, 0.05], [0.0, 0.2], [0.1, 0.1], [-0.3, 0.4], [0.6, 0.3]])


class Autoregression(nn.Module):
    """Model that forecasts one step of each column by a weighted sum of its window; the weights do not sum to 1."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.weights = torch.tensor(weights, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weights).sum(1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = np.random.default_rng(0).normal(size=(200, COLUMNS)).cumsum(axis=0)
    found = tmp_path_factory.mktemp("walks") / "a.csv"
    found.write_text("a,b\n" + "".join(f"{a:.4f},{b:.4f}\n" for a, b in values))
    return found


@pytest.mark.parametrize("normalize", ["last", "train"])
def test_a_recursive_forecast_equals_the_model_applied_step_by_step(normalize: str, path: Path) -> None:
    data = TimeSeries(path=str(path), window=WINDOW, horizon=HORIZON, normalize=normalize, season=1)
    task = Forecasting(HORIZON, COLUMNS, block=1, normalize=normalize)
    splits = data.load()
    lines = task.predict(Autoregression(WEIGHTS), next(iter(Batches(splits.test, 5))))
    values = np.loadtxt(path, delimiter=",", skiprows=1)
    mean = values[:140].mean(axis=0)
    for window in range(5):
        past = values[170 + window - WINDOW : 170 + window].tolist()
        for step in range(HORIZON):
            # The model sees a window minus its last value, or minus the mean; the scale cancels.
            anchor = past[-1] if normalize == "last" else mean
            past.append(((np.array(past[-WINDOW:]) - anchor) * WEIGHTS).sum(axis=0) + anchor)
            line = lines[window * HORIZON + step]
            np.testing.assert_allclose([line["0"], line["1"]], past[-1], atol=1e-4)


def test_blocks_are_appended_until_the_horizon_is_reached() -> None:
    calls: list[Tensor] = []

    def double_last(window: Tensor) -> Tensor:
        calls.append(window)
        return window[:, -3:] * 2

    window = torch.arange(1.0, 6.0).view(1, 5, 1)
    found = roll_out(double_last, window, 7, relative=False)
    assert found.flatten().tolist() == [6, 8, 10, 12, 16, 20, 24]
    assert [call.flatten().tolist() for call in calls[:2]] == [[1, 2, 3, 4, 5], [4, 5, 6, 8, 10]]


def test_the_loss_of_a_block_depends_only_on_the_targets_of_the_block() -> None:
    task = Forecasting(HORIZON, COLUMNS, block=2)
    batch = {"inputs": torch.randn(3, WINDOW, COLUMNS), "targets": torch.randn(3, HORIZON, COLUMNS)}

    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_zeros(len(x), 2 * COLUMNS)

    loss = task.loss(Zero(), batch, 0.0)
    assert float(loss.total) == pytest.approx(float(batch["targets"][:, :2].square().mean()))
    assert task.facts()["outputs"] == 2 * COLUMNS and task.facts()["horizon"] == 2


@pytest.mark.parametrize("model", ["lstm", "dlinear", pytest.param("patchtst", marks=pytest.mark.slow)])
def test_models_with_blocks_of_one_step_forecast_the_whole_horizon(model: str) -> None:
    keys = [f"model={model}", "task.block=1", "data.series=sunspots", "data.window=16", "data.horizon=5"]
    components = assemble.build_components(compose.compose([*keys, "device=cpu"]))
    batch = next(iter(Batches(components.data.load().test, 3)))
    lines = components.task.predict(components.model.eval(), batch)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5] * 3
    assert components.task.loss(components.model, batch, 0.0).total.isfinite()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": 0}, r"task\.block: expected a whole number from 1 to data\.horizon=7, got 0"),
        ({"block": 8}, r"task\.block: expected a whole number from 1 to data\.horizon=7, got 8"),
        ({"block": 1, "output": "quantile"}, r"task\.block=1: not supported with task\.output=quantile"),
        ({"block": 1, "normalize": "window"}, r"task\.block=1: not supported with data\.normalize=window because"),
        ({"block": 1, "features": 4}, r"task\.block=1: not supported with data\.known or data\.calendar because"),
        ({"by": "origin", "series_names": ["a", "b"]}, r"task\.by=origin: not supported with data\.group because"),
    ],
)
def test_an_unsupported_block_or_grouping_is_rejected(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        Forecasting(HORIZON, COLUMNS, **arguments)


def test_errors_by_step_and_by_origin_equal_plain_means() -> None:
    errors = torch.randn(50, 20, 3, generator=torch.Generator().manual_seed(0)).double()
    by_step, by_origin = ForecastErrors("horizon"), ForecastErrors("origin")
    for part in errors.split(7):
        by_step.add_errors(part)
        by_origin.add_errors(part)
    found = by_step.read()
    names = [name for name in found if name.startswith("mae ")]
    assert names == [f"mae step {step}" for step in (1, 4, 6, 9, 12, 15, 17, 20)]
    for name in names:
        assert found[name] == pytest.approx(float(errors[:, int(name.split()[-1]) - 1].abs().mean()))
    found = by_origin.read()
    assert [name for name in found if name.startswith("mae o")][::7] == ["mae origins 1-7", "mae origins 45-50"]
    assert found["mae origins 8-14"] == pytest.approx(float(errors[7:14].abs().mean()))


def test_evaluate_reports_errors_by_step_if_task_by_is_set(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = [f"data.window={WINDOW}", f"data.horizon={HORIZON}", "task.block=1", "trainer.max_steps=2"]
    sizes += ["trainer.log_media=false"]
    assert main(["model=nlinear", f"data.path={path}", *sizes, "hydra.run.dir=run"]) == 0
    assert "mae step" not in capsys.readouterr().out
    assert main(["evaluate", "run", "task.by=horizon"]) == 0
    assert "mae step 7" in capsys.readouterr().out
