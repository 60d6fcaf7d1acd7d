"""A custom task: quantile regression, which predicts several quantiles of a number."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.running import Mean
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Task
from dltrain.tasks.regression import denormalize, target_values


class Quantiles(Task):
    """Quantile regression of one number.

    Args:
        targets: Number of targets per example, provided by the data; must be 1.
        quantiles: Quantiles to predict, each between 0 and 1.
    """

    metric: ClassVar[str] = "pinball"
    better: ClassVar[Literal["min", "max"]] = "min"

    def __init__(self, targets: int, quantiles: list[float]) -> None:
        if targets != 1:
            raise ConfigError(format_error("task.targets", "1, the only number of targets supported", targets))
        self.quantiles = quantiles

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: one output per quantile, for the whole example."""
        return {"outputs": len(self.quantiles), "each_step": False, "causal": False}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the mean pinball loss."""
        predicted = model(batch["inputs"])
        return Loss(self._pinball(predicted, batch).mean(), len(predicted))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return the loss and the fraction of targets between the lowest and the highest quantile."""
        mean = Mean()
        for batch in batches:
            predicted, target = model(batch["inputs"]).float(), target_values(batch)[:, 0]
            inside = (predicted.amin(1) <= target) & (target <= predicted.amax(1))
            loss = self._pinball(predicted, batch).mean()
            mean.add(len(predicted), loss=loss, pinball=loss, coverage=inside.float().mean())
        return Evaluation(mean.read())

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the quantiles in the units of the data."""
        rows = denormalize(model(batch["inputs"]), batch).tolist()
        return [dict(zip(map(str, self.quantiles), row, strict=True)) for row in rows]

    def _pinball(self, predicted: Tensor, batch: Batch) -> Tensor:
        error = target_values(batch) - predicted
        quantiles = torch.tensor(self.quantiles, device=error.device)
        return torch.maximum(quantiles * error, (quantiles - 1) * error)
