"""A small regression problem, trained with the optimizer of dltrain or of torch."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.optim.optimizer import Optimizer
from dltrain.optim.regularization import Regularization
from dltrain.optim.schedules import Constant, Schedule
from dltrain.tasks.base import Loss

CONF = Path(__file__).parents[2] / "conf"
INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
TARGETS = INPUTS @ torch.linspace(-1, 1, 6)[:, None] + 0.3


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))


def loss_of(model: nn.Module, rows: slice = slice(None)) -> Tensor:
    return (model(INPUTS[rows]) - TARGETS[rows]).square().mean()


def optimizer_of(
    model: nn.Module, make: Any = None, schedule: Schedule | None = None, scaler: Any = None, **regularization: Any
) -> Optimizer:
    make = make or partial(torch.optim.SGD, lr=0.1)
    return Optimizer(
        make, list(model.parameters()), schedule or Constant(), 100, Regularization(**regularization), scaler=scaler
    )


def train(model: nn.Module, optimizer: Optimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        optimizer.backward(Loss(loss_of(model), 32))
        optimizer.step(step)


def train_in_torch(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def assert_same_parameters(a: nn.Module, b: nn.Module, **tolerance: float) -> None:
    for one, other in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 0, "atol": 0}))


def groups_in_torch(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
