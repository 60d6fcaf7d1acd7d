"""Between what models of pictures read and the scale from black to white."""

from collections.abc import Sequence

import torch
from torch import Tensor


class PixelRange:
    """Turns standardised pictures into numbers from 0 (black) to 1 (white) and back; leaves other data as they are.

    Args:
        low: What a model reads for black, one number per channel; None for data without bounds.
        high: What it reads for white, likewise.

    Shape:
        - Input and output of all methods: (B, channels, height, width), or anything where there are no bounds.
    """

    def __init__(self, low: Sequence[float] | None, high: Sequence[float] | None) -> None:
        self.bounded = low is not None and high is not None
        self.low = torch.tensor(list(low or [0.0]))[:, None, None]
        self.span = torch.tensor(list(high or [1.0]))[:, None, None] - self.low

    def to_unit(self, inputs: Tensor) -> Tensor:
        """From 0 to 1."""
        if not self.bounded:
            return inputs
        self._follow(inputs)
        return (inputs - self.low) / self.span

    def from_unit(self, unit: Tensor) -> Tensor:
        """What a model reads for numbers from 0 to 1."""
        if not self.bounded:
            return unit
        self._follow(unit)
        return unit * self.span + self.low

    def _follow(self, values: Tensor) -> None:
        """Keep the bounds where the pictures are: moved once, not in each step."""
        if self.low.device != values.device:
            self.low, self.span = self.low.to(values.device), self.span.to(values.device)
