"""Windows over series, as views, and their normalization."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.loader import Batch
from dltrain.data.selection import Selection
from dltrain.datasets.numerics import nonzero_std, replace_zero, split_float64, two_sum

# Normalization by ``window`` divides by at least this fraction of the scale that normalization by ``last`` uses.
MIN_SCALE = 0.1


class SplitRange(NamedTuple):
    """The rows of a split.

    Args:
        first: First row that is predicted.
        end: Row after the last one.
        lead: Number of rows of a window before the first row that it predicts.
    """

    first: int
    end: int
    lead: int

    def count_windows(self, horizon: int) -> int:
        """Return the number of windows; 0 or negative if the range is too short."""
        return self.end - horizon - self.first + 1

    def rows(self, series: Tensor) -> Tensor:
        """Return the rows of a series (channels, rows) that the windows of the split read."""
        return series[:, self.first - self.lead : self.end]


def cut_windows(
    series: Sequence[np.ndarray],
    ranges: Sequence[SplitRange],
    horizon: int,
    convert: Callable[[np.ndarray], Tensor],
) -> Tensor | Selection:
    """Return the windows of all series, (windows, channels, lead + horizon), as views of one tensor.

    Args:
        series: Values of each series, (rows, columns).
        ranges: The rows of the split in each series.
        horizon: Steps to predict.
        convert: Function that converts the values of a series to a tensor (channels, rows).
    """
    lead, parts = ranges[0].lead, [part.rows(convert(values)) for values, part in zip(series, ranges, strict=True)]
    steps = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
    windows = steps.unfold(1, lead + horizon, 1).transpose(0, 1)
    if len(parts) == 1:
        return windows
    # The windows over the joined series, except those that span two series.
    sizes = torch.tensor([part.shape[1] for part in parts])
    counts = torch.tensor([part.count_windows(horizon) for part in ranges])
    skipped = (sizes - counts).cumsum(0) - (sizes - counts)
    return Selection(windows, torch.arange(int(counts.sum())) + skipped.repeat_interleave(counts))


def repeat_numbers(numbers: Sequence[int], ranges: Sequence[SplitRange], horizon: int) -> Tensor:
    """Return `numbers`, the index of each series, repeated once per window of the series."""
    counts = torch.tensor([part.count_windows(horizon) for part in ranges])
    return torch.tensor(numbers).repeat_interleave(counts)


SCALES = ("mean", "scale", "least", "naive_error")


def fit_scales(
    train: Sequence[np.ndarray], horizon: int, normalize: str, season: int, published: bool = False
) -> dict[str, Tensor]:
    """Return the scales by name, in float32: ``mean`` (series, 2 * columns, 1), all others (series, columns, 1).

    Args:
        train: The training rows (rows, columns) of each series in float64.
        season: Steps per season, for the error of the naive forecast.
        published: Also return ``deviation``, the standard deviation by which errors are divided in published results.
    """
    change = np.stack([_typical_change(rows, horizon) for rows in train])
    scale = np.stack([nonzero_std(rows) for rows in train]) if normalize == "train" else change
    naive = np.stack([_seasonal_change(rows, season) for rows in train])
    fitted = list(zip(SCALES[1:], (scale, MIN_SCALE * change, naive), strict=True))
    if published:
        fitted = [*fitted, ("deviation", np.stack([nonzero_std(rows) for rows in train]))]
    mean = torch.stack([split_float64(rows.mean(axis=0, keepdims=True)) for rows in train])
    return {"mean": mean, **{name: torch.from_numpy(value.astype(np.float32))[..., None] for name, value in fitted}}


class Normalize(nn.Module):
    """Normalization of windows by a shift and a scale: value = normalized * scale + shift + shift_rest.

    Args:
        scales: Result of `fit_scales` and, with known values, of `KnownValues.fit`.
        window: Steps that the model reads.
        horizon: Steps that the model predicts.
        normalize: ``last``, ``window`` or ``train``; see `dltrain.datasets.time_series.TimeSeries`.
        history: Also return past and future values minus the shift, in the units of the data, for naive forecasts.

    Shape:
        - Input: values (B, 2 * columns, lead + horizon) from `split_float64`; with several series also group (B,), the
          index of the series; with known values also known (B, width, lead + horizon).
        - Output: inputs (B, window, columns), or (B, window, columns + 2 * width) with the known values of the step and
          of ``horizon`` steps later; targets (B, horizon, columns); shift, shift_rest (rounding error of the shift) and
          scale, each (B, 1, columns). With ``history`` also history (B, lead, columns); ahead (B, horizon, columns);
          naive_error (B, 1, columns), the mean absolute change of the training rows over a season; group, if the
          input has it; and, if the scales have it, deviation (B, 1, columns), the standard deviation of the training
          rows.
    """

    mean: Tensor
    scale: Tensor
    least: Tensor
    naive_error: Tensor
    known_mean: Tensor
    known_scale: Tensor

    def __init__(self, scales: Mapping[str, Tensor], window: int, horizon: int, normalize: str, history: bool) -> None:
        super().__init__()
        self.window = window
        self.horizon = horizon
        self.normalize = normalize
        self.history = history
        for name in scales:
            self.register_buffer(name, scales[name].clone())

    def forward(self, rows: Batch) -> Batch:
        """Return a normalized batch of windows."""
        values, rest = rows["values"].chunk(2, dim=1)
        lead = values.shape[-1] - self.horizon
        series = rows.get("group", 0)
        anchor, anchor_rest = self.mean[series].chunk(2, dim=-2)
        if self.normalize != "train":
            anchor, anchor_rest = values[..., lead - 1 : lead], rest[..., lead - 1 : lead]
        # The anchor is subtracted first, so that float32 does not round away small changes of large values.
        moved = (values - anchor) + (rest - anchor_rest)
        scale = self.scale[series]
        mean = torch.zeros_like(scale)
        if self.normalize == "window":
            scale, mean = torch.std_mean(moved[..., lead - self.window : lead], dim=-1, correction=0, keepdim=True)
            scale = scale.maximum(self.least[series])
            moved = moved - mean
        shift, shift_rest = two_sum(anchor, anchor_rest + mean)
        normalized = moved[..., lead - self.window :] / scale
        inputs = normalized[..., : self.window]
        if "known" in rows:
            known = ((rows["known"] - self.known_mean) / self.known_scale)[..., -self.window - self.horizon :]
            inputs = torch.cat([inputs, known[..., : self.window], known[..., self.horizon :]], dim=1)
        batch = {"inputs": inputs, "targets": normalized[..., self.window :]}
        units = {"shift": shift, "shift_rest": shift_rest, "scale": scale}
        batch |= {name: value.expand(len(moved), -1, -1) for name, value in units.items()}
        if self.history:
            batch |= {"history": moved[..., :lead], "ahead": moved[..., lead:]}
            compared = {name: scale for name, scale in self.named_buffers() if name in ("naive_error", "deviation")}
            batch |= {name: scale[series].expand(len(moved), -1, -1) for name, scale in compared.items()}
        batch = {name: value.transpose(1, 2).contiguous() for name, value in batch.items()}
        return {**batch, "group": rows["group"]} if self.history and "group" in rows else batch


def _typical_change(train: np.ndarray, horizon: int) -> np.ndarray:
    """Return the root mean square change of each column over 1 to ``horizon`` steps of the training rows."""
    lags = range(1, min(horizon, len(train) - 1) + 1)
    squares = [np.mean((train[lag:] - train[:-lag]) ** 2, axis=0) for lag in lags]
    return replace_zero(np.sqrt(np.mean(squares, axis=0)), train)


def _seasonal_change(train: np.ndarray, season: int) -> np.ndarray:
    """Return the mean absolute change of each column over a season, or over one step if there are too few rows."""
    lag = season if season < len(train) else 1
    return replace_zero(np.abs(train[lag:] - train[:-lag]).mean(axis=0), train)
