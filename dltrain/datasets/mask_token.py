"""A mask token, added to the vocabulary of a text."""

from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

import torch

from dltrain.data.tokens import Tokens
from dltrain.datasets.text_tokenizers import Encoded, Tokenizer

MASK = "<mask>"


class WithMask:
    """A tokenizer with one more token, the last one, for hidden tokens: ``<mask>`` in a text that a user provides.

    The mask token occurs in no file to train on: `encode_content` reads ``<mask>`` as its characters.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.mask = tokenizer, tokenizer.size
        self.size = tokenizer.size + 1

    @property
    def spec(self) -> Tokens:
        """The vocabulary as `Tokens`."""
        known = self.tokenizer.spec
        special = (*known.special, self.mask)
        more = replace(known, size=self.size, mask=self.mask, special=special)
        return replace(more, encode=self.encode, decode=self.decode)

    def read(self, path: Path) -> str | bytes:
        """Return the content of a file."""
        return self.tokenizer.read(path)

    def encode_content(self, content: str | bytes) -> Encoded:
        """Return the tokens of the content of a file, without mask tokens."""
        return self.tokenizer.encode_content(content)

    def encode_input(self, content: str | bytes) -> Encoded:
        """Return the tokens of a user's content; mask tokens count for no characters."""
        parts = content.split(MASK) if isinstance(content, str) else content.split(MASK.encode())
        encoded = [self.tokenizer.encode_content(part) for part in parts]
        tokens = torch.tensor(self._join([part.tokens.tolist() for part in encoded]), dtype=torch.int32)
        measured = ([part.sizes for part in encoded], [part.spelling for part in encoded])
        sizes, spelling = (
            None
            if any(each is None for each in measures)
            else torch.tensor(self._join([each.tolist() for each in measures if each is not None], 0))
            for measures in measured
        )
        assert spelling is not None
        return Encoded(tokens, sizes, spelling)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return self._join([self.tokenizer.encode(part) for part in text.split(MASK)])

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        groups = groupby(tokens, key=lambda token: token == self.mask)
        return "".join(
            MASK * len(list(group)) if masks else self.tokenizer.decode(list(group)) for masks, group in groups
        )

    def _join(self, parts: list[list[int]], between: int | None = None) -> list[int]:
        """Return the parts with the mask token, or another number, between them."""
        middle = self.mask if between is None else between
        return [*parts[0], *(token for _, part in pairwise(parts) for token in (middle, *part))]


def encode_input(tokenizer: Tokenizer, content: str | bytes) -> Encoded:
    """Return the tokens of a user's content, in which ``<mask>`` may be a token."""
    return tokenizer.encode_input(content) if isinstance(tokenizer, WithMask) else tokenizer.encode_content(content)
