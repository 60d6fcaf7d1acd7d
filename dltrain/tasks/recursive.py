"""Recursive forecasts, in which the forecasts of a model become its inputs."""

from collections.abc import Callable

import torch
from torch import Tensor


def roll_out(forecast: Callable[[Tensor], Tensor], window: Tensor, steps: int, relative: bool) -> Tensor:
    """Return a forecast of many steps, (B, steps, columns), from a model that predicts a few steps at once.

    Each forecast is appended to the window, and the same number of steps is dropped from the start of the window.

    Args:
        forecast: Function (B, window, columns) -> (B, block, columns), both normalized.
        window: Normalized past values, (B, window, columns).
        steps: Steps to predict.
        relative: Whether the model reads and predicts values minus the last value of its window.

    Source: Ben Taieb et al. 2012, "A review and comparison of strategies for multi-step ahead time series forecasting",
    section 2.1, the recursive strategy.
    """
    found: list[Tensor] = []
    while sum(block.shape[1] for block in found) < steps:
        anchor = window[:, -1:] if relative else torch.zeros_like(window[:, -1:])
        found.append(forecast(window - anchor) + anchor)
        window = torch.cat([window, found[-1].to(window.dtype)], dim=1)[:, -window.shape[1] :]
    return torch.cat(found, dim=1)[:, :steps]
