"""Running sums on the device: exact means over batches of any size, synchronized only when they are read.

On CUDA, `confusion` synchronizes at each call.

Importing torchmetrics takes seconds, so only the tests use it.
"""

import torch
from torch import Tensor


class Mean:
    """Weighted mean of named scalars over batches."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor | float] = {}

    def add(self, weight: float | Tensor, **means: Tensor) -> None:
        """Add means over ``weight`` examples, tokens or values."""
        for name, mean in means.items():
            value = mean.detach().double() * weight
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._weights[name] = self._weights.get(name, 0) + weight

    def read(self) -> dict[str, float]:
        """Return the means, in one copy from the device."""
        if not self._sums:
            return {}
        values = torch.stack([self._sums[name] / self._weights[name] for name in self._sums])
        return dict(zip(self._sums, values.tolist(), strict=True))


class MeanVariance:
    """Running mean and variance of each column."""

    def __init__(self) -> None:
        self.count, self.offset, self.sums, self.squares = 0, torch.empty(0), torch.empty(0), torch.empty(0)

    def add(self, rows: Tensor) -> None:
        """Add a batch (B, D)."""
        if not self.count:
            self.offset = rows[0].double()
            self.sums, self.squares = torch.zeros_like(self.offset), torch.zeros_like(self.offset)
        rows = rows.double() - self.offset  # keeps the digits of small differences between large numbers
        self.count += len(rows)
        self.sums += rows.sum(0)
        self.squares += rows.square().sum(0)

    def mean(self) -> Tensor:
        """Return the means in double precision."""
        return self.offset + self.sums / self.count

    def variance(self) -> Tensor:
        """Return the population variances in double precision, at least 0."""
        return (self.squares / self.count - (self.sums / self.count).square()).clamp(min=0)


class Covariance:
    """Running covariance of rows, for the error of a projection onto principal components."""

    def __init__(self) -> None:
        self.count, self.sums, self.products = 0, torch.empty(0), torch.empty(0)

    def add(self, rows: Tensor) -> None:
        """Add a batch (B, D)."""
        rows = rows.double()
        if not self.count:
            self.sums, self.products = torch.zeros_like(rows[0]), rows.new_zeros(rows.shape[1], rows.shape[1])
        self.count += len(rows)
        self.sums += rows.sum(0)
        self.products.addmm_(rows.T, rows)

    def residual(self, kept: int) -> float:
        """Return the mean squared distance of the rows from their projections onto ``kept`` principal components."""
        mean = self.sums / self.count
        variances = torch.linalg.eigvalsh(self.products / self.count - torch.outer(mean, mean))
        return float(variances[: max(0, len(variances) - kept)].clamp(min=0).sum())


def confusion(targets: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Return the confusion matrix (classes, classes): rows are targets, columns predictions."""
    return torch.bincount(targets * classes + predicted, minlength=classes * classes).view(classes, classes)


def class_scores(counts: Tensor) -> dict[str, list[float]]:
    """Return precision, recall, F1 score and number of examples of each class; a score is 0 where it is undefined."""
    counts = counts.double()
    hits, predicted, targets = counts.diag(), counts.sum(0), counts.sum(1)
    shares = {"precision": hits / predicted, "recall": hits / targets, "f1": 2 * hits / (predicted + targets)}
    scores: dict[str, list[float]] = {name: value.nan_to_num(0.0).tolist() for name, value in shares.items()}
    return {**scores, "examples": targets.long().tolist()}


def macro_f1(counts: Tensor) -> float:
    """Return the unweighted mean F1 score of the classes that occur as targets or predictions."""
    counts = counts.double()
    hits, total = counts.diag(), counts.sum(1) + counts.sum(0)
    return float((2 * hits / total)[total > 0].mean())
