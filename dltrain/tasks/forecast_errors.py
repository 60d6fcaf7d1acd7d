"""Errors of forecasts: overall, and by step or by origin."""

import torch
from torch import Tensor

from dltrain.metrics.running import Mean

PARTS = 8  # maximum number of steps, or of groups of origins, that are listed


class ForecastErrors(Mean):
    """Mean absolute and mean squared errors, computed in the units of the data.

    Args:
        by: ``none``; ``horizon`` adds the mean absolute error of single steps, evenly spaced over the horizon;
            ``origin`` adds the mean absolute error of groups of consecutive windows, in the order of `add_errors`.
    """

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by = by
        self._windows: list[Tensor] = []

    def add_errors(self, error: Tensor) -> None:
        """Add the errors of a batch, (B, horizon, columns)."""
        self.add(error.numel(), mae=error.abs().mean(), mse=error.square().mean())
        if self.by == "horizon":
            steps = sorted(set(torch.linspace(1, error.shape[1], PARTS).round().int().tolist()))
            means = error.abs().mean((0, 2))
            self.add(len(error), **{f"mae step {step}": means[step - 1] for step in steps})
        if self.by == "origin":
            self._windows.append(error.detach().abs().mean((1, 2)))

    def read(self) -> dict[str, float]:
        """Return the means; reading the errors by origin takes one more copy from the device."""
        found = super().read()
        if self._windows:
            errors, first = torch.cat(self._windows).double().cpu(), 1
            for part in errors.tensor_split(min(PARTS, len(errors))):
                found[f"mae origins {first}-{first + len(part) - 1}"] = float(part.mean())
                first += len(part)
        return found
