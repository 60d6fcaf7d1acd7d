"""Inputs, batches, training and requests for the tests of tasks."""

from typing import Any

import torch
from torch import Tensor, nn

from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Task


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_batches(inputs: Tensor, size: int = 16, **more: Tensor) -> list[Batch]:
    whole = {"inputs": inputs, **more}
    return [dict(zip(whole, part, strict=True)) for part in zip(*(v.split(size) for v in whole.values()), strict=True)]


def evaluate(task: Task, model: nn.Module, inputs: Tensor, size: int = 16, **more: Tensor) -> Evaluation:
    with torch.inference_mode():
        return task.evaluate(model, in_batches(inputs, size, **more))


def fit(model: nn.Module, task: Task, batch: Batch, steps: int, lr: float) -> nn.Module:
    """Train a model for `steps` steps of Adam on one batch, and return it in evaluation mode."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    torch.manual_seed(1)
    for step in range(steps):
        optimizer.zero_grad()
        task.loss(model, batch, step / steps).total.backward()
        optimizer.step()
    return model.eval()


def request(count: int, seed: int = 0, **more: Any) -> GenerateRequest:
    return GenerateRequest(count, torch.Generator().manual_seed(seed), torch.device("cpu"), **more)
