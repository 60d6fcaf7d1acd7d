"""Predict the next steps of series, and say whether that beats knowing nothing."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dltrain.metrics.running import Mean
from dltrain.plots import charts
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media, Task
from dltrain.tasks.regression import add_errors, find_loss, free, in_units, restore, rooted

TAKEN = ("input", "time", "step")  # what a line of `dltrain predict` says besides
# A naive forecast whose error is below this part of another one's is perfect: the rest is float32.
ROUNDING = 1e-6


class Forecasting(Task):
    """The model's outputs (B, horizon * columns) are the next ``horizon`` steps of all series.

    Batches hold ``inputs`` (B, window, columns) and ``targets`` (B, horizon, columns), both normalised, ``shift``,
    ``shift_rest`` and ``scale`` (B, 1, columns) to undo that, and in evaluation ``history`` (B, past, columns) and
    ``ahead`` (B, horizon, columns): what was and what came less the shift, in the data's own units.

    Args:
        horizon: Steps to predict.
        columns: Series that are predicted together.
        season: Steps after which the series repeat, for the naive forecasts.
        unit: Unit of the series, for pictures.
        target_names: One name per series.
        loss_name: What is minimised, on normalised values: mse, l1 or huber.
    """

    metric: ClassVar[str] = "mae"
    better: ClassVar[Literal["min", "max"]] = "min"

    def __init__(
        self,
        horizon: int,
        columns: int,
        season: int | None = None,
        unit: str | None = None,
        target_names: list[str] | None = None,
        loss_name: str = "mse",
    ) -> None:
        self.horizon = horizon
        self.columns = columns
        self.season = season or 1
        self.unit = unit or ""
        self.target_names = free(target_names or [str(n) for n in range(columns)], TAKEN)
        self.distance = find_loss(loss_name)

    def facts(self) -> dict[str, Any]:
        """One output per step and series."""
        return {"outputs": self.horizon * self.columns, "each_step": False, "causal": False}

    def forecast(self, model: nn.Module, batch: Batch) -> Tensor:
        """Normalised forecasts, shape (B, horizon, columns)."""
        return model(batch["inputs"]).view(-1, self.horizon, self.columns)

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Mean distance over the examples, on normalised values."""
        predicted = self.forecast(model, batch)
        return Loss(self.distance(predicted, batch["targets"].to(predicted.dtype)), len(predicted))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """MAE and RMSE in the data's units, of the model and of the naive forecasts, and the skill against the best.

        Skill is 1 - MAE / (MAE of the best naive forecast): 0 is no better, 1 is perfect. There is none where a naive
        forecast is perfect.
        """
        ours, drawn = Mean(), None
        naive: dict[str, Mean] = {}
        for batch in batches:
            predicted = self.forecast(model, batch).float()
            ours.add(len(predicted), loss=self.distance(predicted, batch["targets"]))
            add_errors(ours, in_units(predicted - batch["targets"], batch))
            for name, values in naive_forecasts(batch["history"], self.horizon, self.season).items():
                add_errors(naive.setdefault(name, Mean()), values - batch["ahead"])
            drawn = drawn or (batch, predicted)
        metrics = rooted(ours.read())
        baselines = {name: rooted(mean.read()) for name, mean in naive.items()}
        maes = [found["mae"] for found in baselines.values()]
        if (best := min(maes)) > ROUNDING * max(maes):
            metrics["skill"] = 1 - metrics["mae"] / best
        return Evaluation(metrics, baselines, {"drawn": drawn})

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """A line for each step ahead of each window: its number and each series in the data's own units."""
        windows = restore(self.forecast(model, batch), batch).tolist()
        return [
            {"step": step, **dict(zip(self.target_names, row, strict=True))}
            for window in windows
            for step, row in enumerate(window, 1)
        ]

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Forecasts over the truth, for examples spread over the first batch."""
        batch, forecast = evaluation.extra["drawn"]
        truth, predicted = restore(batch["targets"], batch), restore(forecast, batch)
        history = restore(batch["history"], {**batch, "scale": torch.ones(())})
        picks = torch.linspace(0, len(truth) - 1, min(charts.PANELS, len(truth))).long()
        column = [int(n) % self.columns for n in range(len(picks))]
        past = min(history.shape[1], max(2 * self.season, 3 * self.horizon))
        parts = [
            torch.stack([part[p, :, c] for p, c in zip(picks, column, strict=True)])
            for part in (history, truth, predicted)
        ]
        unit = f" ({self.unit})" if self.unit else ""
        captions = [self.target_names[c] + unit for c in column]
        return [Media("forecasts", charts.forecasts(parts[0][:, -past:], parts[1], parts[2], captions))]


def naive_forecasts(history: Tensor, horizon: int, season: int) -> dict[str, Tensor]:
    """What a forecaster must beat: (B, past, columns) -> name -> (B, horizon, columns).

    Repeat the last value; repeat the last season; the last season plus its drift, the change over the season before
    it. Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice, section 5.2.
    """
    last = history[:, -1:].expand(-1, horizon, -1)
    if history.shape[1] < 2 * season:
        return {"repeat last": last}
    steps = torch.arange(horizon, device=history.device)
    cycle = history[:, history.shape[1] - season + steps % season]
    rounds = (steps // season + 1).view(1, -1, 1)
    drift = (history[:, -season:] - history[:, -2 * season : -season]).mean(1, keepdim=True)
    return {"repeat last": last, "last season": cycle, "season plus drift": cycle + rounds * drift}
