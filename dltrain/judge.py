"""Looking at a model without changing it: metrics of a split, and what there is to see."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from dltrain.data.batches import Batch
from dltrain.device import Device
from dltrain.tasks.base import Evaluation, Shown, Task


def measure(task: Task, model: nn.Module, batches: Iterable[Batch], device: Device) -> Evaluation:
    """One pass over a split."""
    model.eval()
    with torch.inference_mode(), device.autocast():
        evaluation = task.evaluate(model, batches)
    model.train()
    return evaluation


def look(task: Task, model: nn.Module, evaluation: Evaluation, device: Device) -> list[Shown]:
    """Pictures and text for people."""
    model.eval()
    with torch.inference_mode(), device.autocast():
        shown = task.show(model, evaluation)
    model.train()
    return shown


def improves(value: float, best: float | None, better: str) -> bool:
    """Whether a metric is the best so far; what is not finite never is."""
    if not math.isfinite(value):
        return False
    return best is None or (value > best if better == "max" else value < best)
