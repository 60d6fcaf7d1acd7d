"""Fixed ways to hold out examples: no seed takes part, so that every run sees the same split."""

import torch
from torch import Tensor

from dltrain.data.loader import mix


def permutation(count: int) -> Tensor:
    """The numbers from 0 to ``count`` in one fixed mixed order, the same with every version of torch."""
    return mix(torch.arange(count)).argsort()


def share(count: int, fraction: float) -> int:
    """How many of ``count`` examples a fraction means: at least one, unless the fraction is 0."""
    return min(count, max(1, round(count * fraction))) if fraction else 0


def hold_out(count: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Indices that stay and indices that are held out: the last part of the fixed permutation."""
    order = permutation(count)
    cut = count - share(count, fraction)
    return order[:cut], order[cut:]


def hold_out_of_each(labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """As `hold_out`, but each class gives its part, to within one example."""
    order = permutation(len(labels))
    order = order[labels[order].argsort(stable=True)]
    held = share(len(labels), fraction)
    # With the classes one after another, evenly spread places take from each class in proportion to its size.
    steps = torch.arange(len(labels) + 1) * held // max(1, len(labels))
    chosen = steps[1:] > steps[:-1]
    return order[~chosen], order[chosen]
