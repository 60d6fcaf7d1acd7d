"""Texts as tokens, cut to a maximum length, with tokens for begin and end if the vocabulary has them."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import nn

from dltrain.data.loader import Batch
from dltrain.data.ragged import Ragged
from dltrain.data.tokens import Tokens


@dataclass(frozen=True)
class TextEncoder:
    """Conversion of texts to rows of tokens.

    Args:
        tokens: Vocabulary; if it has tokens for begin and end, every text gets them.
        max_length: Maximum number of tokens of a text, begin and end included; the rest is cut off.
        origin: What the tokens are, for messages.
    """

    tokens: Tokens
    max_length: int
    origin: str = "words of the training texts"

    @property
    def room(self) -> int:
        """Maximum number of tokens of a text without begin and end."""
        return self.max_length - sum(token is not None for token in (self.tokens.begin, self.tokens.end))

    def encode(self, text: str) -> list[int]:
        """Return all tokens of a text, without begin and end."""
        assert self.tokens.encode is not None, "vocabularies of texts encode"
        return self.tokens.encode(text)

    def rows(self, encoded: Iterable[list[int]]) -> Ragged:
        """Return encoded texts, cut, with begin and end, as rows."""
        begin, end = ([] if token is None else [token] for token in (self.tokens.begin, self.tokens.end))
        rows = [[*begin, *tokens[: self.room], *end] for tokens in encoded]
        values = np.fromiter(chain.from_iterable(rows), dtype=np.int32)
        return Ragged(torch.from_numpy(values), torch.tensor([len(row) for row in rows]), self.tokens.pad or 0)


class PrepareTexts(nn.Module):
    """Tokens of texts as the inputs of a model.

    Shape: tokens (B, T), their lengths (B,), and any other fields -> inputs (B, T), int64, lengths (B,), int64 on the
    CPU, and the other fields.
    """

    def forward(self, rows: Batch) -> Batch:
        """Prepare a batch of padded texts."""
        others = {name: value for name, value in rows.items() if not name.startswith("tokens")}
        return {"inputs": rows["tokens"].long(), "lengths": rows["tokens_lengths"], **others}
