"""Linear forecasters: linear layers on the window, decomposed or relative to its last value."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.models.layers import check_sizes


class Projection(nn.Module):
    """Linear layer from the steps of a window to the steps of a forecast, one for all columns or one for each.

    Shape: (B, columns, length) -> (B, columns, horizon).
    """

    def __init__(self, length: int, horizon: int, columns: int, individual: bool) -> None:
        super().__init__()
        layers = columns if individual else 1
        self.weight = nn.Parameter(torch.empty(layers, horizon, length))
        self.bias = nn.Parameter(torch.empty(layers, 1, horizon))
        for parameter in (self.weight, self.bias):  # as in torch.nn.Linear
            nn.init.uniform_(parameter, -(length**-0.5), length**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the steps of the forecast."""
        if len(self.weight) == 1:
            return F.linear(x, self.weight[0], self.bias[0, 0])
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1)


class DLinear(nn.Module):
    """Sum of two linear layers: one on the moving average of the window, one on the rest.

    Args:
        length, columns, horizon: At least 1.
        outputs: A multiple of ``horizon`` times ``columns``: the levels of each step and column, such as quantiles.
        kernel_size: Steps of the moving average, odd; the first and last value are repeated at the ends.
        individual: Whether each column has its own layers.

    Shape: (B, length, columns) -> (B, outputs), ordered by step, column and level.
    Source: Zeng, Chen, Zhang and Xu 2023, "Are transformers effective for time series forecasting?", section 3.
    """

    def __init__(
        self,
        length: int,
        columns: int,
        horizon: int,
        outputs: int,
        kernel_size: int = 25,
        individual: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(length=length, columns=columns, horizon=horizon, kernel_size=kernel_size)
        self.levels = count_levels(outputs, horizon, columns)
        if kernel_size % 2 == 0:
            hint = "An average over an even number of steps has no middle."
            raise ConfigError(format_error("model.kernel_size", "an odd number", kernel_size, hint))
        self.kernel_size = kernel_size
        self.trend = Projection(length, horizon * self.levels, columns, individual)
        self.rest = Projection(length, horizon * self.levels, columns, individual)

    def forward(self, x: Tensor) -> Tensor:
        """Return the forecast of each example."""
        x = x.transpose(1, 2)
        ends = self.kernel_size // 2
        trend = F.avg_pool1d(F.pad(x, (ends, ends), mode="replicate"), self.kernel_size, stride=1)
        return by_step(self.trend(trend) + self.rest(x - trend), self.levels)


class NLinear(nn.Module):
    """Linear layer on the window relative to its last value, which is added to the forecast.

    Args:
        length, columns, horizon: At least 1.
        outputs: A multiple of ``horizon`` times ``columns``: the levels of each step and column, such as quantiles.
        individual: Whether each column has its own layer.

    Shape: (B, length, columns) -> (B, outputs), ordered by step, column and level.
    Source: Zeng, Chen, Zhang and Xu 2023, "Are transformers effective for time series forecasting?", section 3.
    """

    def __init__(self, length: int, columns: int, horizon: int, outputs: int, individual: bool = False) -> None:
        super().__init__()
        check_sizes(length=length, columns=columns, horizon=horizon)
        self.levels = count_levels(outputs, horizon, columns)
        self.layer = Projection(length, horizon * self.levels, columns, individual)

    def forward(self, x: Tensor) -> Tensor:
        """Return the forecast of each example."""
        x = x.transpose(1, 2)
        last = x[..., -1:]
        return by_step(self.layer(x - last) + last, self.levels)


def by_step(x: Tensor, levels: int) -> Tensor:
    """Order outputs by step, column and level: (B, columns, horizon * levels) -> (B, horizon * columns * levels)."""
    return x.unflatten(-1, (-1, levels)).transpose(1, 2).flatten(1)


def count_levels(outputs: int, horizon: int, columns: int) -> int:
    """Return the number of outputs per step and column; raise ConfigError if the task needs other outputs."""
    if outputs % (horizon * columns):
        hint = "This model only forecasts series; use another model for other tasks."
        expected = f"a multiple of {horizon * columns}, the horizon times the columns"
        raise ConfigError(format_error("model.outputs", expected, outputs, hint))
    return outputs // (horizon * columns)
