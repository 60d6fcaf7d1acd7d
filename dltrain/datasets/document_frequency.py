"""Inverse document frequency of tokens."""

from collections.abc import Iterable

import torch
from torch import Tensor

from dltrain.data.ragged import Ragged


def inverse_document_frequency(texts: Ragged, size: int, ignored: Iterable[int]) -> Tensor:
    """Return ``ln((1 + n) / (1 + df)) + 1`` for each token, float32 (size,).

    ``df`` of the ``n`` texts contain the token.

    Args:
        texts: Tokens of the training texts.
        size: Vocabulary size.
        ignored: Special tokens, whose value is 0.

    Source: Sparck Jones 1972; smoothed as in scikit-learn's TfidfVectorizer.
    """
    count = len(texts.lengths)
    numbers = torch.arange(count).repeat_interleave(texts.lengths)
    found = (numbers * size + texts.values.long()).unique() % size
    frequency = torch.bincount(found, minlength=size).double()
    idf = ((1 + count) / (1 + frequency)).log() + 1
    idf[list(ignored)] = 0
    return idf.float()
