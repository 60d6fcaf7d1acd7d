"""Documents packed into one sequence but read independently of each other."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def same_document(documents: Tensor) -> Tensor:
    """Return a mask that is true between steps of the same document, bool (B, 1, T, T).

    Args:
        documents: Index of the document of each step, int64 (B, T).
    """
    return (documents[:, :, None] == documents[:, None, :])[:, None]


def first_steps(documents: Tensor) -> Tensor:
    """Return whether each step is the first one of its document in the sequence, bool (B, T)."""
    return F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)


def document_positions(documents: Tensor) -> Tensor:
    """Return the position of each step in its document, from 0 in each document, int64 (B, T)."""
    steps = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    starts = torch.where(first_steps(documents), steps, 0).cummax(dim=1).values
    return steps - starts


def read_each(read: Callable[[Tensor, Tensor], Tensor], x: Tensor, documents: Tensor) -> Tensor:
    """Read each document as a separate sequence, and return the states after each step.

    The shapes of tensors depend on the number of documents, so each call waits for the GPU. On a CPU, where
    `PackedSequence` is slow, documents of similar length are read together, so that less than half of the steps are
    padding.

    Args:
        read: Function from padded sequences (N, steps, features) and their lengths, int64 (N,) on the CPU, to states
            (N, steps, size).
        x: Steps of all documents, (B, T, features).
        documents: Index of the document of each step, int64 (B, T).
    """
    first = first_steps(documents).flatten()
    lengths = torch.bincount(first.cumsum(0) - 1).cpu()
    starts = lengths.cumsum(0) - lengths
    steps, found, order = x.flatten(0, 1), [], []
    for group in _similar(lengths) if x.device.type == "cpu" else [torch.arange(len(lengths))]:
        own = lengths[group]
        inside = torch.arange(int(own.max())) < own[:, None]
        places = (starts[group, None] + torch.arange(inside.shape[1])).clamp(max=len(steps) - 1)
        padded = steps.index_select(0, places.flatten().to(x.device)).view(*places.shape, -1)
        states = read(padded, own)
        kept = inside.flatten().nonzero().flatten().to(x.device)
        found.append(states.flatten(0, 1).index_select(0, kept))
        order.append(places[inside])
    inverse = torch.cat(order).argsort().to(x.device)
    return torch.cat(found).index_select(0, inverse).view(*documents.shape, -1)


def _similar(lengths: Tensor) -> list[Tensor]:
    """Return the non-empty groups of documents with 1, 2, 3 to 4, 5 to 8, 9 to 16 steps and so on."""
    digits = torch.frexp((lengths - 0.5).clamp(min=0.5)).exponent
    return [(digits == number).nonzero().flatten() for number in digits.unique()]
