"""Evaluation of a model in eval mode, without changing the model."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dltrain.data.loader import Batch, Batches
from dltrain.loggers.console import Console
from dltrain.loggers.formatting import format_duration
from dltrain.optim.ema import EMA
from dltrain.tasks.base import Evaluation, Goal, Media, Task
from dltrain.training.device import Device
from dltrain.training.learning import train_mode
from dltrain.training.signals import SIGNAL_EXIT_CODES, Stop, Stopped

T = TypeVar("T")
QUIET_S = 2.0  # shorter evaluations show no progress


def run_in_eval_mode(function: Callable[..., T], model: nn.Module, device: Device, *inputs: Any) -> T:
    """Call ``function(model, *inputs)`` in eval mode and without gradients, then restore training mode."""
    model.eval()
    with torch.inference_mode(), device.autocast():
        result = function(model, *inputs)
    train_mode(model)
    return result


def with_progress(batches: Batches, console: Console) -> Iterator[Batch]:
    """Yield the batches, and show the progress if the evaluation takes longer than `QUIET_S`."""
    started, shown = time.perf_counter(), False
    for done, batch in enumerate(batches):
        spent = time.perf_counter() - started
        if done and spent >= QUIET_S:
            shown = True
            left = spent / done * (len(batches) - done)
            console.evaluation(done, len(batches), f"left {format_duration(left)}")
        yield batch
    if shown:
        console.screen.clear()


def has_finite_weights(model: nn.Module) -> bool:
    """Return whether all weights and their sum in float32 are finite; waits for the device."""
    # One sum per parameter takes a tenth of the time of testing every element.
    sums = [p.detach().sum(dtype=torch.float32) for p in model.parameters() if p.is_floating_point()]
    return not sums or math.isfinite(float(torch.stack(sums).sum()))


def non_finite(evaluation: Evaluation) -> list[str]:
    """Return the names of the metrics that are NaN or infinite."""
    return [name for name, value in evaluation.metrics.items() if not math.isfinite(value)]


class Evaluator:
    """Evaluation of the averaged weights if there are any, otherwise of the model.

    If a weight is not finite, the monitored metric is NaN, and there are no other metrics.

    Args:
        media: Whether `show` and `frame` return anything.
    """

    def __init__(
        self, task: Task, model: nn.Module, ema: EMA | None, device: Device, stop: Stop, console: Console, media: bool
    ) -> None:
        self.task, self.device, self.stop, self.console, self.media = task, device, stop, console, media
        self.model = model if ema is None else ema.module

    def evaluate(self, batches: Batches, goal: Goal | None = None) -> Evaluation:
        """Evaluate on a split; `goal` defaults to `task.goal`. A signal raises `Stopped`."""
        goal = goal or self.task.goal
        if not has_finite_weights(self.model):
            return Evaluation({goal.metric: math.nan})
        return run_in_eval_mode(goal.evaluate, self.model, self.device, self._interruptible(batches))

    def _interruptible(self, batches: Batches) -> Iterator[Batch]:
        for batch in with_progress(batches, self.console):
            if self.stop.reason in SIGNAL_EXIT_CODES:
                raise Stopped(self.stop.reason)
            yield batch

    def show(self, evaluation: Evaluation, goal: Goal | None = None) -> list[Media]:
        """Return images and text that illustrate an evaluation, unless a metric is not finite."""
        if not self.media or non_finite(evaluation):
            return []
        return run_in_eval_mode((goal or self.task.goal).show, self.model, self.device, evaluation)

    def frame(self, evaluation: Evaluation) -> Tensor | None:
        """Return the next frame of ``film.gif``; None if the task draws none or a metric is not finite."""
        if not self.media or non_finite(evaluation):
            return None
        return run_in_eval_mode(self.task.frame, self.model, self.device)
