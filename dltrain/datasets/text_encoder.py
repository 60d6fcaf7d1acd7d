"""Texts as tokens, truncated to a maximum length, with begin and end tokens if the vocabulary has them."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import nn

from dltrain.data.loader import Batch
from dltrain.data.ragged import Ragged
from dltrain.data.tokens import Tokens
from dltrain.errors import ConfigError, format_error


@dataclass(frozen=True)
class TextEncoder:
    """Conversion of texts to rows of tokens.

    Args:
        tokens: Vocabulary; its begin and end tokens, if any, are added to every text.
        max_length: Maximum number of tokens of a text, including begin and end tokens; longer texts are truncated.
        origin: Description of the tokens, for messages.
    """

    tokens: Tokens
    max_length: int
    origin: str = "words of the training texts"

    @property
    def room(self) -> int:
        """Maximum number of tokens of a text without begin and end tokens."""
        return self.max_length - sum(token is not None for token in (self.tokens.begin, self.tokens.end))

    def encode(self, text: str) -> list[int]:
        """Return all tokens of a text, without begin and end tokens."""
        assert self.tokens.encode is not None, "vocabularies of texts have a function `encode`"
        return self.tokens.encode(text)

    def rows(self, encoded: Iterable[list[int]]) -> Ragged:
        """Return encoded texts as rows, truncated to the maximum length, with begin and end tokens."""
        begin, end = ([] if token is None else [token] for token in (self.tokens.begin, self.tokens.end))
        rows = [[*begin, *tokens[: self.room], *end] for tokens in encoded]
        values = np.fromiter(chain.from_iterable(rows), dtype=np.int32)
        return Ragged(torch.from_numpy(values), torch.tensor([len(row) for row in rows]), self.tokens.pad or 0)


@dataclass(frozen=True)
class PairEncoder:
    """Conversion of pairs of texts to rows of tokens: begin token, first text, end token, second text, end token.

    Args:
        tokens: Vocabulary, with begin and end tokens.
        max_length: Maximum number of tokens of a pair; a longer pair loses the last tokens of its longer text, or
            of both texts if each is longer than about half of `max_length`.

    Raises:
        ConfigError: The vocabulary has no begin or end token.
    """

    tokens: Tokens
    max_length: int

    def __post_init__(self) -> None:
        if self.tokens.begin is None or self.tokens.end is None:
            expected = "a tokenizer with begin and end tokens, such as [CLS] and [SEP]"
            raise ConfigError(format_error("data.tokenizer", expected, "one without them"))

    def rows(self, texts: Iterable[tuple[str, str]]) -> dict[str, Ragged]:
        """Return ``tokens`` and ``segments``, which are 1 for the second text and the end token after it."""
        encode, begin, end = self.tokens.encode, self.tokens.begin, self.tokens.end
        assert encode is not None and begin is not None and end is not None, "checked by `__post_init__`"
        tokens, segments, lengths = list[int](), list[int](), list[int]()
        for pair in texts:
            first, second = self._cut(encode(pair[0]), encode(pair[1]))
            tokens += [begin, *first, end, *second, end]
            segments += [*[0] * (len(first) + 2), *[1] * (len(second) + 1)]
            lengths.append(len(first) + len(second) + 3)
        pads = {"tokens": (tokens, self.tokens.pad or 0), "segments": (segments, 0)}
        sizes = torch.tensor(lengths, dtype=torch.int64)
        return {name: Ragged(torch.tensor(own, dtype=torch.int32), sizes, pad) for name, (own, pad) in pads.items()}

    def _cut(self, first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
        room = self.max_length - 3
        if len(first) + len(second) <= room:
            return first, second
        shorter = min(len(first), len(second), room // 2)
        first = first[: max(shorter, room - len(second))]
        return first, second[: room - len(first)]


class PrepareTexts(nn.Module):
    """Module that converts tokens of texts to the inputs of a model.

    Shape: tokens (B, T), their lengths (B,), and any other fields -> inputs int64 (B, T), lengths int64 (B,) on the
    CPU, and the other fields.
    """

    def forward(self, rows: Batch) -> Batch:
        """Prepare a batch of padded texts."""
        others = {name: value for name, value in rows.items() if not name.startswith("tokens")}
        return {"inputs": rows["tokens"].long(), "lengths": rows["tokens_lengths"], **others}
