"""A mask token, added to the vocabulary of a text."""

from itertools import groupby, pairwise
from pathlib import Path
from typing import Protocol

from torch import Tensor

MASK = "<mask>"


class Tokenizer(Protocol):
    """Conversion between text and tokens."""

    size: int

    def encode_file(self, path: Path) -> Tensor:
        """Return the tokens of a file."""

    def encode_bytes(self, content: bytes) -> list[int]:
        """Return the tokens of the content of a file."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens."""


class WithMask:
    """A tokenizer with one more token, the last one, for hidden tokens: ``<mask>`` in a text that a user provides.

    The mask token occurs in no file to train on: `encode_file` reads ``<mask>`` as its characters.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.mask = tokenizer, tokenizer.size
        self.size = tokenizer.size + 1

    def encode_file(self, path: Path) -> Tensor:
        """Return the tokens of a file."""
        return self.tokenizer.encode_file(path)

    def encode_bytes(self, content: bytes) -> list[int]:
        """Return the tokens of the content of a file."""
        return self._join([self.tokenizer.encode_bytes(part) for part in content.split(MASK.encode())])

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return self._join([self.tokenizer.encode(part) for part in text.split(MASK)])

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        groups = groupby(tokens, key=lambda token: token == self.mask)
        return "".join(
            MASK * len(list(group)) if masks else self.tokenizer.decode(list(group)) for masks, group in groups
        )

    def _join(self, parts: list[list[int]]) -> list[int]:
        return [*parts[0], *(token for _, part in pairwise(parts) for token in (self.mask, *part))]
