"""Conversion between model inputs and the range from black to white."""

from collections.abc import Sequence

import torch
from torch import Tensor


class PixelRange:
    """Conversion of standardized images to [0, 1], where 0 is black and 1 is white, and back; other data are unchanged.

    Args:
        low, high: Model inputs for black and white, one number per channel; None for data without bounds.

    Shape: (B, channels, height, width) -> the same shape; without bounds, any shape.
    """

    def __init__(self, low: Sequence[float] | None, high: Sequence[float] | None) -> None:
        self.bounded = low is not None and high is not None
        self.low = torch.tensor(list(low or [0.0]))[:, None, None]
        self.span = torch.tensor(list(high or [1.0]))[:, None, None] - self.low

    def to_unit(self, inputs: Tensor) -> Tensor:
        """Convert model inputs to numbers in [0, 1]."""
        if not self.bounded:
            return inputs
        self._move_to(inputs.device)
        return (inputs - self.low) / self.span

    def from_unit(self, unit: Tensor) -> Tensor:
        """Convert numbers in [0, 1] to model inputs."""
        if not self.bounded:
            return unit
        self._move_to(unit.device)
        return unit * self.span + self.low

    def _move_to(self, device: torch.device) -> None:
        """Move the bounds to the device, once instead of in each step."""
        if self.low.device != device:
            self.low, self.span = self.low.to(device), self.span.to(device)
