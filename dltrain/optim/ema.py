"""Averaged weights."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """An exponential moving average of a model's weights, as a model of its own.

    Buffers that are finite numbers (running statistics) are averaged like weights; others are copied.

    Args:
        model: Already on its device.
        decay: Share of the old average that a step keeps, between 0 and 1; the n-th step (from 0) keeps at most
            ``(1 + n) / (10 + n)``, so that the first weights are soon forgotten.

    Source: Polyak, Juditsky 1992; the warm-up is that of tf.train.ExponentialMovingAverage.
    Differs: torch's AveragedModel counts on the device and groups its tensors anew in each step, nine times slower
        in a small network.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module = deepcopy(model).requires_grad_(False)
        self._kept: list[Tensor] = list(self.module.parameters())
        buffers = list(self.module.buffers())
        # A causal mask holds -inf, whose average with itself is not a number.
        self._averaged = [value.is_floating_point() and bool(value.isfinite().all()) for value in buffers]
        self._kept += [value for value, averaged in zip(buffers, self._averaged, strict=True) if averaged]
        self._copied = [value for value, averaged in zip(buffers, self._averaged, strict=True) if not averaged]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the present weights of the model."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        live: list[Tensor] = list(model.parameters())
        copied: list[Tensor] = []
        for value, averaged in zip(model.buffers(), self._averaged, strict=True):
            (live if averaged else copied).append(value)
        torch._foreach_lerp_(self._kept, live, 1 - decay)
        if copied:
            torch._foreach_copy_(self._copied, copied)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and how many steps they are over."""
        return {"model": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` said."""
        self.module.load_state_dict(state["model"])
        self.updates = state["updates"]
