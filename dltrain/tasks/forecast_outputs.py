"""Types of forecasts: a value, quantiles, or a normal distribution for each step and column.

For each type, a model returns ``parts`` raw forecasts per step and column, each on the normalized scale of the series.
A model that adds the last value or undoes a normalization can therefore treat all types in the same way.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.distributions import normal_crps, normal_nll, normal_quantiles, pinball

MEDIAN = 0.5
MIN_DEVIATION = 1e-3  # minimum standard deviation in normalized units, so that the likelihood stays bounded


class Output(ABC):
    """Interpretation of raw forecasts, the normalized outputs of a model.

    The argument ``levels`` holds the raw forecasts, (B, horizon, columns, parts).
    """

    parts: int  # raw forecasts per step and column: 1 for a value, one per quantile, 2 for a normal distribution
    metric: str  # the metric that selects the best checkpoint

    @abstractmethod
    def loss(self, levels: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss; targets (B, horizon, columns)."""

    @abstractmethod
    def point(self, levels: Tensor) -> Tensor:
        """Return the point forecast, (B, horizon, columns)."""

    def named_quantiles(self, levels: Tensor) -> dict[str, Tensor]:
        """Return the quantiles except the point forecast, (B, horizon, columns) each, with keys such as ``0.1``."""
        return {}

    def interval(self, levels: Tensor) -> dict[str, Tensor]:
        """Return the bounds of the prediction interval, ``low`` and ``high``; empty for a point forecast."""
        return {}


class Point(Output):
    """One value per step and column.

    Args:
        distance: Function that returns the mean distance between forecasts and targets.
    """

    parts, metric = 1, "mae"

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.distance = distance

    def loss(self, levels: Tensor, targets: Tensor) -> Tensor:
        """Return the mean distance."""
        return self.distance(self.point(levels), targets.to(levels.dtype))

    def point(self, levels: Tensor) -> Tensor:
        """Return the values."""
        return levels[..., 0]


class Probabilistic(Output):
    """A distribution per step and column, described by its quantiles.

    Args:
        quantiles: Levels in (0, 1), ascending, with 0.5 for the point forecast; the prediction interval ranges from the
            first to the last quantile.
    """

    def __init__(self, quantiles: Sequence[float]) -> None:
        self.quantile_levels = check_quantiles(quantiles)
        self.median = self.quantile_levels.index(MEDIAN)
        self.nominal = self.quantile_levels[-1] - self.quantile_levels[0]  # intended coverage of the interval

    @abstractmethod
    def quantiles(self, levels: Tensor) -> Tensor:
        """Return the quantiles, (B, horizon, columns, quantiles), ascending."""

    @abstractmethod
    def of_normal(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """Return the raw forecasts that best describe a normal distribution, (B, horizon, columns, parts)."""

    def point(self, levels: Tensor) -> Tensor:
        """Return the median."""
        return self.quantiles(levels)[..., self.median]

    def named_quantiles(self, levels: Tensor) -> dict[str, Tensor]:
        """Return all quantiles except the median."""
        found = zip(self.quantile_levels, self.quantiles(levels).unbind(-1), strict=True)
        return {f"{level:g}": value for level, value in found if level != MEDIAN}

    def interval(self, levels: Tensor) -> dict[str, Tensor]:
        """Return the first and the last quantile."""
        found = self.quantiles(levels)
        return {"low": found[..., 0], "high": found[..., -1]}

    def scores(self, levels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return scores by name, each (B, horizon, columns), in normalized units."""
        return {"pinball": self._pinball(self.quantiles(levels), targets)}

    def point_scores(self, error: Tensor) -> dict[str, Tensor]:
        """Return the scores of a point forecast with this error, treated as a distribution with zero variance."""
        return {"pinball": self._pinball(error[..., None].expand(*error.shape, len(self.quantile_levels)), 0 * error)}

    def covered(self, levels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return 1 for each target within the interval and 0 otherwise, under the name of the metric."""
        found = self.quantiles(levels)
        inside = (found[..., 0] <= targets) & (targets <= found[..., -1])
        return {f"coverage_{100 * self.nominal:g}": inside.float()}

    def _pinball(self, quantiles: Tensor, targets: Tensor) -> Tensor:
        return pinball(quantiles, targets, self.quantile_levels).mean(-1)


class Quantiles(Probabilistic):
    """Quantiles, trained with the pinball loss; crossing quantiles are sorted.

    Source: Chernozhukov, Fernández-Val and Galichon 2010, "Quantile and probability curves without crossing".
    """

    metric = "pinball"

    def __init__(self, quantiles: Sequence[float]) -> None:
        super().__init__(quantiles)
        self.parts = len(self.quantile_levels)

    def loss(self, levels: Tensor, targets: Tensor) -> Tensor:
        """Return the mean pinball loss over the quantiles."""
        return self._pinball(levels.float(), targets).mean()

    def quantiles(self, levels: Tensor) -> Tensor:
        """Return the raw forecasts, sorted."""
        return levels.sort(dim=-1).values

    def of_normal(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """Return the quantiles of a normal distribution."""
        return normal_quantiles(mean, deviation, mean.new_tensor(self.quantile_levels))


class Gaussian(Probabilistic):
    """Normal distribution, trained by maximum likelihood.

    The mean is the mean of the two raw forecasts. The standard deviation is
    ``softplus(second - first) + MIN_DEVIATION``.
    """

    parts, metric = 2, "crps"

    def loss(self, levels: Tensor, targets: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of the normalized targets."""
        return normal_nll(*self._normal(levels.float()), targets).mean()

    def quantiles(self, levels: Tensor) -> Tensor:
        """Return quantiles of the normal distribution."""
        return normal_quantiles(*self._normal(levels), levels.new_tensor(self.quantile_levels))

    def of_normal(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """Return the two raw forecasts of a normal distribution."""
        spread = (deviation - MIN_DEVIATION).clamp(min=MIN_DEVIATION)
        half = (spread + torch.log(-torch.expm1(-spread))) / 2  # the inverse of the softplus
        return torch.stack([mean - half, mean + half], dim=-1)

    def scores(self, levels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the pinball loss and the CRPS."""
        return {**super().scores(levels, targets), "crps": normal_crps(*self._normal(levels), targets)}

    def point_scores(self, error: Tensor) -> dict[str, Tensor]:
        """Return the scores of a point forecast, whose CRPS is the absolute error."""
        return {**super().point_scores(error), "crps": error.abs()}

    def _normal(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation, (B, horizon, columns) each."""
        low, high = levels.unbind(-1)
        return (low + high) / 2, F.softplus(high - low) + MIN_DEVIATION


def check_quantiles(quantiles: Sequence[float]) -> list[float]:
    """Return the quantiles as floats.

    Raises:
        ConfigError: The quantiles do not ascend within (0, 1), or do not include 0.5 and at least one other quantile.
    """
    found = [float(level) for level in quantiles]
    ascending = all(0 < level < 1 for level in found) and found == sorted(set(found))
    if not ascending or MEDIAN not in found or len(found) < 2:
        expected = "ascending numbers between 0 and 1, with 0.5 and at least one other, such as [0.1,0.5,0.9]"
        raise ConfigError(format_error("task.quantiles", expected, list(quantiles)))
    return found
