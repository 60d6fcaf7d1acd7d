"""Scores of probabilistic forecasts: pinball loss of quantiles; likelihood and CRPS of a normal distribution."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def pinball(quantiles: Tensor, targets: Tensor, levels: Sequence[float]) -> Tensor:
    """Return the pinball loss of each quantile: (..., Q), (...) -> (..., Q).

    Source: Koenker and Bassett 1978, "Regression quantiles".
    """
    errors = (targets[..., None] - quantiles).unbind(-1)
    # The levels stay Python numbers, because a copy to the device would make a training step wait.
    losses = [torch.maximum(level * error, (level - 1) * error) for level, error in zip(levels, errors, strict=True)]
    return torch.stack(losses, dim=-1)


def normal_nll(mean: Tensor, deviation: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of a normal distribution in nats, elementwise."""
    return 0.5 * ((targets - mean) / deviation).square() + deviation.log() + 0.5 * math.log(2 * math.pi)


def normal_crps(mean: Tensor, deviation: Tensor, targets: Tensor) -> Tensor:
    """Return the continuous ranked probability score of a normal distribution, elementwise, in units of the targets.

    Source: Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation", section 4.2.
    """
    z = (targets - mean) / deviation
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    cumulative = torch.special.ndtr(z)
    return deviation * (z * (2 * cumulative - 1) + 2 * density - 1 / math.sqrt(math.pi))


def normal_quantiles(mean: Tensor, deviation: Tensor, levels: Tensor) -> Tensor:
    """Return quantiles of a normal distribution: (...), (...), (Q,) -> (..., Q)."""
    return mean[..., None] + deviation[..., None] * torch.special.ndtri(levels)
