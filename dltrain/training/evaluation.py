"""Evaluation of a model in eval mode, without changing it."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from dltrain.data.loader import Batch, Batches
from dltrain.optim.ema import EMA
from dltrain.tasks.base import Evaluation, Goal, Media, Task
from dltrain.training.device import Device
from dltrain.training.signals import SIGNAL_EXIT_CODES, Stop, Stopped

T = TypeVar("T")

Evaluate = Callable[[nn.Module, Iterable[Batch]], Evaluation]


def run_in_eval_mode(function: Callable[[nn.Module], T], model: nn.Module, device: Device) -> T:
    """Return ``function(model)``, called in eval mode and without gradients; the model is left in training mode."""
    model.eval()
    with torch.inference_mode(), device.autocast():
        result = function(model)
    model.train()
    return result


def evaluate(evaluate_fn: Evaluate, model: nn.Module, batches: Iterable[Batch], device: Device) -> Evaluation:
    """Evaluate the model in one pass over a split."""
    return run_in_eval_mode(lambda model: evaluate_fn(model, batches), model, device)


class Evaluator:
    """Evaluates the weights that count: the EMA where there is one, else the model's own."""

    def __init__(self, task: Task, model: nn.Module, ema: EMA | None, device: Device, stop: Stop) -> None:
        self.task, self.device, self.stop = task, device, stop
        self.model = model if ema is None else ema.module

    def evaluate(self, batches: Batches, goal: Goal | None = None) -> Evaluation:
        """Evaluate on a split; `goal` defaults to the task's own. A signal raises `Stopped`."""
        return evaluate((goal or self.task.goal).evaluate, self.model, self._interruptible(batches), self.device)

    def _interruptible(self, batches: Batches) -> Iterator[Batch]:
        for batch in batches:
            if self.stop.reason in SIGNAL_EXIT_CODES:
                raise Stopped(self.stop.reason)
            yield batch

    def show(self, evaluation: Evaluation, goal: Goal | None = None) -> list[Media]:
        """Return images and text that illustrate an evaluation."""
        show = (goal or self.task.goal).show
        return run_in_eval_mode(lambda model: show(model, evaluation), self.model, self.device)

    def frame(self) -> Tensor | None:
        """Return the next frame of the task's film, if it has one."""
        return run_in_eval_mode(self.task.frame, self.model, self.device)
