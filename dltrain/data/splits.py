"""Hold out examples independently of the seed, so that every run sees the same splits."""

import torch
from torch import Tensor

from dltrain.keyed_random import mix


def permutation(count: int) -> Tensor:
    """Return a fixed permutation of 0 to ``count - 1``, the same in every version of torch."""
    return mix(torch.arange(count)).argsort()


def held_out_size(count: int, fraction: float) -> int:
    """Return ``count * fraction``, rounded: at least 1, unless ``count`` or ``fraction`` is 0."""
    return min(count, max(1, round(count * fraction))) if fraction else 0


def hold_out(count: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Return the indices to keep and the indices to hold out: the first and last part of the fixed permutation."""
    order = permutation(count)
    cut = count - held_out_size(count, fraction)
    return order[:cut], order[cut:]


def hold_out_stratified(labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Return indices like `hold_out`, with the same fraction of each class held out, to within one example."""
    order = permutation(len(labels))
    order = order[labels[order].argsort(stable=True)]
    held = held_out_size(len(labels), fraction)
    # The order is sorted by class, so evenly spaced positions select from each class in proportion to its size.
    steps = torch.arange(len(labels) + 1) * held // max(1, len(labels))
    chosen = steps[1:] > steps[:-1]
    return order[~chosen], order[chosen]
