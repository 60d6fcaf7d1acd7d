"""Weight averaging: a second, smoother copy of a model."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class Average:
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
        self.model = deepcopy(model).requires_grad_(False)
        self._kept: list[Tensor] = list(self.model.parameters())
        self._live: list[Tensor] = list(model.parameters())
        self._copied: list[tuple[Tensor, Tensor]] = []
        for kept, live in zip(self.model.buffers(), model.buffers(), strict=True):
            # A causal mask holds -inf, whose average with itself is not a number.
            if live.is_floating_point() and bool(live.isfinite().all()):
                self._kept.append(kept)
                self._live.append(live)
            else:
                self._copied.append((kept, live))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self._kept, self._live, 1 - decay)
        for kept, live in self._copied:
            kept.copy_(live)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and how many steps they are over."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` said."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]
