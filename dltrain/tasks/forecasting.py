"""Forecasting, compared with naive forecasts and linear regression."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError, choose, format_error
from dltrain.plots import charts
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media
from dltrain.tasks.forecast_errors import ForecastErrors
from dltrain.tasks.forecast_outputs import Gaussian, Output, Point, Probabilistic, Quantiles
from dltrain.tasks.gradient_distance import TaskOverSteps
from dltrain.tasks.model_call import call_model, reads
from dltrain.tasks.naive_forecasts import naive_forecasts
from dltrain.tasks.recursive import roll_out
from dltrain.tasks.regression import LOSSES, check_target_names, denormalize, denormalize_error, mse_to_rmse
from dltrain.tasks.ridge import MAX_SIZE, Ridge

MAX_LISTED = 8  # maximum number of series, or of columns, whose errors are listed one by one
RESERVED = ("input", "time", "step")  # names that the output of `dltrain predict` already uses
ROUNDING = 1e-6  # a baseline is perfect if its error is at most this fraction of the largest baseline error


class Forecasting(TaskOverSteps):
    """Forecasting: the model's outputs (B, block * columns * parts) forecast ``block`` steps of every column.

    ``parts`` is the number of outputs per step and column; see `dltrain.tasks.forecast_outputs`.

    Batches have these fields:

    - ``inputs`` (B, window, features) and ``targets`` (B, horizon, columns), normalized;
    - ``shift``, ``shift_rest`` and ``scale`` (B, 1, columns), which undo the normalization;
    - in evaluation, ``history`` (B, past, columns) and ``ahead`` (B, horizon, columns), the past and future values
      minus the shift, in the units of the data;
    - in evaluation, ``naive_error`` (B, 1, columns), the mean absolute change over a season in the training data;
    - in evaluation, optional, ``deviation`` (B, 1, columns), the standard deviation of the training rows;
    - for files with several series, ``group`` (B,), the index of the series.

    Args:
        series_names: Names of the series of a file; None if it has only one series.
        loss_name: ``mse``, ``l1`` or ``huber``, on normalized values; for the output ``point`` only.
        output: ``point``, one value per step and column; ``quantile``, one value per quantile, trained with the pinball
            loss; or ``gaussian``, a normal distribution, trained by maximum likelihood.
        quantiles: Quantiles of the outputs ``quantile`` and ``gaussian``, ascending; 0.5 is the point forecast, and the
            first and the last one bound the interval.
        block: Steps that the model predicts at once, from 1 to ``horizon``; training reads only these steps of the
            targets. Later steps are forecast recursively, from the model's own forecasts. None for the whole horizon.
        by: Additional errors: ``horizon`` for single steps, ``origin`` for groups of consecutive windows, or ``none``.
        normalize: Normalization of the windows: ``last``, ``window`` or ``train``; None if the data do not provide it.
        features: Values per step of the inputs; None for one per column.
        teacher_forcing: For models that read the value before each step (argument ``previous``): fraction of true
            values at the end of training, in [0, 1]. The fraction falls linearly from 1. Other values, and all values
            outside training, are the model's own forecasts.
        gradient_distance: Plot the norm of the gradient of the loss at the last step by distance in time; see
            `dltrain.tasks.gradient_distance`.
    """

    metric: ClassVar[str] = "mae"
    better: ClassVar[Literal["min", "max"]] = "min"
    ridge: Ridge | None = None

    def __init__(
        self,
        horizon: int,
        columns: int,
        season: int | None = None,
        unit: str | None = None,
        target_names: list[str] | None = None,
        series_names: list[str] | None = None,
        loss_name: str = "mse",
        output: str = "point",
        quantiles: Sequence[float] = (0.1, 0.5, 0.9),
        block: int | None = None,
        by: str = "none",
        normalize: str | None = None,
        features: int | None = None,
        gradient_distance: bool = False,
        teacher_forcing: float = 0.0,
    ) -> None:
        reserved = (*RESERVED, "series") if series_names else RESERVED
        self.horizon = horizon
        self.columns = columns
        self.season = season or 1
        self.unit = unit or ""
        self.target_names = check_target_names(target_names or [str(n) for n in range(columns)], reserved)
        self.series_names = list(series_names or [])
        self.gradient_distance = gradient_distance
        if not 0 <= teacher_forcing <= 1:
            raise ConfigError(format_error("task.teacher_forcing", "a number from 0 to 1", teacher_forcing))
        self.teacher_forcing = teacher_forcing
        distance = choose("task.loss_name", loss_name, LOSSES)
        kinds: dict[str, Callable[[], Output]] = {
            "point": lambda: Point(distance),
            "quantile": lambda: Quantiles(quantiles),
            "gaussian": lambda: Gaussian(quantiles),
        }
        self.output = choose("task.output", output, kinds)()
        self.metric = self.output.metric  # type: ignore[misc]  # the goal depends on the output
        self.by = choose("task.by", by, {name: name for name in ("none", "horizon", "origin")})
        if series_names and by == "origin":
            reason = "the windows of several series have no common order"
            raise ConfigError(f"task.by=origin: not supported with data.group because {reason}")
        self.block = horizon if block is None else block
        self.relative = normalize == "last"
        self._check_block(output, normalize, features or columns)

    def _check_block(self, output: str, normalize: str | None, features: int) -> None:
        """Reject a block outside 1 to the horizon, and a shorter block if forecasts cannot become inputs."""
        if not 1 <= self.block <= self.horizon:
            raise ConfigError(
                format_error("task.block", f"a whole number from 1 to data.horizon={self.horizon}", self.block)
            )
        problems = {
            f"task.output={output}": (self.output.parts > 1, "only point forecasts can become inputs"),
            "data.normalize=window": (normalize == "window", "the scale would change with each forecast"),
            "data.known or data.calendar": (features > self.columns, "inputs hold these values for the whole horizon"),
        }
        for other, (found, reason) in problems.items():
            if found and self.block < self.horizon:
                raise ConfigError(f"task.block={self.block}: not supported with {other} because {reason}")

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model, with ``horizon=block`` if the block is shorter than the horizon."""
        outputs = self.block * self.columns * self.output.parts
        facts = {"outputs": outputs, "each_step": False, "causal": False}
        return facts if self.block == self.horizon else {**facts, "horizon": self.block}

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return inputs and future values."""
        batch = super().example(facts, batch_size)
        return {**batch, "targets": batch["inputs"].new_empty(batch_size, self.horizon, self.columns)}

    def forecast(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return normalized forecasts, (B, horizon, columns)."""
        return self.output.point(self.levels(model, batch))

    def levels(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the raw normalized forecasts (B, horizon, columns, parts), which `output` interprets."""
        if self.block == self.horizon:
            return self._block(model, batch)

        def forecast(window: Tensor) -> Tensor:
            return self.output.point(self._block(model, {**batch, "inputs": window}))

        return roll_out(forecast, batch["inputs"], self.horizon, self.relative)[..., None]

    def _block(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the raw forecasts of one call of the model, (B, block, columns, parts)."""
        return call_model(model, batch).view(-1, self.block, self.columns, self.output.parts)

    def begin(self, model: nn.Module) -> None:
        """Raise ConfigError if `gradient_distance` or `teacher_forcing` is set and the model does not support it."""
        super().begin(model)
        if self.teacher_forcing and not reads(model, "previous"):
            reason = f"{type(model).__name__} does not read the value before each step; model=seq2seq_forecaster does"
            raise ConfigError(f"task.teacher_forcing={self.teacher_forcing:g}: not supported because {reason}")

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the mean loss over the examples, on normalized values."""
        targets = batch["targets"][:, : self.block]
        if reads(model, "previous"):
            batch = {**batch, **self._previous(batch["inputs"], targets, progress)}
        levels = self._block(model, batch)
        return Loss(self.output.loss(levels, targets), len(levels))

    def _previous(self, inputs: Tensor, targets: Tensor, progress: float) -> Batch:
        """Return the true values before each step and, under scheduled sampling, which steps read them."""
        truth = 1 - (1 - self.teacher_forcing) * progress
        previous = {"previous": torch.cat([inputs[:, -1:, : self.columns], targets[:, :-1]], dim=1)}
        if truth == 1:
            return previous
        return {**previous, "is_true": torch.rand(targets.shape[:2], device=targets.device) < truth}

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Fit ridge regression of the targets on the inputs, both normalized, unless a window is too large."""
        shape = next(iter(train))["inputs"].shape
        if max(shape[1] * shape[2], self.horizon * self.columns) > MAX_SIZE:
            return f"no ridge regression as a baseline: a window has more than {MAX_SIZE:,} inputs or outputs"
        self.ridge = Ridge(train, val)
        return None

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return MAE, RMSE and MASE of the model and of the baselines, and the skill of the model.

        MAE and RMSE are in the units of the data. For outputs that are distributions, the pinball loss (mean over the
        quantiles) and the CRPS are also in these units. The coverage is the fraction of targets within the interval;
        ``coverage_80`` should be 0.8. Naive forecasts have no interval.

        MASE divides each error by the mean absolute change over a season in the training data, so that series of
        different scales count equally. The field ``deviation`` adds MSE and MAE of standardized values, as in
        published tables; some of these tables leave out the last batch. With two to eight
        series, or columns of a single series, the MAE of each is also returned.

        Skill is ``1 - MASE / (MASE of the best baseline)``: 0 means no better than the baseline, 1 means perfect. With
        one series of one column, MAE gives the same skill. Skill is left out if a baseline is perfect, because it is
        undefined then.

        Source: MASE: Hyndman and Koehler 2006, "Another look at measures of forecast accuracy".
        """
        ours, first = ForecastErrors(self.by), None
        others: dict[str, ForecastErrors] = {}
        for batch in batches:
            levels = self.levels(model, batch).float()
            ours.add(len(levels), loss=self.output.loss(levels, batch["targets"]))
            self._add_levels(ours, levels, batch)
            for name, values in naive_forecasts(batch["history"], self.horizon, self.season).items():
                self._add(others.setdefault(name, ForecastErrors(self.by)), values - batch["ahead"], batch)
                self._add_point_scores(others[name], values - batch["ahead"])
            if self.ridge is not None:
                self._add_levels(
                    others.setdefault("ridge regression", ForecastErrors(self.by)), self._ridge_levels(batch), batch
                )
            first = first or (batch, levels)
        metrics = mse_to_rmse(ours.read())
        baselines = {name: mse_to_rmse(mean.read()) for name, mean in others.items()}
        compared = "mase" if "mase" in metrics else "mae"
        errors = [baseline[compared] for baseline in baselines.values()]
        if (best := min(errors)) > ROUNDING * max(errors):
            metrics["skill"] = 1 - metrics[compared] / best
        return Evaluation(metrics, baselines, {"first": first})

    def _ridge_levels(self, batch: Batch) -> Tensor:
        """Return the raw forecasts of ridge regression, whose errors are assumed to be normally distributed."""
        assert self.ridge is not None
        targets = batch["targets"]
        mean = self.ridge(batch["inputs"]).to(targets).view_as(targets)
        if not isinstance(self.output, Probabilistic):
            return mean[..., None]
        deviation = self.ridge.deviation.to(targets).view(1, *targets.shape[1:]).expand_as(mean)
        return self.output.of_normal(mean, deviation)

    def _add_levels(self, mean: ForecastErrors, levels: Tensor, batch: Batch) -> None:
        """Add the errors and scores of raw forecasts."""
        targets = batch["targets"]
        self._add(mean, denormalize_error(self.output.point(levels) - targets, batch), batch)
        if isinstance(self.output, Probabilistic):
            scores = self.output.scores(levels, targets)
            scores = {name: denormalize_error(score, batch) for name, score in scores.items()}
            scores |= self.output.covered(levels, targets)
            mean.add(targets.numel(), **{name: score.mean() for name, score in scores.items()})

    def _add_point_scores(self, mean: ForecastErrors, error: Tensor) -> None:
        """Add the scores of a point forecast from its error in the units of the data."""
        if isinstance(self.output, Probabilistic):
            scores = self.output.point_scores(error)
            mean.add(error.numel(), **{name: score.mean() for name, score in scores.items()})

    def _add(self, mean: ForecastErrors, error: Tensor, batch: Batch) -> None:
        """Add the errors of a batch, (B, horizon, columns) in the units of the data.

        With two to eight series, or columns of a single series, the errors of each are also added separately.
        """
        mean.add_errors(error)
        if "naive_error" in batch:
            mean.add(error.numel(), mase=(error.abs() / batch["naive_error"]).mean())
        if "deviation" in batch:
            scaled = error / batch["deviation"]
            mean.add(error.numel(), mse_normalized=scaled.square().mean(), mae_normalized=scaled.abs().mean())
        names = self.series_names or self.target_names
        if 1 < len(names) <= MAX_LISTED:
            for number, name in enumerate(names):
                own = error[batch["group"] == number] if self.series_names else error[..., number]
                mean.add(own.numel(), **{f"mae {name}": own.abs().sum() / max(1, own.numel())})

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return a line per step of each window, with the value of each column in the units of the data.

        For outputs that are distributions, the quantiles except the median have keys such as ``sales 0.1``.
        """
        levels = self.levels(model, batch).float()
        values = {"": self.output.point(levels), **self.output.named_quantiles(levels)}
        names = [f"{name} {level}".rstrip() for name in self.target_names for level in values]
        windows = torch.stack([denormalize(value, batch) for value in values.values()], dim=-1).flatten(2).tolist()
        return [
            {"step": step, **dict(zip(names, row, strict=True))}
            for window in windows
            for step, row in enumerate(window, 1)
        ]

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return plots of forecasts and targets, for examples spread over the first batch."""
        batch, levels = evaluation.extra["first"]
        picks = torch.linspace(0, len(levels) - 1, min(charts.PANELS, len(levels))).long()
        column = [int(n) % self.columns for n in range(len(picks))]
        values = {"truth": batch["targets"], "forecast": self.output.point(levels), **self.output.interval(levels)}
        drawn = {name: denormalize(value, batch) for name, value in values.items()}
        drawn["history"] = denormalize(batch["history"], {**batch, "scale": torch.ones(())})
        drawn = {
            name: torch.stack([value[p, :, c] for p, c in zip(picks, column, strict=True)])
            for name, value in drawn.items()
        }
        past = min(drawn["history"].shape[1], max(2 * self.season, 3 * self.horizon))
        history, truth, forecast = (drawn.pop(name) for name in ("history", "truth", "forecast"))
        unit = f" ({self.unit})" if self.unit else ""
        captions = [self.target_names[c] + unit for c in column]
        return [Media("forecasts", charts.forecasts(history[:, -past:], truth, forecast, captions, drawn))]
