"""Looking at a model without changing it: metrics of a split, and what there is to see."""

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

from dltrain.data.loader import Batch
from dltrain.tasks.base import Evaluation
from dltrain.training.device import Device

T = TypeVar("T")


Evaluate = Callable[[nn.Module, Iterable[Batch]], Evaluation]


def evaluate(evaluate_fn: Evaluate, model: nn.Module, batches: Iterable[Batch], device: Device) -> Evaluation:
    """One pass over a split."""
    return run_in_eval_mode(lambda model: evaluate_fn(model, batches), model, device)


def run_in_eval_mode(see: Callable[[nn.Module], T], model: nn.Module, device: Device) -> T:
    """What ``see`` finds in a model that neither learns nor keeps statistics meanwhile."""
    model.eval()
    with torch.inference_mode(), device.autocast():
        seen = see(model)
    model.train()
    return seen


def improves(value: float, best: float | None, better: str) -> bool:
    """Whether a metric is the best so far; what is not finite never is."""
    if not math.isfinite(value):
        return False
    return best is None or (value > best if better == "max" else value < best)
