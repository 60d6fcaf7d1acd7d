"""Documents that are packed into one sequence, and are read as if each were alone."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def same_document(documents: Tensor) -> Tensor:
    """Return a mask that separates documents in one sequence, bool (B, 1, T, T).

    Args:
        documents: Number of the document of each step, int64 (B, T).
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
    """Return the states after each step, where each document is read as a sequence of its own.

    The number of documents determines the shape of the tensors, so a GPU waits for the CPU once per call.

    Args:
        read: Function of padded sequences (N, width, features) and their lengths, int64 (N,) on the CPU, that returns
            their states (N, width, size).
        x: Steps of all documents, (B, T, features).
        documents: Number of the document of each step, int64 (B, T).
    """
    numbers = first_steps(documents).flatten().cumsum(0) - 1
    lengths = torch.bincount(numbers).cpu()
    width = int(lengths.max())
    places = numbers * width + document_positions(documents).flatten()
    steps = x.flatten(0, 1)
    padded = steps.new_zeros(len(lengths) * width, steps.shape[-1]).index_copy(0, places, steps)
    states = read(padded.view(len(lengths), width, -1), lengths)
    return states.flatten(0, 1).index_select(0, places).view(*documents.shape, -1)
