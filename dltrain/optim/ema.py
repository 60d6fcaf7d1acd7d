"""Exponential moving average of a model's weights."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of the weights, kept as a copy of the model.

    Floating point buffers (running statistics) are averaged like weights. Other buffers, and buffers
    that initially hold NaN or infinity, are copied.

    Args:
        model: The model, on its device.
        decay: Weight of the old average in each update, between 0 and 1. Update n, counted from 0, uses at most
            ``(1 + n) / (10 + n)``, so that the initial weights fade quickly.

    Source: Polyak, Juditsky 1992; the warm-up is from tf.train.ExponentialMovingAverage.
    Differs: counts updates on the CPU and lists the averaged tensors once; torch's AveragedModel, which does neither,
        takes nine times as long for a small network.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module = deepcopy(model).requires_grad_(False)
        self._averages: list[Tensor] = list(self.module.parameters())
        buffers = list(self.module.buffers())
        # A causal mask holds -inf, whose average with itself is NaN.
        self._is_averaged = [value.is_floating_point() and bool(value.isfinite().all()) for value in buffers]
        self._averages += [value for value, averaged in zip(buffers, self._is_averaged, strict=True) if averaged]
        self._copied = [value for value, averaged in zip(buffers, self._is_averaged, strict=True) if not averaged]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the current weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        live: list[Tensor] = list(model.parameters())
        copied: list[Tensor] = []
        for value, averaged in zip(model.buffers(), self._is_averaged, strict=True):
            (live if averaged else copied).append(value)
        torch._foreach_lerp_(self._averages, live, 1 - decay)
        if copied:
            torch._foreach_copy_(self._copied, copied)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and the number of updates."""
        return {"model": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.module.load_state_dict(state["model"])
        self.updates = state["updates"]
