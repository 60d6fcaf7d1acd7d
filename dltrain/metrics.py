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


def confusion(targets: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Counts (classes, classes): rows are the truth, columns what was predicted."""
    return torch.bincount(targets * classes + predicted, minlength=classes * classes).view(classes, classes)


def macro_f1(counts: Tensor) -> float:
    """Unweighted mean over the classes of the harmonic mean of precision and recall; classes never seen count not."""
    counts = counts.double()
    hits, truth, said = counts.diag(), counts.sum(1), counts.sum(0)
    present = truth + said > 0
    return float((2 * hits[present] / (truth + said)[present]).mean())
