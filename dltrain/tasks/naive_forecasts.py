"""Naive forecasts: the last value, and the last season with and without a trend."""

import torch
from torch import Tensor


def naive_forecasts(history: Tensor, horizon: int, season: int) -> dict[str, Tensor]:
    """Return naive forecasts by name: (B, past, columns) -> (B, horizon, columns) each.

    The forecasts are the last value, the last season, and the last season plus a trend. The trend is the change over
    the last ``season`` steps, added once for each season ahead. With a ``season`` of 1 (no seasons), the last season is
    the last value and is left out. If the history has no more than ``season`` steps, only the last value is returned.

    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice, section 5.2.
    """
    last = history[:, -1:]
    found = {"repeat last": last.expand(-1, horizon, -1)}
    if (past := history.shape[1]) > season:
        steps = torch.arange(horizon, device=history.device)
        repeated = history[:, past - season + steps % season]
        change = (last - history[:, -1 - season, None]) * (steps // season + 1).view(1, -1, 1)
        seasonal = {"last season": repeated, "season plus change": repeated + change}
        found |= seasonal if season > 1 else {"repeat last change": repeated + change}
    return found
