"""Linear forecasters: DLinear decomposes the window into trend and remainder; NLinear subtracts its last value."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.models.layers import check_sizes


class Projection(nn.Module):
    """Linear layer from the steps of a window to the steps of a forecast, shared by all columns or separate for each.

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


class KnownEffect(nn.Module):
    """Linear effect of values known in advance on each step of a forecast; zero at initialization.

    Args:
        known: Known values per step, at least 1.
        levels: Outputs per step, for all columns together.
        horizon: Steps of the forecast.

    Shape: (B, length, 2 * known), the known values of each step and of ``horizon`` steps later ->
    (B, horizon * levels).
    """

    def __init__(self, known: int, levels: int, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon
        self.layer = nn.Linear(2 * known, levels, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the effect, which is added to the forecast."""
        now, later = x.chunk(2, dim=-1)
        later = later[:, -self.horizon :]
        return self.layer(torch.cat([later, now[:, -1:].expand_as(later)], dim=-1)).flatten(1)


class Forecaster(nn.Module, ABC):
    """Base class of models that forecast each column from its own past, plus the effect of known values.

    Args:
        columns, horizon: At least 1.
        outputs: ``horizon * columns * levels``, where ``levels`` is the number of outputs per step and column: 1 for a
            point forecast, one per quantile, or 2 for a normal distribution.
        features: Number of values per step: the columns, the known values of the step, and the known values
            ``horizon`` steps later, see `KnownEffect`. None for columns only.

    Shape: (B, length, features) -> (B, outputs), flattened from (B, horizon, columns, levels).
    """

    def __init__(self, columns: int, horizon: int, outputs: int, features: int | None) -> None:
        super().__init__()
        check_sizes(columns=columns, horizon=horizon)
        self.columns = columns
        self.levels = count_levels(outputs, horizon, columns)
        known = ((features or columns) - columns) // 2
        self.known = KnownEffect(known, columns * self.levels, horizon) if known else None

    @abstractmethod
    def each_column(self, x: Tensor) -> Tensor:
        """Return the forecast of each column: (B, columns, length) -> (B, columns, horizon * levels)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the forecast of each example."""
        values = self.each_column(x[..., : self.columns].transpose(1, 2))
        outputs = values.unflatten(-1, (-1, self.levels)).transpose(1, 2).flatten(1)
        return outputs if self.known is None else outputs + self.known(x[..., self.columns :])


class DLinear(Forecaster):
    """Sum of two linear layers: one on the moving average of the window, one on the remainder.

    Args:
        length: Steps of the window, at least 1.
        columns, horizon, outputs, features: See `Forecaster`.
        kernel_size: Number of steps in the moving average, odd; the first and last value are repeated at the ends.
        individual: Whether each column has its own layers.

    Shape: (B, length, features) -> (B, outputs), flattened from (B, horizon, columns, levels).
    Source: Zeng, Chen, Zhang and Xu 2023, "Are transformers effective for time series forecasting?", section "An
    embarrassingly simple baseline".
    """

    def __init__(
        self,
        length: int,
        columns: int,
        horizon: int,
        outputs: int,
        kernel_size: int = 25,
        individual: bool = False,
        features: int | None = None,
    ) -> None:
        super().__init__(columns, horizon, outputs, features)
        check_sizes(length=length, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            hint = "An average over an even number of steps has no middle."
            raise ConfigError(format_error("model.kernel_size", "an odd number", kernel_size, hint))
        self.kernel_size = kernel_size
        self.trend = Projection(length, horizon * self.levels, columns, individual)
        self.rest = Projection(length, horizon * self.levels, columns, individual)

    def each_column(self, x: Tensor) -> Tensor:
        """Return the forecast of each column."""
        ends = self.kernel_size // 2
        trend = F.avg_pool1d(F.pad(x, (ends, ends), mode="replicate"), self.kernel_size, stride=1)
        return self.trend(trend) + self.rest(x - trend)


class NLinear(Forecaster):
    """Linear layer on the window relative to its last value, which is added to the forecast.

    Args:
        length: Steps of the window, at least 1.
        columns, horizon, outputs, features: See `Forecaster`.
        individual: Whether each column has its own layer.

    Shape: (B, length, features) -> (B, outputs), flattened from (B, horizon, columns, levels).
    Source: Zeng, Chen, Zhang and Xu 2023, "Are transformers effective for time series forecasting?", section "An
    embarrassingly simple baseline".
    """

    def __init__(
        self,
        length: int,
        columns: int,
        horizon: int,
        outputs: int,
        individual: bool = False,
        features: int | None = None,
    ) -> None:
        super().__init__(columns, horizon, outputs, features)
        check_sizes(length=length)
        self.layer = Projection(length, horizon * self.levels, columns, individual)

    def each_column(self, x: Tensor) -> Tensor:
        """Return the forecast of each column."""
        last = x[..., -1:]
        return self.layer(x - last) + last


def count_levels(outputs: int, horizon: int, columns: int) -> int:
    """Return the number of outputs per step and column; raise ConfigError if it is not a whole number."""
    if outputs % (horizon * columns):
        hint = "This model only forecasts series; use another model for other tasks."
        expected = f"a multiple of {horizon * columns}, the horizon times the number of columns"
        raise ConfigError(format_error("model.outputs", expected, outputs, hint))
    return outputs // (horizon * columns)
