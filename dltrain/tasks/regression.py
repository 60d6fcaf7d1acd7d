"""Predict numbers."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error, suggest
from dltrain.metrics.running import Mean
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Task

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.smooth_l1_loss,
}

TAKEN = ("input", "line")  # what a line of `dltrain predict` says besides


class Regression(Task):
    """A distance between the model's outputs (B, targets) and ``targets`` (B, targets).

    Targets that data deliver normalised come with ``scale``, ``shift`` and ``shift_rest``, see `restore`; metrics are
    in the data's own units.

    Args:
        targets: Numbers to predict per example.
        target_names: One name per number.
        loss_name: What is minimised: mse, l1 or huber (quadratic below 1).
    """

    metric: ClassVar[str] = "mae"
    better: ClassVar[Literal["min", "max"]] = "min"

    def __init__(self, targets: int, target_names: list[str] | None = None, loss_name: str = "mse") -> None:
        self.targets = targets
        self.target_names = free(target_names or [], TAKEN)
        self.distance = find_loss(loss_name)

    def facts(self) -> dict[str, Any]:
        """One output per number, for the whole example."""
        return {"outputs": self.targets, "each_step": False, "causal": False}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Mean distance over the examples."""
        predicted, wanted = model(batch["inputs"]), numbers(batch)
        return Loss(self.distance(predicted, wanted.to(predicted.dtype)), len(predicted))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Loss, mean absolute error and root mean squared error."""
        mean = Mean()
        for batch in batches:
            predicted, wanted = model(batch["inputs"]).float(), numbers(batch)
            mean.add(len(predicted), loss=self.distance(predicted, wanted))
            add_errors(mean, in_units(predicted - wanted, batch))
        return Evaluation(rooted(mean.read()))

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """The numbers of each example in the data's own units, under their names."""
        names = self.target_names or [f"value_{n}" for n in range(1, self.targets + 1)]
        rows = restore(model(batch["inputs"]), batch).tolist()
        return [dict(zip(names, row, strict=True)) for row in rows]


def free(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Names of what is predicted, under which it stands in the lines of `dltrain predict`.

    Raises:
        ConfigError: Something else stands there under one of them.
    """
    names, taken = list(names), list(taken)
    for name in filter(taken.__contains__, names):
        hint = "The lines of dltrain predict say something else under these names: rename the column"
        raise ConfigError(format_error("data.column", f"a name other than {', '.join(taken)}", name, hint))
    return names


def numbers(batch: Batch) -> Tensor:
    """What is to be predicted (B, targets): ``values`` where ``targets`` are the same numbers as classes."""
    return batch.get("values", batch["targets"])


def in_units(moves: Tensor, batch: Batch) -> Tensor:
    """Differences of normalised values in the data's own units; without the shift, beside which float32 loses them."""
    return moves * batch["scale"] if "scale" in batch else moves


def restore(values: Tensor, batch: Batch) -> Tensor:
    """Normalised values in the data's own units, in float64 on the CPU: no other device need have it."""
    values = values.cpu().double()
    for name, change in (("scale", torch.mul), ("shift", torch.add), ("shift_rest", torch.add)):
        values = change(values, batch[name].cpu().double()) if name in batch else values
    return values


def add_errors(mean: Mean, error: Tensor) -> None:
    """Take in the errors of a batch."""
    mean.add(error.numel(), mae=error.abs().mean(), mse=error.square().mean())


def rooted(metrics: dict[str, float]) -> dict[str, float]:
    """Say the root of the mean squared error instead of the error."""
    return {("rmse" if k == "mse" else k): (v**0.5 if k == "mse" else v) for k, v in metrics.items()}


def find_loss(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A distance by its name.

    Raises:
        ConfigError: With the nearest name.
    """
    if name not in LOSSES:
        raise ConfigError(format_error("task.loss_name", f"one of {' '.join(LOSSES)}", name, suggest(name, LOSSES)))
    return LOSSES[name]
