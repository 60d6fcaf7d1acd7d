"""Regression: one or more numbers per example."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, choose, format_error
from dltrain.metrics.running import Mean
from dltrain.tasks.bag_of_words import LinearModel
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media
from dltrain.tasks.gradient_distance import TaskOverSteps
from dltrain.tasks.supervised import Supervised
from dltrain.tasks.word_weights import first_texts, show_words, word_weights

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.smooth_l1_loss}

RESERVED = ("input", "line")  # names that the output of `dltrain predict` already uses


class Regression(TaskOverSteps, Supervised):
    """Regression: distance between the model's outputs (B, targets) and ``targets`` (B, targets).

    Normalized targets come with ``scale``, ``shift`` and ``shift_rest``, see `denormalize`; ``mae`` and ``rmse`` are
    in the units of the data.

    Args:
        loss_name: ``mse``, ``l1`` or ``huber`` (quadratic for errors below 1).
        vocabulary: Vocabulary size of text inputs, for the TF-IDF baseline; None for other inputs.
        decode: Function that turns the tokens of text inputs into text; None for other inputs.
        gradient_distance: Plot the gradient of the last step's loss by distance in time; see
            `dltrain.tasks.gradient_distance`.
    """

    metric: ClassVar[str] = "mae"
    better: ClassVar[Literal["min", "max"]] = "min"

    def __init__(
        self,
        targets: int,
        target_names: list[str] | None = None,
        loss_name: str = "mse",
        vocabulary: int | None = None,
        gradient_distance: bool = False,
        decode: Callable[[list[int]], str] | None = None,
    ) -> None:
        self.targets, self.decode = targets, decode
        self.target_names = check_target_names(target_names or [], RESERVED)
        self.distance = choose("task.loss_name", loss_name, LOSSES)
        self.vocabulary, self.gradient_distance = vocabulary, gradient_distance
        self.linear: LinearModel | None = None

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: one output per target, for the whole example."""
        return {"outputs": self.targets, "each_step": False, "causal": False}

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return inputs and targets."""
        batch = super().example(facts, batch_size)
        return {**batch, "targets": batch["inputs"].new_empty(batch_size, self.targets, dtype=torch.float32)}

    def criterion(self, outputs: Tensor, batch: Batch) -> Loss:
        """Return the mean distance over the examples."""
        return Loss(self.distance(outputs, target_values(batch).to(outputs.dtype)), len(outputs))

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Fit ridge regression on TF-IDF features if the inputs are texts."""
        if self.vocabulary is None:
            return None
        self.linear = LinearModel(train, val, self.vocabulary, target_values, None)
        return self.linear.description

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss, mean absolute error and root mean squared error."""
        mean, linear = Mean(), Mean()
        texts: Batch | None = None
        for batch in batches:
            targets, texts = target_values(batch), texts or first_texts(batch, self.decode)
            self._add(mean, self.model_outputs(model, batch).float(), targets, batch)
            if self.linear is not None:
                self._add(linear, self.linear(batch).to(targets), targets, batch)
        baselines = {"TF-IDF ridge regression": mse_to_rmse(linear.read())} if self.linear is not None else {}
        return Evaluation(mse_to_rmse(mean.read()), baselines, {"texts": texts})

    def _add(self, mean: Mean, predicted: Tensor, targets: Tensor, batch: Batch) -> None:
        mean.add(len(predicted), loss=self.distance(predicted, targets))
        add_errors(mean, denormalize_error(predicted - targets, batch))

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the predicted targets of each example by name, in the units of the data."""
        return self._named(denormalize(self.model_outputs(model, batch), batch))

    def _named(self, values: Tensor) -> list[Line]:
        names = self.target_names or [f"value_{n}" for n in range(1, self.targets + 1)]
        return [dict(zip(names, row, strict=True)) for row in values.tolist()]

    def explain(self, model: nn.Module, batch: Batch) -> Tensor | list[list[Line]]:
        """Return the attention weight of each word of each text; other inputs are not supported."""
        return word_weights(model, batch, self.decode) if "lengths" in batch else super().explain(model, batch)

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return some texts with highlighted words, if the model has attention weights."""
        return show_words(model, evaluation.extra["texts"], self.decode, lambda batch: self._captions(model, batch))

    def _captions(self, model: nn.Module, batch: Batch) -> list[str]:
        """Return captions with the targets of each example and the predicted values."""
        pairs = zip(self._named(denormalize(target_values(batch), batch)), self.predict(model, batch), strict=True)
        return [
            ", ".join(f"{name} {value:.4g}, predicted {line[name]:.4g}" for name, value in true.items())
            for true, line in pairs
        ]


def check_target_names(names: Iterable[str], reserved: Iterable[str]) -> list[str]:
    """Return the names as a list.

    Raises:
        ConfigError: A name is reserved in the output of `dltrain predict`.
    """
    names, reserved = list(names), list(reserved)
    for name in filter(reserved.__contains__, names):
        hint = "The output of dltrain predict has other values under these names: rename the column."
        raise ConfigError(format_error("data.column", f"a name other than {', '.join(reserved)}", name, hint))
    return names


def target_values(batch: Batch) -> Tensor:
    """Return the targets (B, targets): the field ``values`` if present, because ``targets`` then holds classes."""
    return batch.get("values", batch["targets"])


def denormalize_error(error: Tensor, batch: Batch) -> Tensor:
    """Convert normalized differences to the units of the data; the shift cancels."""
    return error * batch["scale"] if "scale" in batch else error


def denormalize(values: Tensor, batch: Batch) -> Tensor:
    """Convert normalized values to the units of the data, in float64 on the CPU because some devices lack float64."""
    values = values.cpu().double()
    for name, change in (("scale", torch.mul), ("shift", torch.add), ("shift_rest", torch.add)):
        values = change(values, batch[name].cpu().double()) if name in batch else values
    return values


def add_errors(mean: Mean, error: Tensor) -> None:
    """Add absolute and squared errors of a batch."""
    mean.add(error.numel(), mae=error.abs().mean(), mse=error.square().mean())


def mse_to_rmse(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics with ``rmse`` in place of ``mse``."""
    return {("rmse" if k == "mse" else k): (v**0.5 if k == "mse" else v) for k, v in metrics.items()}
