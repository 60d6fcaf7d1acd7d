"""Windows over series: views that copy nothing, and their normalisation."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.loader import Batch
from dltrain.datasets.exact import deviation, exact_pairs, exact_sum, not_zero

# A window that hardly moves is not blown up beyond this part of the scale that `last` uses.
LEAST_DEVIATION = 0.1


class Span(NamedTuple):
    """A part of the series.

    Args:
        first: The earliest row that is predicted.
        end: The row after the last one.
        lead: Rows that a window reaches back from what is predicted.
    """

    first: int
    end: int
    lead: int

    def windows(self, horizon: int) -> int:
        """How many windows lie in it; not above 0 where it is too short."""
        return self.end - horizon - self.first + 1

    def view(self, rows: Tensor, horizon: int) -> Tensor:
        """All windows of (numbers, rows): (windows, numbers, lead + horizon), without a copy."""
        return rows[:, self.first - self.lead : self.end].unfold(1, self.lead + horizon, 1).transpose(0, 1)


class Normalise(nn.Module):
    """Windows less a shift, in units of a scale: value = normalised * scale + shift + shift_rest.

    Args:
        train: The training part (rows, columns) in float64, on which all is fitted.
        window: Steps that are read.
        horizon: Steps that are predicted.
        how: ``last``, ``window`` or ``train``; see `dltrain.datasets.time_series.TimeSeries`.
        history: Whether a batch also holds what was and what came less the shift, in the data's units, for naive
            forecasts.

    Shape:
        values (B, 2 x columns, lead + horizon) of `exact_pairs` -> inputs (B, window, columns), targets (B, horizon,
        columns), shift, shift_rest (what rounding took from it) and scale (B, 1, columns), history (B, lead, columns),
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
        moves = _usual_move(train, horizon)
        scale = deviation(train) if how == "train" else moves
        self.register_buffer("mean", exact_pairs(train.mean(axis=0, keepdims=True)))
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32))[:, None])
        self.register_buffer("least", torch.from_numpy((LEAST_DEVIATION * moves).astype(np.float32))[:, None])

    def forward(self, rows: Batch) -> Batch:
        """Prepare any number of windows at once."""
        values, rest = rows["values"].chunk(2, dim=1)
        lead = values.shape[-1] - self.horizon
        anchor, anchor_rest = self.mean.chunk(2)
        if self.how != "train":
            anchor, anchor_rest = values[..., lead - 1 : lead], rest[..., lead - 1 : lead]
        # The difference comes first, so that float32 keeps small moves of large numbers.
        moved = (values - anchor) + (rest - anchor_rest)
        scale, mean = self.scale, torch.zeros_like(self.scale)
        if self.how == "window":
            scale, mean = torch.std_mean(moved[..., lead - self.window : lead], dim=-1, correction=0, keepdim=True)
            scale = scale.maximum(self.least)
            moved = moved - mean
        shift, shift_rest = exact_sum(anchor, anchor_rest + mean)
        normalised = moved[..., lead - self.window :] / scale
        batch = {"inputs": normalised[..., : self.window], "targets": normalised[..., self.window :]}
        facts = {"shift": shift, "shift_rest": shift_rest, "scale": scale}
        batch |= {name: value.expand(len(moved), -1, -1) for name, value in facts.items()}
        if self.history:
            batch |= {"history": moved[..., :lead], "ahead": moved[..., lead:]}
        return {name: value.transpose(1, 2).contiguous() for name, value in batch.items()}


def _usual_move(train: np.ndarray, horizon: int) -> np.ndarray:
    """Root mean square, over training and over the steps of the horizon, of what a series moves away from now."""
    lags = range(1, min(horizon, len(train) - 1) + 1)
    squares = [np.mean((train[lag:] - train[:-lag]) ** 2, axis=0) for lag in lags]
    return not_zero(np.sqrt(np.mean(squares, axis=0)), train)
