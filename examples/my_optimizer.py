"""A custom optimizer: Lion (Chen et al. 2023)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Lion without weight decay: each step has the sign of an interpolation between momentum and gradient.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        betas: Coefficients of the momentum in the interpolation and in its own update.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Tensor | None:  # type: ignore[override]
        """Update the parameters; `closure` is not supported."""
        for group in self.param_groups:
            first, second = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                p.sub_(group["lr"] * momentum.lerp(p.grad, 1 - first).sign())
                momentum.lerp_(p.grad, 1 - second)
        return None
