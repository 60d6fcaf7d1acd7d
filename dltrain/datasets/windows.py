"""Windows over series, as views that copy nothing, and their normalization."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.loader import Batch
from dltrain.datasets.numerics import nonzero_std, replace_zero, split_float64, two_sum

# The scale of a nearly constant window is at least this fraction of the scale of ``last``.
LEAST_SCALE = 0.1


class SplitRange(NamedTuple):
    """The rows of a split.

    Args:
        first: First row that is predicted.
        end: Row after the last one.
        lead: Rows that a window reaches back from the first row that it predicts.
    """

    first: int
    end: int
    lead: int

    def count_windows(self, horizon: int) -> int:
        """Return the number of windows; 0 or negative if the range is too short."""
        return self.end - horizon - self.first + 1

    def windows(self, series: Tensor, horizon: int) -> Tensor:
        """Return all windows of (columns, rows) as a view (windows, columns, lead + horizon)."""
        return series[:, self.first - self.lead : self.end].unfold(1, self.lead + horizon, 1).transpose(0, 1)


class Normalize(nn.Module):
    """Windows minus a shift, divided by a scale: value = normalized * scale + shift + shift_rest.

    Args:
        train: The training rows (rows, columns) in float64, to fit the scale.
        window: Steps that a model reads.
        horizon: Steps that it predicts.
        how: ``last``, ``window`` or ``train``; see `dltrain.datasets.time_series.TimeSeries`.
        history: Also return past and future values minus the shift, in the units of the data, for naive forecasts.

    Shape:
        values (B, 2 * columns, lead + horizon) of `split_float64` -> inputs (B, window, columns), targets (B, horizon,
        columns), shift, shift_rest (rounding error of the shift) and scale (B, 1, columns), history (B, lead, columns),
        ahead (B, horizon, columns)
    """

    mean: Tensor
    scale: Tensor
    least: Tensor

    def __init__(self, train: np.ndarray, window: int, horizon: int, how: str, history: bool) -> None:
        super().__init__()
        self.window = window
        self.horizon = horizon
        self.how = how
        self.history = history
        change = _typical_change(train, horizon)
        scale = nonzero_std(train) if how == "train" else change
        self.register_buffer("mean", split_float64(train.mean(axis=0, keepdims=True)))
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32))[:, None])
        self.register_buffer("least", torch.from_numpy((LEAST_SCALE * change).astype(np.float32))[:, None])

    def forward(self, rows: Batch) -> Batch:
        """Prepare any number of windows at once."""
        values, rest = rows["values"].chunk(2, dim=1)
        lead = values.shape[-1] - self.horizon
        anchor, anchor_rest = self.mean.chunk(2)
        if self.how != "train":
            anchor, anchor_rest = values[..., lead - 1 : lead], rest[..., lead - 1 : lead]
        # Subtracting before anything is added keeps small changes of large values in float32.
        moved = (values - anchor) + (rest - anchor_rest)
        scale, mean = self.scale, torch.zeros_like(self.scale)
        if self.how == "window":
            scale, mean = torch.std_mean(moved[..., lead - self.window : lead], dim=-1, correction=0, keepdim=True)
            scale = scale.maximum(self.least)
            moved = moved - mean
        shift, shift_rest = two_sum(anchor, anchor_rest + mean)
        normalized = moved[..., lead - self.window :] / scale
        batch = {"inputs": normalized[..., : self.window], "targets": normalized[..., self.window :]}
        units = {"shift": shift, "shift_rest": shift_rest, "scale": scale}
        batch |= {name: value.expand(len(moved), -1, -1) for name, value in units.items()}
        if self.history:
            batch |= {"history": moved[..., :lead], "ahead": moved[..., lead:]}
        return {name: value.transpose(1, 2).contiguous() for name, value in batch.items()}


def _typical_change(train: np.ndarray, horizon: int) -> np.ndarray:
    """Return the root mean square change of each column over 1 to ``horizon`` steps of the training rows."""
    lags = range(1, min(horizon, len(train) - 1) + 1)
    squares = [np.mean((train[lag:] - train[:-lag]) ** 2, axis=0) for lag in lags]
    return replace_zero(np.sqrt(np.mean(squares, axis=0)), train)
