"""Sums that live on the device and are read once: exact means over batches of any size.

torchmetrics would do, but importing it costs seconds because it imports torchvision; what dltrain reports so far are
sums. The tests hold them against torchmetrics and scikit-learn.
"""

import torch
from torch import Tensor


class Mean:
    """Weighted mean of named scalars over batches."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor | float] = {}

    def add(self, weight: float | Tensor, **means: Tensor) -> None:
        """Take in means over ``weight`` examples, tokens or numbers."""
        for name, mean in means.items():
            value = mean.detach().double() * weight
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def read(self) -> dict[str, float]:
        """The means, in one copy from the device."""
        if not self._sums:
            return {}
        values = torch.stack([self._sums[name] / self._weights[name] for name in self._sums])
        return dict(zip(self._sums, values.tolist(), strict=True))


class Spread:
    """Mean and variance of each column over all rows, gathered without leaving the device."""

    def __init__(self) -> None:
        self.count, self.first, self.sums, self.squares = 0, torch.empty(0), torch.empty(0), torch.empty(0)

    def add(self, rows: Tensor) -> None:
        """Take in a batch (B, D)."""
        if not self.count:
            self.first = rows[0].double()
            self.sums, self.squares = torch.zeros_like(self.first), torch.zeros_like(self.first)
        apart = rows.double() - self.first  # from a value nearby, so that large numbers do not drown small differences
        self.count += len(rows)
        self.sums += apart.sum(0)
        self.squares += apart.square().sum(0)

    def mean(self) -> Tensor:
        """Of each column, in double precision."""
        return self.first + self.sums / self.count

    def variance(self) -> Tensor:
        """Of each column, in double precision; not below 0."""
        return (self.squares / self.count - (self.sums / self.count).square()).clamp(min=0)


class Components:
    """Principal components of rows that come in batches, gathered without leaving the device."""

    def __init__(self) -> None:
        self.count, self.sums, self.products = 0, torch.empty(0), torch.empty(0)

    def add(self, rows: Tensor) -> None:
        """Take in a batch (B, D)."""
        rows = rows.double()
        if not self.count:
            self.sums, self.products = torch.zeros_like(rows[0]), rows.new_zeros(rows.shape[1], rows.shape[1])
        self.count += len(rows)
        self.sums += rows.sum(0)
        self.products.addmm_(rows.T, rows)

    def residual(self, kept: int) -> float:
        """The mean squared distance of a row from its projection onto the first ``kept`` components."""
        mean = self.sums / self.count
        variances = torch.linalg.eigvalsh(self.products / self.count - torch.outer(mean, mean))
        return float(variances[: max(0, len(variances) - kept)].clamp(min=0).sum())


def confusion(targets: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Counts (classes, classes): rows are the truth, columns what was predicted."""
    return torch.bincount(targets * classes + predicted, minlength=classes * classes).view(classes, classes)


def macro_f1(counts: Tensor) -> float:
    """Unweighted mean over the classes of the harmonic mean of precision and recall; classes never seen count not."""
    counts = counts.double()
    hits, truth, said = counts.diag(), counts.sum(1), counts.sum(0)
    present = truth + said > 0
    return float((2 * hits[present] / (truth + said)[present]).mean())
